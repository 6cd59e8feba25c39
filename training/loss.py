"""The loss of DINO (Caron et al. 2021), with its centre.

G global views (2), V views, B images, K prototypes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from unidino_fast.training.processes import Processes


def teacher_targets(outputs: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """Centred and sharpened probabilities (G, B, K) of the teacher's outputs (G, B, K)."""
    return torch.softmax((outputs.float() - centre) / temperature, dim=-1)


def dino_loss(targets: Tensor, outputs: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of each teacher's view with all views of the student but itself.

    The student's view v meets the teacher's views t other than v. Their targets q_t sum to 1, so
    that `-sum(q_t * log_softmax(s))` is `logsumexp(s) - q_t . s`, and the views t are summed
    before the product: no (V, B, K) of logarithms is kept.

    Args:
        targets: (G, B, K) probabilities, of the first G views.
        outputs: (V, B, K) of the student.
        temperature: the student's.

    Returns:
        (B,) float32: each image's mean over its G * V - G pairs.
    """
    n_global, n_views = len(targets), len(outputs)
    together = targets.sum(0)  # (B, K)
    total = torch.zeros(outputs.shape[1], device=outputs.device)
    for view in range(n_views):
        logits = outputs[view].float() / temperature  # (B, K)
        own = view < n_global
        wanted = together - targets[view] if own else together
        n_targets = n_global - own
        total = total + n_targets * logits.logsumexp(-1) - (wanted * logits).sum(-1)
    return total / (n_global * n_views - n_global)


class Centre(nn.Module):
    """Running mean of the teacher's outputs over images and processes.

    A step adds all parts of its batch before it updates once, so that parts give the same centre
    as the whole.

    Args:
        n_outputs: K.
        momentum: share of the old centre in the new one.
    """

    value: Tensor
    _sum: Tensor

    def __init__(self, n_outputs: int, momentum: float) -> None:
        super().__init__()
        self._momentum = momentum
        self._count = 0
        self.register_buffer("value", torch.zeros(n_outputs))
        self.register_buffer("_sum", torch.zeros(n_outputs), persistent=False)

    @torch.no_grad()
    def add(self, outputs: Tensor) -> None:
        """Takes note of the teacher's outputs (G, B, K)."""
        self._sum += outputs.float().sum((0, 1))
        self._count += outputs.shape[0] * outputs.shape[1]

    @torch.no_grad()
    def update(self, processes: Processes) -> None:
        """Moves the centre by what was added, in all processes alike."""
        total = processes.sum(self._sum)
        mean = total / (self._count * processes.count)
        self.value.mul_(self._momentum).add_(mean, alpha=1 - self._momentum)
        self._sum.zero_()
        self._count = 0
