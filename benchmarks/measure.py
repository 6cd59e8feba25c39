"""Alternating measurement: all candidates in one process, in turns, so that all meet one noise.

A candidate measured in one go meets another machine than the next one does: clocks, heat and
neighbours drift within seconds. Here each round takes one sample of every candidate, and ratios are
taken within a round before they are averaged.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to do a job.

    Attributes:
        name: unique among the candidates of a measurement.
        run: does the job once; what it returns is dropped.
        work: what one call does, in units (tiles, bytes, operations).
    """

    name: str
    run: Callable[[], object]
    work: float


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure.

    Attributes:
        rounds: least and most samples of each candidate; quantiles need the least.
        seconds: no further round begins after this time, once the least are taken.
        sample_seconds: calls are repeated until a sample is about this long.
        settle_seconds: pause before a sample: idle worker threads of the candidate before spin for
            a while and would take a core from this one.
        warm_calls: of each candidate, before the first round; 0 where its caller has warmed it up.
    """

    rounds: tuple[int, int]
    seconds: float
    sample_seconds: float
    settle_seconds: float
    warm_calls: int = 2


@dataclass(frozen=True, slots=True)
class Samples:
    """What was measured of one candidate; one value a round, so that candidates can be paired."""

    work: float
    seconds: tuple[float, ...]

    def rate(self, quantile: float) -> float:
        """A quantile of the work done in a second."""
        return float(np.quantile(self.work / np.array(self.seconds), quantile))

    def spread(self) -> float:
        """Distance from the 10 to the 90 % quantile, as a share of the median."""
        return (self.rate(0.9) - self.rate(0.1)) / self.rate(0.5)


def paired(one: Samples, other: Samples, quantile: float = 0.5) -> float:
    """A quantile, over rounds, of how many times faster `one` does its units than `other`."""
    quotients = np.array(other.seconds) / np.array(one.seconds)
    return float(np.quantile(quotients, quantile)) * one.work / other.work


class Stopwatch(Protocol):
    """Times calls on one device."""

    def seconds(self, run: Callable[[], object], calls: int) -> float:
        """Seconds that so many calls take together, from an idle device to an idle device."""
        ...


class HostWatch:
    """For work that is done when the call returns."""

    def seconds(self, run: Callable[[], object], calls: int) -> float:
        """See `Stopwatch`."""
        start = time.perf_counter()
        for _ in range(calls):
            run()
        return time.perf_counter() - start


class CudaWatch:
    """For work that is queued on the current CUDA stream."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def seconds(self, run: Callable[[], object], calls: int) -> float:
        """See `Stopwatch`."""
        with torch.cuda.device(self._device):
            event: Any = torch.cuda.Event
            start, end = event(enable_timing=True), event(enable_timing=True)
            torch.cuda.synchronize()
            start.record()
            for _ in range(calls):
                run()
            end.record()
            torch.cuda.synchronize()
            return float(start.elapsed_time(end)) / 1e3


def stopwatch(device: torch.device) -> Stopwatch:
    """The stopwatch of a device."""
    return CudaWatch(device) if device.type == "cuda" else HostWatch()


def measure(
    candidates: Sequence[Candidate],
    watch: Stopwatch,
    effort: Effort,
    *,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Samples]:
    """Measures candidates in turns.

    All are warmed up first. The order is another one in each round: the first steps back by one,
    and every second round runs backwards, so that no candidate always follows the same other.

    Args:
        candidates: with different names.
        watch: of the device that they run on.
        effort: how long to measure.
        now: clock that `effort.seconds` is held against.
        sleep: pauses for so many seconds.

    Returns:
        Samples by name, equally many of each, in the order of the candidates.

    Raises:
        ValueError: two candidates have one name.
    """
    taken: dict[str, list[float]] = {candidate.name: [] for candidate in candidates}
    if len(taken) < len(candidates):
        raise ValueError(f"candidates share a name: {', '.join(c.name for c in candidates)}")
    calls = {c.name: _calls_a_sample(c, watch, effort) for c in candidates}
    least, most = effort.rounds
    began = now()
    for index in range(most):
        if index >= least and now() - began >= effort.seconds:
            break
        for candidate in turns(candidates, index):
            sleep(effort.settle_seconds)
            n = calls[candidate.name]
            taken[candidate.name].append(watch.seconds(candidate.run, n) / n)
    return {c.name: Samples(c.work, tuple(taken[c.name])) for c in candidates}


def turns(candidates: Sequence[Candidate], index: int) -> list[Candidate]:
    """The order of round `index`."""
    shift = index % len(candidates) if candidates else 0
    order = [*candidates[shift:], *candidates[:shift]]
    return order[::-1] if index % 2 else order


def _calls_a_sample(candidate: Candidate, watch: Stopwatch, effort: Effort) -> int:
    """Warms a candidate up; says how many calls fill a sample."""
    seconds = math.inf
    for _ in range(effort.warm_calls):
        seconds = min(seconds, watch.seconds(candidate.run, 1))
    return max(1, math.ceil(effort.sample_seconds / max(seconds, 1e-9)))
