"""Runs a network in calls of one fixed size, on the CPU each on one core.

A matrix product may round differently when its shape changes, or when more threads share it. So an
engine's network sees one number of tiles for ever, whatever the size of the batches that it is
handed; and on the CPU a core takes steps of its own instead of a share of each product, which also
keeps what one layer leaves in that core's cache and lets no core wait for another within a layer.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


def in_steps(run: Callable[[Tensor], Tensor], patches: Tensor, step: int, dim: int) -> Tensor:
    """Embeds a batch, `step` tiles at a time.

    Args:
        run: patches (`step`, tokens, P * P) -> (`step`, D); on the CPU called from several threads.
        patches: (N, tokens, P * P); N is a multiple of `step` where the last bit matters.
        step: tiles a call.
        dim: D.

    Returns:
        (N, D) float32, copied out of what `run` gives: a CUDA graph reuses its output.
    """
    features = torch.empty(len(patches), dim, device=patches.device)

    def one(start: int) -> None:
        features[start : start + step] = run(patches[start : start + step])

    starts = range(0, len(patches), step)
    if patches.device.type == "cpu":
        on_cores(one, starts)
    else:
        for start in starts:
            one(start)
    return features


def on_cores(run: Callable[[int], None], items: range) -> None:
    """Calls `run` with each item, on as many threads as torch has here, each of one core."""
    n_cores = torch.get_num_threads()
    if n_cores == 1:
        for item in items:
            run(item)
    else:
        for _ in _cores(n_cores).map(run, items):
            pass


@cache
def _cores(n_cores: int) -> ThreadPoolExecutor:
    """Threads in which torch does not start others."""
    started = threading.Barrier(n_cores + 1)
    pool = ThreadPoolExecutor(n_cores, "core")

    def start() -> None:
        torch.get_num_threads()  # a thread's first look at the number would overwrite it later
        torch.set_num_threads(1)
        started.wait()

    for _ in range(n_cores):
        pool.submit(start)
    started.wait()
    torch.set_num_threads(n_cores)  # what threads that start later begin with
    return pool
