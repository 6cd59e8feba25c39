"""Packs tiles of any origin into batches.

Batches run across fields and wells, so that the device always has a full one. Each consists of
whole steps of the engine, the last one padded with zeros: an engine's network sees one shape alone,
and a tile's embedding has the same bits whatever stands beside it. Letters: N tiles, T tokens, P
patch edge, D features.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    _Place = tuple["Ticket", int, int]  # where features go: ticket, start in it, tiles


class Ticket:
    """Tiles that were handed in, and their features as they come.

    Attributes:
        features: (N, D) float32, complete when `done`.
    """

    def __init__(self, n_tiles: int, dim: int) -> None:
        self.features: NDArray[np.float32] = np.empty((n_tiles, dim), np.float32)
        self._missing = n_tiles

    @property
    def done(self) -> bool:
        """Whether all features are there."""
        return self._missing == 0

    def fill(self, start: int, features: NDArray[np.float32]) -> None:
        """Takes the features of some of the tiles."""
        self.features[start : start + len(features)] = features
        self._missing -= len(features)


class TilePacker:
    """Collects patches until a batch is full, runs it, and hands the features out.

    On CUDA a batch is left to run while the next one is collected.

    Args:
        run: embeds a batch of whole steps (N, T, P * P) -> (N, D) float32 on the same device.
        check: takes the features that are handed out; raises where they cannot be.
        size: tiles a batch; rounded up to whole steps.
        step: tiles a step.
        n_tokens: T, patches of a tile.
        patch: P.
        dim: D.
        device: where `run` wants its batch.
        dtype: of the patches.
    """

    def __init__(
        self,
        run: Callable[[Tensor], Tensor],
        *,
        check: Callable[[NDArray[np.float32]], None],
        size: int,
        step: int,
        n_tokens: int,
        patch: int,
        dim: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._run = run
        self._check = check
        self._dim = dim
        self._step = step
        self.patch = patch
        self.device = device
        self.dtype = dtype
        size = -(-size // step) * step
        self._batch = torch.zeros((size, n_tokens, patch**2), device=device, dtype=dtype)
        self._used = 0
        self._places: list[_Place] = []
        self._running: deque[tuple[Tensor, list[_Place]]] = deque()
        self._most_running = 1 if device.type == "cuda" else 0

    def add(self, patches: Tensor) -> Ticket:
        """Hands in patches (N, T, P * P); runs every batch that this fills."""
        ticket = Ticket(len(patches), self._dim)
        start = 0
        while start < len(patches):
            count = min(len(patches) - start, len(self._batch) - self._used)
            self._batch[self._used : self._used + count] = patches[start : start + count]
            self._places.append((ticket, start, count))
            self._used += count
            start += count
            if self._used == len(self._batch):
                self._run_batch()
        return ticket

    def flush(self) -> None:
        """Runs what is left, padded to whole steps; all tickets are done afterwards."""
        if self._used:
            self._run_batch()
        while self._running:
            self._hand_out()

    def _run_batch(self) -> None:
        end = -(-self._used // self._step) * self._step
        self._batch[self._used : end] = 0
        self._running.append((self._run(self._batch[:end]), self._places))
        self._used = 0
        self._places = []
        while len(self._running) > self._most_running:
            self._hand_out()

    def _hand_out(self) -> None:
        """Waits for the oldest batch and fills its tickets."""
        found, places = self._running.popleft()
        features = found.cpu().numpy()
        position = 0
        for ticket, start, count in places:
            self._check(features[position : position + count])
            ticket.fill(start, features[position : position + count])
            position += count
