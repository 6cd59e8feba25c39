"""A timm ViT step by step, for methods that hide some of its patches.

N images of one size, T patches, D features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def patch_tokens(vit: Any, images: Tensor) -> Tensor:
    """Embedded patches (N, T, D) of images (N, 1, s, s), row by row, without their positions."""
    patches: Tensor = vit.patch_embed(images)
    return patches.reshape(len(images), -1, patches.shape[-1])


def positions(vit: Any) -> Tensor:
    """Position embedding (T, D) of the patches of an image of the size that the ViT is made for."""
    embedding: Tensor = vit.pos_embed
    return embedding[0, 1:]


def encode(vit: Any, tokens: Tensor) -> Tensor:
    """Runs tokens that have their positions, with the class token before them.

    All patches of an image give what `vit.forward_features` gives.

    Args:
        vit: from `networks.new_student`.
        tokens: (N, T', D), all or some of the patches, in any order.

    Returns:
        (N, 1 + T', D) after the last norm, the class token first.
    """
    first = (vit.cls_token + vit.pos_embed[:, :1]).expand(len(tokens), -1, -1)
    encoded: Tensor = vit.norm(vit.blocks(torch.cat([first, tokens], dim=1)))
    return encoded
