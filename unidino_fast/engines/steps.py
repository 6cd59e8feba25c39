"""Runs a network in calls of one fixed size.

A matrix product may round differently when its shape changes. An engine's network therefore sees
one number of tiles for ever, whatever the size of the batches that it is handed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


def in_steps(run: Callable[[Tensor], Tensor], patches: Tensor, step: int, dim: int) -> Tensor:
    """Embeds a batch, `step` tiles at a time.

    Args:
        run: patches (`step`, tokens, P * P) -> (`step`, D).
        patches: (N, tokens, P * P); N is a multiple of `step` where the last bit matters.
        step: tiles a call.
        dim: D.

    Returns:
        (N, D) float32, copied out of what `run` gives: a CUDA graph reuses its output.
    """
    features = torch.empty(len(patches), dim, device=patches.device)
    for start in range(0, len(patches), step):
        features[start : start + step] = run(patches[start : start + step])
    return features
