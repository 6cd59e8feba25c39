"""Operations that a tile costs, by formula.

Letters: T tokens with the class token, D features, H heads, M width of the hidden layer, P patch
edge.
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
    heads: int
    tokens: int
    mlp_dim: int
    patch_pixels: int
    n_registers: int = 0  # of the tokens


def size_of(backbone: Backbone) -> VitSize:
    """The size of a single-channel backbone."""
    vit: Any = backbone.module
    registers = vit.num_prefix_tokens - 1
    return VitSize(
        dim=backbone.dim,
        depth=len(vit.blocks),
        heads=vit.blocks[0].attn.num_heads,
        tokens=(backbone.image_size // backbone.patch_size) ** 2 + 1 + registers,
        mlp_dim=vit.blocks[0].mlp.fc1.out_features,
        patch_pixels=backbone.patch_size**2,
        n_registers=registers,
    )


def tile_flops(size: VitSize, *, class_token_only: bool) -> int:
    """Floating-point operations of the matrix products of one tile; a multiply-add counts two.

    Norms, softmax and GELU are left out: they are 1 % and run on other units.

    Args:
        size: of the network.
        class_token_only: whether the last block works for the class token alone, which is all that
            an embedding needs. `False` is what a plain implementation does.
    """
    patches = 2 * (size.tokens - 1 - size.n_registers) * size.patch_pixels * size.dim
    block = _block(size)
    return patches + (size.depth - 1) * block + (_last_block(size) if class_token_only else block)


def _block(size: VitSize) -> int:
    dim, tokens = size.dim, size.tokens
    projections = 2 * tokens * dim * 4 * dim  # queries, keys, values; after attention
    attention = 2 * (2 * tokens * tokens * dim)  # scores; weighted sum
    return projections + attention + 2 * (2 * tokens * dim * size.mlp_dim)


def _last_block(size: VitSize) -> int:
    """For the class token alone, which needs neither keys nor values; see `InferenceGraph`."""
    dim = size.dim
    projections = 2 * dim * 4 * dim  # query; through key and value weights; after attention
    attention = 2 * (2 * size.heads * size.tokens * dim)
    return projections + attention + 2 * (2 * dim * size.mlp_dim)
