"""Mean embedding of the kept tiles. Letters: C channels, N tiles, D features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def segment_mean_reference(features: Tensor, keep: Tensor) -> Tensor:
    """Mean over the kept tiles of one field, the same tiles for every channel.

    Args:
        features: (C, N, D), any float dtype; summed in float64.
        keep: (N,) bool, at least one true.

    Returns:
        (C, D) float32.
    """
    return features[:, keep].to(torch.float64).mean(dim=1).to(torch.float32)
