"""DINOv2's layout as that of a plain ViT: nothing is lost, and no engine needs to know.

DINOv2 (and Cell-DINO after it) multiplies what attention and MLP of a block give by a learnt
`gamma` (D,) each. The last layer of both is linear, so gamma multiplies into its weights:
`gamma * (W x + b) = (gamma W) x + gamma b`. Files in chunks call block i `blocks.<chunk>.<i>`.

Registers, `register_tokens` (1, R, D), follow the class token and have no position. The position of
the class token is one sum at all times, so it is added to the token: what is left is timm's layout,
`reg_token` and positions of the patches alone (`no_embed_class`).
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

SCALED = "layer scales multiplied into the layers before them"
_CHUNKED = re.compile(r"blocks\.\d+\.(\d+\..+)")
_GAMMA = re.compile(r"(blocks\.\d+\.)ls([12])\.gamma")
_LAYERS = {"1": "attn.proj", "2": "mlp.fc2"}
_FOR_TRAINING = "mask_token"
_REGISTERS = "register_tokens"


def as_plain(
    state: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], tuple[str, ...], bool]:
    """A state dict without layer scales, chunks and mask token, registers as timm has them.

    What does not fit together stays as it is, for the loading to name it. Products and sums are
    taken in float64.

    Returns:
        The state dict, what was left out of it, and whether there were layer scales.
    """
    names = [_CHUNKED.sub(r"blocks.\1", name) for name in state]
    plain = dict(zip(names, state.values(), strict=True))
    if len(plain) < len(state):
        plain = dict(state)
    scaled = False
    for name in list(plain):
        if (found := _GAMMA.fullmatch(name)) is None:
            continue
        layer = f"{found[1]}{_LAYERS[found[2]]}"
        gamma, weight, bias = (plain.get(of) for of in (name, f"{layer}.weight", f"{layer}.bias"))
        if gamma is None or weight is None or bias is None or not _fit(gamma, weight, bias):
            continue
        del plain[name]
        plain[f"{layer}.weight"] = (gamma.double()[:, None] * weight.double()).float()
        plain[f"{layer}.bias"] = (gamma.double() * bias.double()).float()
        scaled = True
    _take_registers(plain)
    left = plain.pop(_FOR_TRAINING, None)
    return plain, () if left is None else (_FOR_TRAINING,), scaled


def _take_registers(plain: dict[str, torch.Tensor]) -> None:
    """DINOv2's registers as timm's, in place, where class token and positions fit them."""
    cls, positions = plain.get("cls_token"), plain.get("pos_embed")
    if _REGISTERS not in plain or "reg_token" in plain or cls is None or positions is None:
        return
    if not _dense(cls, positions) or positions.ndim != 3 or cls.shape != positions[:, :1].shape:
        return
    n_patches = positions.shape[1] - 1
    if n_patches < 1 or math.isqrt(n_patches) ** 2 != n_patches:
        return
    plain["reg_token"] = plain.pop(_REGISTERS)
    plain["cls_token"] = (cls.double() + positions[:, :1].double()).float()
    plain["pos_embed"] = positions[:, 1:]


def _fit(gamma: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> bool:
    ranks = gamma.ndim == 1 and weight.ndim == 2
    return ranks and _dense(gamma, weight, bias) and len(weight) == len(gamma) == len(bias)


def _dense(*tensors: torch.Tensor) -> bool:
    return all(
        one.is_floating_point() and one.layout == torch.strided and not one.is_meta
        for one in tensors
    )
