"""Schedules: pure functions of the step or the epoch, both counted from 0.

The formulas are those of DINO's released code (Caron et al. 2021).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unidino_fast.training.config import OptimConfig


def cosine(step: int, start: float, end: float, total: int) -> float:
    """Half a cosine from `start` at step 0 towards `end` at step `total`, where it stays."""
    share = min(step / total, 1.0) if total > 0 else 1.0
    return end + 0.5 * (start - end) * (1.0 + math.cos(math.pi * share))


def warmup_cosine(step: int, peak: float, end: float, *, warmup: int, total: int) -> float:
    """Linear from 0 to `peak` over the `warmup` first steps, then a cosine to `end`.

    The last step of the warm-up has the peak, and so does the first of the cosine, as released.
    """
    if step < warmup:
        return peak * step / (warmup - 1) if warmup > 1 else 0.0
    return cosine(step - warmup, peak, end, total - warmup)


def ramp(epoch: int, start: float, end: float, n_epochs: int) -> float:
    """From `start` at epoch 0 to `end` at epoch `n_epochs` - 1 in equal steps, then `end`."""
    if epoch >= n_epochs:
        return end
    return start + (end - start) * epoch / (n_epochs - 1) if n_epochs > 1 else start


@dataclass(frozen=True)
class Clock:
    """Where a step stands in a run.

    Attributes:
        steps_per_epoch: whole batches of an epoch.
        epochs: of the run.
    """

    steps_per_epoch: int
    epochs: int

    @property
    def total(self) -> int:
        """Steps of the run."""
        return self.steps_per_epoch * self.epochs

    def epoch(self, step: int) -> int:
        """The epoch that a step belongs to."""
        return step // self.steps_per_epoch


def learning_rate(step: int, clock: Clock, optim: OptimConfig) -> float:
    """Of a step, for the whole batch."""
    warmup = optim.warmup_epochs * clock.steps_per_epoch
    return warmup_cosine(step, optim.peak_lr, optim.lr_final, warmup=warmup, total=clock.total)


def weight_decay(step: int, clock: Clock, optim: OptimConfig) -> float:
    """Of a step."""
    return cosine(step, optim.weight_decay, optim.weight_decay_final, clock.total)
