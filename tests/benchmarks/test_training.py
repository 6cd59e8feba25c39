"""The operations of a training step against the formula for tiles, and workers that do steps."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from unidino_fast.benchmarks.flops import VitSize, tile_flops
from unidino_fast.benchmarks.training import Workers, bench_config, step_flops, write_noise

if TYPE_CHECKING:
    from pathlib import Path


def test_operations_of_a_step(tmp_path: Path) -> None:
    """Student: forward, and backward by inputs and weights; teacher: forward of global views."""
    write_noise(tmp_path)
    config = bench_config(tmp_path, 2, dim=64, depth=2)
    dim, dino = 64, config.dino
    views = {"global": (2, 14**2 + 1), "local": (8, 6**2 + 1)}
    of_view = {
        name: tile_flops(VitSize(dim, 2, 1, tokens, 4 * dim, 256), class_token_only=False)
        for name, (_, tokens) in views.items()
    }
    # the patch embedding needs no gradient of its input
    patches = {name: 2 * (tokens - 1) * 256 * dim for name, (_, tokens) in views.items()}
    head = 2 * (
        dim * dino.hidden_dim
        + dino.hidden_dim**2
        + dino.hidden_dim * dino.bottleneck_dim
        + dino.bottleneck_dim * dino.out_dim
    )
    student = sum(
        count * (3 * (of_view[name] + head) - patches[name]) for name, (count, _) in views.items()
    )
    teacher = 2 * (of_view["global"] + head)
    # the frozen last layer has a gradient all the same
    found = step_flops(config, tmp_path / "out")
    assert found == pytest.approx(2 * (student + teacher), rel=1e-3)


@pytest.mark.slow
def test_workers_step_when_they_are_told(tmp_path: Path) -> None:
    """One here: the benchmark itself runs two, which take a while to start."""
    write_noise(tmp_path)
    config = bench_config(tmp_path, 2, dim=64, depth=1)
    workers = Workers(config, tmp_path / "out", [[min(os.sched_getaffinity(0))]])
    before = workers.cpu_seconds
    workers.step()
    assert workers.cpu_seconds > before
    workers.close()
