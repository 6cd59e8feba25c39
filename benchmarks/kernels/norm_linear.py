"""`norm_linear`: norm and the layer after it of a ViT-S block, a candidate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from unidino_fast.benchmarks.kernels.case import OpCase
from unidino_fast.kernels import fold_norm_linear, norm_linear, norm_linear_reference

if TYPE_CHECKING:
    from torch import Tensor

DIM, TOKENS = 384, 197
QKV, HIDDEN = 1152, 1536
EPSILON = 1e-6


def cases(device: torch.device) -> list[OpCase]:
    """Queries, keys and values of 256 tiles and of 32; hidden features of 256. Few on the CPU."""
    if device.type != "cuda":
        return [_case(device, 1, QKV, gelu=False), _case(device, 1, HIDDEN, gelu=True)]
    sizes = ((256, QKV, False), (32, QKV, False), (256, HIDDEN, True))
    return [_case(device, n, outputs, gelu=gelu) for n, outputs, gelu in sizes]


def _case(device: torch.device, n_tiles: int, outputs: int, *, gelu: bool) -> OpCase:
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, generator=generator).to(torch.bfloat16)

    x = normal(n_tiles * TOKENS, DIM)
    weights = (
        1 + 0.1 * normal(DIM),
        0.1 * normal(DIM),
        normal(outputs, DIM) * DIM**-0.5,
        0.1 * normal(outputs),
    )
    folded = fold_norm_linear(*weights, epsilon=EPSILON, dtype=x.dtype)
    return OpCase(
        op="norm_linear",
        shape=f"{len(x)} rows x {DIM} features to {outputs}{', GELU' if gelu else ''}",
        dtypes="bfloat16 to bfloat16",
        n_bytes=x.nbytes + 2 * len(x) * outputs + sum(one.nbytes for one in weights),
        kernel=lambda: norm_linear(x, folded, gelu=gelu),
        reference=lambda: norm_linear_reference(x, *weights, epsilon=EPSILON, gelu=gelu),
        expression=lambda: expression(x, *weights, gelu=gelu),
        tolerance=1e-2,  # some roundings to bfloat16, the last one alone 1.7e-3
        flops=2 * len(x) * DIM * outputs,
    )


def expression(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    gelu: bool,
) -> Tensor:
    """The op in torch's words, all in bfloat16."""
    normed = functional.layer_norm(x, (DIM,), norm_weight, norm_bias, EPSILON)
    out = functional.linear(normed, weight, bias)
    return functional.gelu(out) if gelu else out
