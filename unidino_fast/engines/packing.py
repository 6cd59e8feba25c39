"""Packs tiles of any origin into batches of one fixed shape.

A matrix product may round differently when its shape changes. So every batch has the same shape,
the last one padded with zeros, and a tile's embedding has the same bits whatever stands beside it:
for any grouping of fields and wells, resumed or not. Letters: N tiles, T tokens, P patch edge, D
features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor


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

    Args:
        run: embeds one batch (`size`, T, P * P) -> (`size`, D) float32 on the CPU.
        size: tiles a batch.
        n_tokens: T, patches of a tile.
        patch: P.
        dim: D.
        device: where `run` wants its batch.
    """

    def __init__(
        self,
        run: Callable[[Tensor], NDArray[np.float32]],
        *,
        size: int,
        n_tokens: int,
        patch: int,
        dim: int,
        device: torch.device,
    ) -> None:
        self._run = run
        self._dim = dim
        self.patch = patch
        self.device = device
        self._batch = torch.zeros((size, n_tokens, patch**2), device=device)
        self._used = 0
        self._places: list[tuple[Ticket, int, int]] = []  # ticket, start in it, tiles

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
        """Runs what is left, padded; all tickets are done afterwards."""
        if self._used:
            self._batch[self._used :] = 0
            self._run_batch()

    def _run_batch(self) -> None:
        features = self._run(self._batch)
        position = 0
        for ticket, start, count in self._places:
            ticket.fill(start, features[position : position + count])
            position += count
        self._used = 0
        self._places = []
