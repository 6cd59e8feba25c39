"""SimCLR (Chen et al. 2020) as a method of the loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from unidino_fast.training.contrastive import Contrastive

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
        n_views, n_images = self.groups[0].count, len(batch.dataset)
        count, rank = self._processes.count, self._processes.rank
        columns = torch.arange(count * n_views * n_images, device=batch.dataset.device)
        # the image that each embedding is of: columns are (R, V, B)
        images = columns // (n_views * n_images) * n_images + columns % n_images
        rows = columns.reshape(count, -1)[rank]
        met = rows[:, None] != columns  # all but itself
        return (images[rows][:, None] == images) & met, met
