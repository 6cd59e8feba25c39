"""Samples: equal weights, and the same whoever reads them."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
import torch

from unidino_fast.errors import TrainingError
from unidino_fast.training.augment import dino_views
from unidino_fast.training.data import (
    Batch,
    Mixture,
    ViewDataset,
    micro_batches,
    one_line_for_killed_workers,
    open_batches,
)
from unidino_fast.training.processes import Processes
from unidino_fast.training.schedules import Clock
from unidino_fast.training.sources import open_source

if TYPE_CHECKING:
    from pathlib import Path

ALONE = Processes(torch.device("cpu"))


def dataset_of(config: Any) -> ViewDataset:
    size = config.views.global_size
    sources = [open_source(one, smallest=size, cache_bytes=10**6) for one in config.data]
    return ViewDataset(sources, dino_views(config.views), config)


def read(config: Any, first_step: int = 0) -> list[Batch]:
    clock = Clock(steps_per_epoch=2, epochs=2)
    return list(open_batches(dataset_of(config), config, clock, ALONE, first_step))


def equal(one: Batch, other: Batch) -> bool:
    return all(
        torch.equal(a, b)
        for a, b in zip(
            [*one.crops, *one.flips, *one.colours, one.low, one.span, one.dataset],
            [*other.crops, *other.flips, *other.colours, other.low, other.span, other.dataset],
            strict=True,
        )
    )


@pytest.mark.parametrize("sizes", [(5,), (5, 9), (1, 7, 3)])
def test_every_dataset_weighs_the_same(sizes: tuple[int, ...]) -> None:
    mixture = Mixture(sizes, seed=4)
    assert mixture.epoch_length == max(sizes) * len(sizes)
    for epoch in (0, 1):
        picked = [mixture.pick(epoch, index) for index in range(mixture.epoch_length)]
        for dataset, size in enumerate(sizes):
            planes = [plane for which, plane in picked if which == dataset]
            assert len(planes) == max(sizes)
            counts = Counter(planes)
            assert set(counts) == set(range(size))  # all of them
            assert max(counts.values()) - min(counts.values()) <= 1  # none twice before all once
        for start in range(0, len(picked) - len(sizes), len(sizes)):
            batch = [which for which, _ in picked[start : start + len(sizes)]]
            assert sorted(batch) == list(range(len(sizes)))


def test_a_dataset_of_weight_three_has_three_turns_for_one_spread_over_the_pattern() -> None:
    sizes, weights = (7, 2, 10), (3, 1, 2)
    mixture = Mixture(sizes, 5, weights)
    assert mixture.epoch_length == 5 * 6  # 10 planes in twos
    picked = [mixture.pick(0, index) for index in range(mixture.epoch_length)]
    for start in range(0, len(picked), 6):
        turns = [which for which, _ in picked[start : start + 6]]
        assert sorted(turns) == [0, 0, 0, 1, 2, 2]
        assert turns[1:3] != [0, 0]
    for dataset, (size, weight) in enumerate(zip(sizes, weights, strict=True)):
        counts = Counter(plane for which, plane in picked if which == dataset)
        assert counts.total() == 5 * weight
        assert set(counts) == set(range(size))
        assert max(counts.values()) - min(counts.values()) <= 1


def test_orders_are_random_and_depend_on_nothing_but_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[tuple[int, int]]:
        mixture = Mixture((30, 30), seed)
        return [mixture.pick(epoch, index) for index in range(60)]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    mixture = Mixture((30, 30), 0)
    backwards = [mixture.pick(epoch, index) for index in reversed(range(60)) for epoch in (1, 0)]
    assert backwards[1::2][::-1] == order(0, 0)


@pytest.mark.parametrize(("accumulate", "count"), [(1, 1), (2, 1), (1, 3), (2, 3)])
def test_parts_and_processes_share_the_same_batches(accumulate: int, count: int) -> None:
    clock = Clock(steps_per_epoch=2, epochs=2)
    shares = [
        list(micro_batches(1, clock, batch=12, accumulate=accumulate, rank=rank, count=count))
        for rank in range(count)
    ]
    for number, (epoch, start) in enumerate([(0, 12), (1, 0), (1, 12)]):
        parts = [share[number * accumulate : (number + 1) * accumulate] for share in shares]
        keys = [key for process in parts for part in process for key in part]
        assert sorted(keys) == [(epoch, start + i) for i in range(12)]
    assert all(len(share) == 3 * accumulate for share in shares)


def test_a_run_may_begin_in_the_middle(make_config: Any) -> None:
    whole, rest = read(make_config()), read(make_config(), first_step=3)
    assert len(whole) == 4
    assert len(rest) == 1
    assert equal(whole[3], rest[0])
    assert not equal(whole[0], whole[3])


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers: int, make_config: Any) -> None:
    alone = read(make_config())
    others = read(make_config(machine__workers=workers))
    assert len(alone) == len(others) == 4
    assert all(equal(a, b) for a, b in zip(alone, others, strict=True))


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_an_image_that_breaks_later_is_one_line(
    workers: int, make_config: Any, tmp_path: Path
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.ones((40, 40), np.uint8))
    source = {"name": "d", "path": str(tmp_path)}
    config = make_config(data=[source], machine__workers=workers)
    dataset = dataset_of(config)
    (tmp_path / "a.tif").write_bytes(b"gone")
    batches = open_batches(dataset, config, Clock(1, 1), ALONE, 0)
    with pytest.raises(TrainingError, match=r"^dataset d: .*a\.tif cannot be read as an image.*$"):
        next(batches)


@pytest.mark.slow
def test_a_killed_worker_is_one_line(make_config: Any) -> None:
    config = make_config(machine__workers=1)
    others = set(multiprocessing.active_children())
    batches = open_batches(dataset_of(config), config, Clock(500, 1), ALONE, 0)
    next(batches)
    [worker] = set(multiprocessing.active_children()) - others

    @one_line_for_killed_workers()
    def go_on() -> None:
        worker.kill()
        worker.join()
        list(batches)

    with pytest.raises(TrainingError, match="a process that reads images was ended from outside"):
        go_on()


def test_batches_hold_what_was_drawn(make_config: Any) -> None:
    """Views are cut where the sample says, in the stored dtype; datasets keep their ranges."""
    config = make_config()
    dataset = dataset_of(config)
    batch = read(config)[0]
    assert batch.crops[0].dtype == torch.uint16
    assert [tuple(crops.shape) for crops in batch.crops] == [(6, 2, 32, 32), (6, 2, 16, 16)]
    assert batch.dataset.tolist() == [0, 1, 0, 1, 0, 1]
    assert batch.span.tolist() == [255.0, 65535.0] * 3
    for index in range(6):
        sample = dataset[0, index]
        assert torch.equal(batch.crops[1][index], torch.from_numpy(sample.crops[1].astype("u2")))
    views = batch.views()
    assert [tuple(v.shape) for v in views] == [(2, 6, 32, 32), (2, 6, 16, 16)]
    assert all(float(v.min()) >= 0 and float(v.max()) <= 1 for v in views)
