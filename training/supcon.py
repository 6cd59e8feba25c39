"""Weakly supervised contrastive learning: images of one perturbation in different wells are alike.

The loss is that of supervised contrastive learning (Khosla et al. 2020). Labels say what was done
to a well, not what is seen in it: positives come from other wells or plates, so that what images of
one well share (its place, its plate's staining) does not help.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from unidino_fast.training.contrastive import Contrastive
from unidino_fast.training.gathering import gathered

if TYPE_CHECKING:
    from torch import Tensor

    from unidino_fast.training.config import TrainConfig
    from unidino_fast.training.data import Batch
    from unidino_fast.training.processes import Processes
    from unidino_fast.training.schedules import Clock


class Supcon(Contrastive):
    """Positives have the perturbation and the channel of an image, and another well or plate.

    Images of other perturbations are its negatives. All others (its own well, its perturbation in
    another channel) are not met.

    Args:
        config: of the run.
        clock: of the run.
        processes: of the run.
    """

    def __init__(self, config: TrainConfig, clock: Clock, processes: Processes) -> None:
        super().__init__(config, config.supcon, processes)
        self._across_plates = config.supcon.positives == "other-plate"

    def pairs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Contrastive`."""
        n_views = self.groups[0].count
        identity = batch.identity.repeat(n_views, 1)  # (N, 4), views first
        every = gathered(identity, self._processes).flatten(0, 1)
        label, channel, plate, well = (
            identity[:, None, i] == every[None, :, i] for i in range(identity.shape[1])
        )
        elsewhere = ~(plate if self._across_plates else well)
        positive = label & channel & elsewhere
        return positive, positive | ~label
