"""The measuring itself, on candidates that take as long as a clock of ours says."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from unidino_fast.benchmarks.measure import (
    Candidate,
    Effort,
    HostWatch,
    Samples,
    measure,
    paired,
    stopwatch,
    turns,
)

if TYPE_CHECKING:
    from collections.abc import Callable


class World:
    """A machine with a clock of its own, that gets slower with time."""

    def __init__(self, drift: float = 0.0) -> None:
        self.time = 0.0
        self.drift = drift
        self.calls: list[str] = []

    def candidate(self, name: str, seconds: float, work: float = 1.0) -> Candidate:
        def run() -> None:
            self.calls.append(name)
            self.time += seconds * (1 + self.drift * self.time)

        return Candidate(name, run, work)

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds

    def seconds(self, run: Callable[[], object], calls: int) -> float:
        start = self.time
        for _ in range(calls):
            run()
        return self.time - start

    def measure(self, candidates: list[Candidate], effort: Effort) -> dict[str, Samples]:
        return measure(candidates, self, effort, now=self.now, sleep=self.sleep)


def test_rates_are_work_over_time() -> None:
    world = World()
    candidates = [world.candidate("slow", 2.0, work=8), world.candidate("fast", 0.5, work=8)]
    found = world.measure(candidates, Effort((5, 5), 0.0, 0.0, 0.0))
    assert list(found) == ["slow", "fast"]
    assert found["slow"].seconds == pytest.approx([2.0] * 5)
    assert found["slow"].rate(0.5) == pytest.approx(4)
    assert paired(found["fast"], found["slow"]) == pytest.approx(4)
    assert found["fast"].spread() == pytest.approx(0)


def test_quantiles_are_those_of_the_rate() -> None:
    seconds = (1.0, 2.0, 4.0, 5.0, 8.0)
    samples = Samples(10.0, seconds)
    for quantile in (0.1, 0.5, 0.9):
        rates = [10 / second for second in seconds]
        assert samples.rate(quantile) == pytest.approx(np.quantile(rates, quantile))
    assert samples.rate(0.1) < samples.rate(0.5) < samples.rate(0.9)


def test_ratios_are_taken_within_rounds() -> None:
    """A machine that halves its speed halfway leaves the ratio as it is."""
    slow, fast = Samples(1.0, (2.0, 2.0, 4.0, 4.0)), Samples(3.0, (1.0, 1.0, 2.0, 2.0))
    for quantile in (0.1, 0.5, 0.9):
        assert paired(fast, slow, quantile) == pytest.approx(6)
    assert slow.spread() > 0.5


def test_drift_does_not_reach_the_ratio() -> None:
    world = World(drift=0.005)
    candidates = [world.candidate(name, 1.0) for name in "abcd"]
    found = world.measure(candidates, Effort((40, 40), 0.0, 0.0, 0.0))
    assert found["a"].seconds[-1] > 1.5 * found["a"].seconds[0]
    for name in "bcd":
        assert paired(found[name], found["a"]) == pytest.approx(1, abs=0.01)


def test_every_candidate_takes_every_place_and_follows_several_others() -> None:
    candidates = [Candidate(name, lambda: None, 1.0) for name in "abcde"]
    rounds = [[c.name for c in turns(candidates, index)] for index in range(10)]
    assert all(sorted(names) == list("abcde") for names in rounds)
    for place in range(5):
        assert set(Counter(names[place] for names in rounds).values()) == {2}
    for name in "abcde":
        before = {one for names in rounds for one, other in pairwise(names) if other == name}
        assert len(before) == 2


def test_short_calls_are_repeated_and_all_are_warmed_up() -> None:
    world = World()
    candidates = [world.candidate("a", 0.004), world.candidate("b", 1.0)]
    found = world.measure(candidates, Effort((3, 3), 0.0, sample_seconds=0.1, settle_seconds=0.0))
    assert Counter(world.calls) == {"a": 2 + 3 * 25, "b": 2 + 3}
    assert world.calls[:4] == ["a", "a", "b", "b"]
    assert found["a"].seconds == pytest.approx([0.004] * 3)


@pytest.mark.parametrize(("seconds", "rounds"), [(0.0, 3), (10.0, 5), (1e9, 8)])
def test_rounds_end_with_the_time_but_not_before_the_least(seconds: float, rounds: int) -> None:
    world = World()
    candidates = [world.candidate(name, 1.0) for name in "ab"]
    found = world.measure(candidates, Effort((3, 8), seconds, 0.0, 0.0))
    assert {len(samples.seconds) for samples in found.values()} == {rounds}


def test_pauses_are_not_timed() -> None:
    world = World()
    found = world.measure([world.candidate("a", 1.0)], Effort((2, 2), 0.0, 0.0, 0.5))
    assert found["a"].seconds == pytest.approx([1.0, 1.0])
    assert world.time == pytest.approx(2 + 2 * 1.5)


def test_names_must_differ() -> None:
    world = World()
    with pytest.raises(ValueError, match="share a name: a, a"):
        world.measure([world.candidate("a", 1.0)] * 2, Effort((1, 1), 0.0, 0.0, 0.0))


def test_host_watch_counts_calls() -> None:
    calls: list[int] = []
    watch = stopwatch(torch.device("cpu"))
    assert isinstance(watch, HostWatch)
    assert watch.seconds(lambda: calls.append(1), 7) > 0
    assert len(calls) == 7


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_watch_waits_for_the_device() -> None:
    device = torch.device("cuda")
    one = torch.randn(4096, 4096, device=device)
    watch = stopwatch(device)
    watch.seconds(lambda: one @ one, 1)
    # 8 products of 137 GFLOP; no device does 1e17 operations a second, but queueing looks like it
    assert watch.seconds(lambda: one @ one, 8) > 8 * 2 * 4096**3 / 1e17
