"""What contrastive methods share: a backbone with a small head, and one loss over a whole batch.

V views, B images of this process, R processes, E numbers of an embedding; N = V * B embeddings of
this process, M = R * N of all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from unidino_fast.training.augment import ViewGroup
from unidino_fast.training.gathering import gathered
from unidino_fast.training.head import ContrastiveHead
from unidino_fast.training.method import Outcome
from unidino_fast.training.networks import Projected, new_student, vit_shape

if TYPE_CHECKING:
    from unidino_fast.training.config import TrainConfig
    from unidino_fast.training.data import Batch
    from unidino_fast.training.processes import Processes
    from unidino_fast.training.sections import SimclrConfig, SupconConfig


def contrastive_losses(
    cosines: Tensor, positive: Tensor, met: Tensor, temperature: float
) -> Tensor:
    """Mean over an embedding's positives of the cross-entropy of telling one from all it meets.

    With one positive it is NT-Xent (Chen et al. 2020), with several the outer sum of supervised
    contrastive learning (Khosla et al. 2020). An embedding without a positive has a loss of NaN.

    Args:
        cosines: (N, M) of embeddings of unit length.
        positive: (N, M) bool.
        met: (N, M) bool, positives and negatives.
        temperature: of the cosines.

    Returns:
        (N,) losses.
    """
    logits = cosines / temperature
    total = logits.masked_fill(~met, -torch.inf).logsumexp(1)
    wanted = logits.masked_fill(~positive, 0.0).sum(1) / positive.sum(1)
    return total - wanted


class Contrastive(ABC):
    """A backbone whose embeddings are to be alike for positives, and unlike for all others met.

    Args:
        config: of the run.
        settings: of the method.
        processes: of the run; embeddings of all of them meet.
    """

    def __init__(
        self,
        config: TrainConfig,
        settings: SimclrConfig | SupconConfig,
        processes: Processes,
    ) -> None:
        self.groups: tuple[ViewGroup, ...] = (ViewGroup(2, config.views.global_size),)
        self._temperature = settings.temperature
        self._processes = processes
        backbone = new_student(vit_shape(config), config.model.drop_path)
        head = ContrastiveHead(config.model.dim, settings.hidden_dim, settings.out_dim)
        self._backbone = backbone
        self.trained: nn.Module = Projected(backbone, head).to(processes.device)
        self.networks: tuple[nn.Module, ...] = (self.trained,)
        # of positives, of negatives
        self._cosines = torch.full((2,), torch.nan)

    @abstractmethod
    def pairs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Which of all embeddings are positives, and which are met at all: (V * B, M) bool each.

        Rows are this process's views and images, views first; columns are the same of each process
        in order of rank.
        """

    def losses(self, trained: nn.Module, batch: Batch, step: int) -> Outcome:
        """Each image's mean loss over its views."""
        features, embeddings = trained(batch.views())
        with torch.autocast(embeddings.device.type, enabled=False):  # cosines need their digits
            own = functional.normalize(embeddings.float(), dim=-1).flatten(0, 1)  # (N, E)
            every = gathered(own, self._processes).flatten(0, 1)  # (M, E)
            positive, met = self.pairs(batch)
            cosines = own @ every.T
            losses = contrastive_losses(cosines, positive, met, self._temperature)
        self._cosines = torch.stack(
            [_mean(cosines, chosen) for chosen in (positive, met & ~positive)]
        )
        losses = _blamed(losses, own, every)
        return Outcome(
            losses=losses.reshape(embeddings.shape[:2]).mean(0),
            features=features.detach().flatten(0, 1),
        )

    def before_update(self, step: int) -> None:  # noqa: B027
        """Nothing is to be done."""

    def after_update(self, step: int, processes: Processes) -> None:  # noqa: B027
        """Nothing is to be done."""

    def settings(self, step: int) -> dict[str, float]:
        """Has no schedule of its own."""
        return {}

    def signs(self) -> dict[str, float]:
        """Mean cosine of positives and of negatives, in the newest batch of this process."""
        positive, negative = self._cosines.tolist()
        return {"positive_cosine": positive, "negative_cosine": negative}

    def exported(self) -> nn.Module:
        """The backbone that is trained: there is no teacher."""
        return self._backbone

    def state_dict(self) -> dict[str, Any]:
        """Backbone and head."""
        return {"student": self.trained.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes them over."""
        self.trained.load_state_dict(state["student"])


def _mean(cosines: Tensor, chosen: Tensor) -> Tensor:
    return (cosines.detach() * chosen).sum() / chosen.sum()


def _blamed(losses: Tensor, own: Tensor, every: Tensor) -> Tensor:
    """Losses as they are where all embeddings are finite; if not, NaN for those that are not alone.

    All images meet, so that one broken image breaks all losses; the message that ends the run is
    to name its dataset and no other.
    """
    blame = torch.where(own.isfinite().all(1), 0.0, torch.nan)
    return torch.where(every.isfinite().all(), losses, blame)
