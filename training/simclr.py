"""SimCLR (Chen et al. 2020) as a method of the loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from unidino_fast.training.contrastive import Contrastive, numbered

if TYPE_CHECKING:
    from torch import Tensor

    from unidino_fast.training.config import TrainConfig
    from unidino_fast.training.data import Batch
    from unidino_fast.training.processes import Processes
    from unidino_fast.training.schedules import Clock


class Simclr(Contrastive):
    """Two views of an image are each other's positive; all other views of the batch are negatives.

    Args:
        config: of the run.
        clock: of the run.
        processes: of the run.
    """

    def __init__(self, config: TrainConfig, clock: Clock, processes: Processes) -> None:
        super().__init__(config, config.simclr, processes)

    def pairs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Contrastive`."""
        n_views = self.groups[0].count
        own, every = numbered(batch, n_views, self._processes)
        row = torch.arange(len(own), device=own.device) + self._processes.rank * len(own)
        met = row[:, None] != torch.arange(len(every), device=own.device)
        return (own[:, None] == every) & met, met
