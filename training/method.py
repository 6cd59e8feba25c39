"""What a way of learning brings; the loop knows no more of it than this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn

    from unidino_fast.training.augment import ViewGroup
    from unidino_fast.training.data import Batch
    from unidino_fast.training.processes import Processes


@dataclass(frozen=True)
class Outcome:
    """What a method says about a part of a batch of B images.

    Attributes:
        losses: (B,), each image's.
        features: (N, D), of the network that is exported, without gradients: for the watch.
        probabilities: (N, K) if the method has any, without gradients: for the watch.
    """

    losses: Tensor
    features: Tensor
    probabilities: Tensor | None = None


class Method(Protocol):
    """A way of learning. Its networks lie on the device from the start.

    A step is: `losses` for each part of the batch (backward in between), `before_update`, the
    optimiser's update of `trained`, `after_update`.
    """

    groups: tuple[ViewGroup, ...]
    """Views that it wants of each image."""
    trained: nn.Module
    """What the optimiser changes; the loop may wrap it for several processes or compile it."""

    networks: tuple[nn.Module, ...]
    """All that has weights, `trained` first: what is shared out between processes."""

    def losses(self, trained: nn.Module, batch: Batch, step: int) -> Outcome:
        """Losses of a part of a batch, whose `views()` are (V, B, s, s), a group a size."""
        ...

    def before_update(self, step: int) -> None:
        """May drop gradients."""
        ...

    def after_update(self, step: int, processes: Processes) -> None:
        """Changes what the optimiser does not."""
        ...

    def settings(self, step: int) -> dict[str, float]:
        """Values of its schedules at a step, for the log."""
        ...

    def signs(self) -> dict[str, float]:
        """Further numbers that tell of a collapse, measured now and then."""
        ...

    def exported(self) -> nn.Module:
        """The network to embed with: a ViT as `networks.new_student` makes them."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later process needs to go on."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave."""
        ...
