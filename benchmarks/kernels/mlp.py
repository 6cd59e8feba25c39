"""`mlp`: norm, fc1, GELU, fc2 and residual of a ViT-S block, a candidate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from unidino_fast.benchmarks.kernels.case import OpCase
from unidino_fast.kernels import fold_mlp, mlp, mlp_reference

if TYPE_CHECKING:
    from torch import Tensor

DIM, HIDDEN, TOKENS = 384, 1536, 197
EPSILON = 1e-6


def cases(device: torch.device) -> list[OpCase]:
    """The tokens of a batch of 256 tiles, and of one of 32; few on the CPU."""
    return [_case(device, n) for n in ((256, 32) if device.type == "cuda" else (2,))]


def _case(device: torch.device, n_tiles: int) -> OpCase:
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, generator=generator).to(torch.bfloat16)

    x = normal(n_tiles * TOKENS, DIM)
    weights = (
        1 + 0.1 * normal(DIM),
        0.1 * normal(DIM),
        normal(HIDDEN, DIM) * DIM**-0.5,
        0.1 * normal(HIDDEN),
        normal(DIM, HIDDEN) * HIDDEN**-0.5,
        0.1 * normal(DIM),
    )
    folded = fold_mlp(*weights, epsilon=EPSILON, dtype=x.dtype)
    return OpCase(
        op="mlp",
        shape=f"{len(x)} rows x {DIM} features, {HIDDEN} hidden",
        dtypes="bfloat16 to bfloat16",
        n_bytes=2 * x.nbytes + sum(one.nbytes for one in weights),
        kernel=lambda: mlp(x, folded),
        reference=lambda: mlp_reference(x, *weights, epsilon=EPSILON),
        expression=lambda: expression(x, *weights),
        tolerance=1e-2,  # some roundings to bfloat16, the last one alone 1.7e-3
        flops=4 * len(x) * DIM * HIDDEN,
    )


def expression(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
) -> Tensor:
    """The op in torch's words, all in bfloat16."""
    normed = functional.layer_norm(x, (DIM,), norm_weight, norm_bias, EPSILON)
    hidden = functional.gelu(functional.linear(normed, weight1, bias1))
    return x + functional.linear(hidden, weight2, bias2)
