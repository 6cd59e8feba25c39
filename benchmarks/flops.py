"""Operations that a tile costs, by formula.

Letters: T tokens with the class token, D features, M width of the hidden layer, P patch edge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unidino_fast.backbones import Backbone


@dataclass(frozen=True, slots=True)
class VitSize:
    """What decides the operations of a plain ViT."""

    dim: int
    depth: int
    tokens: int
    mlp_dim: int
    patch_pixels: int


def size_of(backbone: Backbone) -> VitSize:
    """The size of a single-channel backbone."""
    vit: Any = backbone.module
    return VitSize(
        dim=backbone.dim,
        depth=len(vit.blocks),
        tokens=(backbone.image_size // backbone.patch_size) ** 2 + 1,
        mlp_dim=vit.blocks[0].mlp.fc1.out_features,
        patch_pixels=backbone.patch_size**2,
    )


def tile_flops(size: VitSize, *, class_token_only: bool) -> int:
    """Floating-point operations of the matrix products of one tile; a multiply-add counts two.

    Norms, softmax and GELU are left out: they are 1 % and run on other units.

    Args:
        size: of the network.
        class_token_only: whether the last block works for the class token alone, which is all that
            an embedding needs. `False` is what a plain implementation does.
    """
    dim, tokens = size.dim, size.tokens
    patches = 2 * (tokens - 1) * size.patch_pixels * dim
    block = _block(size, queries=tokens)
    last = _block(size, queries=1) if class_token_only else block
    return patches + (size.depth - 1) * block + last


def _block(size: VitSize, queries: int) -> int:
    """A block of which the results of so many tokens are wanted."""
    dim, tokens = size.dim, size.tokens
    projections = 2 * queries * dim * dim + 2 * tokens * dim * 2 * dim  # queries; keys and values
    attention = 2 * (2 * queries * tokens * dim)  # scores; weighted sum
    return (
        projections + attention + 2 * queries * dim * dim + 2 * (2 * queries * dim * size.mlp_dim)
    )
