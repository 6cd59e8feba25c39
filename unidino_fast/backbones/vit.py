"""Plain ViTs: the architecture out of the tensors' shapes, the module from timm.

D features, C input channels, p patch edge, g patches an edge, R registers: tokens after the class
token, without positions; in a ViT with registers the class token has none either (timm's
`no_embed_class`), so that positions are those of the patches alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from unidino_fast.backbones.backbone import freeze
from unidino_fast.backbones.checkpoint import shown
from unidino_fast.errors import WeightsError

State = Mapping[str, torch.Tensor]

HEAD_WIDTH = 64
_LISTED = 8
_BLOCK = re.compile(r"blocks\.(\d+)\.")
_PATCH = "patch_embed.proj.weight"
_REGISTERS = "reg_token"  # (1, R, D)
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class VitShape:
    """All that tells one plain ViT from another."""

    dim: int
    depth: int
    heads: int
    mlp_dim: int
    patch_size: int
    in_chans: int
    image_size: int
    qkv_bias: bool
    n_registers: int = 0


VIT_SMALL_16 = VitShape(
    dim=384,
    depth=12,
    heads=6,
    mlp_dim=1536,
    patch_size=16,
    in_chans=1,
    image_size=224,
    qkv_bias=True,
)


def infer_shape(state: State, label: str, *, heads: int | None = None) -> VitShape:
    """The architecture of a flat state dict; heads are 64 wide unless their number is given.

    Raises:
        WeightsError: the tensors are not those of a plain ViT with square patches and tiles.
    """
    cls, positions, patches = (
        _ranked(state, name, rank)
        for name, rank in (("cls_token", 3), ("pos_embed", 3), (_PATCH, 4))
    )
    blocks = [int(found[1]) for name in state if (found := _BLOCK.match(name))]
    if cls is None or positions is None or patches is None or not blocks or not patches.numel():
        raise WeightsError(_other_architecture(state, label))
    dim = cls.shape[2]
    in_chans, patch, width = patches.shape[1:]
    if patch != width:
        raise WeightsError(
            f"{label} has patches of {patch} x {width} pixels: only square patches can be loaded"
        )
    registers = _ranked(state, _REGISTERS, 3)
    n_registers = 0 if registers is None else registers.shape[1]
    grid = _grid(positions.shape[1], n_registers, label)
    if heads is None and (dim == 0 or dim % HEAD_WIDTH):
        raise WeightsError(
            f"{label} has {dim} features, not a multiple of the {HEAD_WIDTH} of an attention head: "
            "another architecture, which cannot be loaded"
        )
    hidden = _ranked(state, "blocks.0.mlp.fc1.weight", 2)
    return VitShape(
        dim=dim,
        depth=min(max(blocks) + 1, len(state)),  # bounded: a key may claim any block number
        heads=heads or dim // HEAD_WIDTH,
        mlp_dim=4 * dim if hidden is None else hidden.shape[0],
        patch_size=patch,
        in_chans=in_chans,
        image_size=grid * patch,
        qkv_bias=any(name.endswith(".attn.qkv.bias") for name in state),
        n_registers=n_registers,
    )


def _grid(n_positions: int, n_registers: int, label: str) -> int:
    """Patches an edge."""
    n_patches = n_positions if n_registers else n_positions - 1
    grid = math.isqrt(max(n_patches, 0))
    if grid < 1 or grid * grid != n_patches:
        wanted = "one class token and a square grid"
        if n_registers:
            wanted = f"a square grid alone, as beside {n_registers} registers"
        raise WeightsError(
            f"{label} has a position embedding of {n_positions} tokens, not {wanted}: "
            "another architecture, which cannot be loaded"
        )
    return grid


def build_vit(shape: VitShape) -> torch.nn.Module:
    """A VisionTransformer of timm's with undefined weights; no random number is drawn."""
    with torch.random.fork_rng(devices=[]):
        vit = new_vit(shape, weight_init="skip")
    return freeze(vit)


def new_vit(shape: VitShape, **more: Any) -> torch.nn.Module:
    """A VisionTransformer of timm's, with whatever else timm is to be told."""
    from timm.models.vision_transformer import VisionTransformer  # seconds, needed here alone

    vit: Any = VisionTransformer(
        img_size=shape.image_size,
        patch_size=shape.patch_size,
        in_chans=shape.in_chans,
        num_classes=0,
        global_pool="token",
        embed_dim=shape.dim,
        depth=shape.depth,
        num_heads=shape.heads,
        mlp_ratio=shape.mlp_dim / shape.dim,
        qkv_bias=shape.qkv_bias,
        reg_tokens=shape.n_registers,
        no_embed_class=shape.n_registers > 0,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        act_layer=torch.nn.GELU,
        **more,
    )
    module: torch.nn.Module = vit
    return module


def load_vit(state: State, label: str, *, heads: int | None = None) -> torch.nn.Module:
    """A ViT with exactly these weights, in float32.

    Raises:
        WeightsError: the architecture is another one, a key is missing, unknown or of another
            shape, or a value is not a finite floating-point number.
    """
    shape = infer_shape(state, label, heads=heads)
    module = build_vit(shape)
    _check_keys(state, module.state_dict(), shape, label)
    module.load_state_dict({name: _finite(name, state[name], label) for name in state})
    return module


def vit_heads(module: Any) -> int:
    """Attention heads of a timm ViT."""
    return int(module.blocks[0].attn.num_heads)


def _ranked(state: State, name: str, rank: int) -> torch.Tensor | None:
    tensor = state.get(name)
    return tensor if tensor is not None and tensor.ndim == rank else None


def _listed(items: list[str]) -> str:
    more = f", ... ({len(items)} in all)" if len(items) > _LISTED else ""
    return ", ".join(items[:_LISTED]) + more


def _described(state: State, names: list[str]) -> list[str]:
    return [f"{shown(name)} {tuple(state[name].shape)}" for name in names]


def _other_architecture(state: State, label: str) -> str:
    wanted = ("cls_token", "pos_embed", _PATCH, "blocks.0.norm1.weight")
    lacking = [name for name in wanted if name not in state]
    reason = f"no {', '.join(lacking)}" if lacking else "unusual shapes"
    held = _listed(_described(state, list(state)))
    return (
        f"{label} holds another architecture ({reason}); it has {held}: "
        "only plain ViTs with a class token can be loaded"
    )


def _check_keys(state: State, expected: State, shape: VitShape, label: str) -> None:
    missing = [name for name in expected if name not in state]
    unknown = [name for name in state if name not in expected]
    bent = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    if not missing and not unknown and not bent:
        return
    faults = [
        f"{what}: {_listed(items)}"
        for what, items in (
            ("missing", missing),
            ("unknown", _described(state, unknown)),
            ("wrong shape", bent),
        )
        if items
    ]
    raise WeightsError(
        f"{label} is no plain ViT of {shape.depth} blocks and {shape.dim} features "
        f"({'; '.join(faults)}): another architecture or an incomplete file, not loaded"
    )


def _finite(name: str, tensor: torch.Tensor, label: str) -> torch.Tensor:
    if tensor.layout != torch.strided or tensor.dtype not in _FLOATS or tensor.is_meta:
        raise WeightsError(
            f"{label}: {name} is {tensor.dtype} ({tensor.layout}), not dense floating point: "
            "save the weights as float32"
        )
    values = tensor.detach().to(torch.float32)
    if not bool(torch.isfinite(values).all()):
        raise WeightsError(
            f"{label}: {name} holds NaN or infinite values: the training has diverged or the file "
            "is damaged; use another checkpoint"
        )
    return values
