"""The inference graph: timm's ViT rearranged so that the same numbers cost less work.

Engines run this module or export it. Three exact shortcuts: the patch embedding is one matrix
product over patches already laid out in rows; tiles are standardised inside where the weights want
it; and the last block works for the class token alone, because nothing else of it reaches the
output, without making keys and values. Letters: N tiles, T tokens, S of them before the
patches (the class token first, then registers if there are any), D features, H heads, P patch edge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from unidino_fast.backbones import Backbone

STANDARDIZE_EPSILON = 1e-12


class InferenceGraph(nn.Module):
    """Patches of tiles -> class tokens after the last norm.

    Args:
        backbone: a single-channel backbone; its parameters are shared, not copied.
    """

    prefix: Tensor
    positions: Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        vit: Any = backbone.module
        self.standardize = backbone.input_norm == "per_tile"
        self.heads = vit.blocks[0].attn.num_heads
        projection = vit.patch_embed.proj
        self.patch_weight = nn.Parameter(projection.weight.flatten(1), requires_grad=False)
        self.patch_bias = projection.bias
        self.blocks = vit.blocks
        self.norm = vit.norm
        prefix, positions = vit.cls_token, vit.pos_embed
        registers = getattr(vit, "reg_token", None)
        if registers is None:
            prefix, positions = prefix + positions[:, :1], positions[:, 1:]
        else:  # positions are those of the patches alone: see `backbones.vit`
            prefix = torch.cat([prefix, registers], dim=1)
        self.register_buffer("prefix", prefix.detach())  # (1, S, D)
        self.register_buffer("positions", positions.detach())  # (1, T - S, D)

    @property
    def dim(self) -> int:
        """Features a tile, D."""
        return self.positions.shape[2]

    @property
    def n_tokens(self) -> int:
        """Tokens a tile, T."""
        return self.prefix.shape[1] + self.positions.shape[1]

    def forward(self, patches: Tensor) -> Tensor:
        """Embeds tiles.

        Args:
            patches: (N, T - S, P * P) intensities in [0, 1], patches along rows.

        Returns:
            (N, D).
        """
        if self.standardize:
            patches = standardized(patches)
        tokens = functional.linear(patches, self.patch_weight, self.patch_bias)
        tokens = tokens + self.positions
        first = self.prefix.expand(tokens.shape[0], -1, -1)
        x = torch.cat([first, tokens], dim=1)  # (N, T, D)
        for block in self.blocks[:-1]:
            x = x + self._attention(block.attn, block.norm1(x))
            x = x + self._mlp(block.mlp, block.norm2(x))
        last = self.blocks[-1]
        y = x[:, :1] + self._class_attention(last.attn, last.norm1(x))  # (N, 1, D)
        y = y + self._mlp(last.mlp, last.norm2(y))
        return self.norm(y)[:, 0]  # type: ignore[no-any-return]

    def _attention(self, attention: Any, x: Tensor) -> Tensor:
        q, k, v = self._split(attention.qkv(x), 3)
        mixed = functional.scaled_dot_product_attention(q, k, v)  # (N, H, T, D / H)
        return attention.proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _class_attention(self, attention: Any, x: Tensor) -> Tensor:
        """Attention of the class token alone: (N, T, D) -> (N, 1, D).

        One query a head, so the products change places: keys are never made, the query goes
        through their weights instead (their bias adds one number to all scores, which softmax
        drops); nor are values, the weighted mean of the tokens goes through theirs.
        """
        n, _, dim = x.shape
        query, key, value = attention.qkv.weight.view(3, self.heads, -1, dim)  # (H, D / H, D) each
        bias = attention.qkv.bias
        query_bias, _, value_bias = (None, None, None) if bias is None else bias.chunk(3)
        q = functional.linear(x[:, 0], query.flatten(0, 1), query_bias)
        q = (q * (dim // self.heads) ** -0.5).view(n, self.heads, -1).transpose(0, 1)
        asked = torch.bmm(q, key).transpose(0, 1)  # (N, H, D)
        shares = torch.bmm(asked, x.transpose(1, 2)).softmax(dim=-1)  # (N, H, T)
        seen = torch.bmm(shares.to(x.dtype), x).transpose(0, 1)  # (H, N, D)
        mixed = torch.bmm(seen, value.transpose(1, 2)).transpose(0, 1).reshape(n, 1, dim)
        if value_bias is not None:
            mixed = mixed + value_bias
        return attention.proj(mixed)  # type: ignore[no-any-return]

    def _split(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(N, T, parts * D) -> parts of (N, H, T, D / H)."""
        n, tokens, _ = x.shape
        return x.view(n, tokens, parts, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)

    @staticmethod
    def _mlp(mlp: Any, x: Tensor) -> Tensor:
        return mlp.fc2(functional.gelu(mlp.fc1(x)))  # type: ignore[no-any-return]


def standardized(patches: Tensor) -> Tensor:
    """Each tile to zero mean and unit variance; a constant tile to zeros.

    Args:
        patches: (N, T, P * P) float32: any layout of a tile's pixels will do.

    Source: the per-image normalisation of MorphEm (CHAMMI-75).
    """
    variance, mean = torch.var_mean(patches, dim=(-2, -1), correction=0, keepdim=True)
    return (patches - mean) * torch.rsqrt(variance + STANDARDIZE_EPSILON)


def patches_of(tiles: Tensor, patch: int) -> Tensor:
    """Lays tiles out as rows of patches.

    Args:
        tiles: (N, E, E), E a multiple of the patch edge.
        patch: patch edge P in pixels.

    Returns:
        (N, (E / P) ** 2, P * P), patches along rows, pixels of a patch along rows.
    """
    n, edge, _ = tiles.shape
    side = edge // patch
    grid = tiles.reshape(n, side, patch, side, patch).transpose(2, 3)
    return grid.reshape(n, side * side, patch * patch)
