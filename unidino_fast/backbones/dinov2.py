"""DINOv2's layout as that of a plain ViT: nothing is lost, and no engine needs to know.

DINOv2 (and Cell-DINO after it) multiplies what attention and MLP of a block give by a learnt
`gamma` (D,) each. The last layer of both is linear, so gamma multiplies into its weights:
`gamma * (W x + b) = (gamma W) x + gamma b`. Files in chunks call block i `blocks.<chunk>.<i>`.
"""

from __future__ import annotations

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


def as_plain(
    state: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], tuple[str, ...], bool]:
    """A state dict without layer scales, chunks and mask token.

    What does not fit together stays as it is, for the loading to name it. Products are taken in
    float64.

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
    left = plain.pop(_FOR_TRAINING, None)
    return plain, () if left is None else (_FOR_TRAINING,), scaled


def _fit(gamma: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> bool:
    dense = all(
        one.is_floating_point() and one.layout == torch.strided and not one.is_meta
        for one in (gamma, weight, bias)
    )
    return dense and gamma.ndim == 1 and weight.ndim == 2 and len(weight) == len(gamma) == len(bias)
