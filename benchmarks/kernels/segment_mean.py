"""`segment_mean`: tile features to a field's means."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from unidino_fast import ops
from unidino_fast.benchmarks.kernels.case import OpCase
from unidino_fast.kernels import segment_mean, segment_mean_reference

if TYPE_CHECKING:
    from torch import Tensor

DIM = 384
KEPT = 0.8


def cases(device: torch.device) -> list[OpCase]:
    """A field as it comes, where launching is all that counts; and one too large for any cache."""
    large = (16, 16_384) if device.type == "cuda" else (4, 2_048)
    return [_case(device, 5, 81), _case(device, *large)]


def _case(device: torch.device, n_channels: int, n_tiles: int) -> OpCase:
    generator = torch.Generator(device).manual_seed(0)
    features = torch.randn(n_channels, n_tiles, DIM, device=device, generator=generator)
    keep = torch.rand(n_tiles, device=device, generator=generator) < KEPT
    kept = int(keep.sum())
    return OpCase(
        op="segment_mean",
        shape=f"{n_channels} channels x {n_tiles} tiles x {DIM} features, {KEPT:.0%} kept",
        dtypes="float32 to float32",
        n_bytes=4 * n_channels * DIM * (kept + 1) + n_tiles,
        kernel=lambda: segment_mean(features, keep),
        reference=lambda: segment_mean_reference(features, keep),
        expression=lambda: expression(features, keep),
        on_cpu=lambda: ops.segment_mean(features, keep),
        tolerance=1e-4,  # the expression sums in float32
    )


def expression(features: Tensor, keep: Tensor) -> Tensor:
    """The op as a product with the mask: no copy, no wait for how many are kept."""
    weights = keep.to(features.dtype)
    return torch.einsum("cnd,n->cd", features, weights) / weights.sum()
