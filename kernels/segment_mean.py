"""Mean embedding of the kept tiles. Letters: C channels, N tiles, D features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from torch import Tensor

FEATURE_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def segment_mean_reference(features: Tensor, keep: Tensor) -> Tensor:
    """Mean over the kept tiles of one field, the same tiles for every channel.

    Args:
        features: (C, N, D), any float dtype; summed in float64.
        keep: (N,) bool, at least one true.

    Returns:
        (C, D) float32.
    """
    return features[:, keep].to(torch.float64).mean(dim=1).to(torch.float32)


@triton.jit  # type: ignore[untyped-decorator]
def segment_mean_kernel(  # type: ignore[no-untyped-def]
    features_ptr,  # (C, N, D), unit stride along D
    keep_ptr,  # (N,) uint8, not zero for a kept tile
    out_ptr,  # (C, D) float32, contiguous
    channel_stride,
    tile_stride,
    n_tiles,
    dim,
    STEPS: tl.constexpr,
    TILES: tl.constexpr,
    FEATURES: tl.constexpr,
):
    """One program: FEATURES features of one channel, over all its tiles."""
    channel = tl.program_id(0).to(tl.int64)
    feature = tl.program_id(1) * FEATURES + tl.arange(0, FEATURES)
    lane = tl.arange(0, TILES)
    source = features_ptr + channel * channel_stride

    total = tl.zeros((FEATURES,), tl.float64)
    n_kept = tl.zeros((1,), tl.int32)
    for step in range(STEPS):
        tile = step * TILES + lane
        kept = tl.load(keep_ptr + tile, mask=tile < n_tiles, other=0) != 0
        place = tile.to(tl.int64)[:, None] * tile_stride + feature[None, :]
        mask = kept[:, None] & (feature < dim)[None, :]
        block = tl.load(source + place, mask=mask, other=0.0)
        total += tl.sum(block.to(tl.float64), axis=0)
        n_kept += tl.sum(kept.to(tl.int32), axis=0)

    mean = total / n_kept.to(tl.float64)
    tl.store(out_ptr + channel * dim + feature, mean.to(tl.float32), mask=feature < dim)


def plan_segment_mean(*, n_tiles: int) -> dict[str, Any]:
    """Compile-time constants of `segment_mean_kernel`."""
    steps = max(1, triton.cdiv(n_tiles, 16))
    return {
        "STEPS": triton.next_power_of_2(steps),  # few variants, for fields of any size
        "TILES": 16,
        "FEATURES": 128,
        "num_warps": 4,
    }


def segment_mean(features: Tensor, keep: Tensor) -> Tensor:
    """`segment_mean_reference` in one read of the features, without a copy of the kept ones.

    Sums are float64 and in an order that the place of a tile in its field decides alone: the result
    does not depend on how tiles were batched. It is at most one unit in the last place of float32
    from the reference, which sums in another order; a mean that cancels to less than 1e-8 of its
    terms may be further.

    Args:
        features: (C, N, D) float64, float32, bfloat16 or float16; features of a tile adjacent, else
            any strides.
        keep: (N,) bool, at least one true, else the means are NaN.

    Returns:
        (C, D) float32.

    Raises:
        TypeError: another dtype.
        ValueError: shapes or strides that do not fit, or tensors on several devices.
    """
    n_channels, n_tiles, dim = features.shape
    if features.dtype not in FEATURE_DTYPES or keep.dtype != torch.bool:
        raise TypeError(f"no kernel averages {features.dtype} where {keep.dtype}")
    if keep.shape != (n_tiles,) or keep.device != features.device:
        raise ValueError(
            f"keep {tuple(keep.shape)} on {keep.device}: give ({n_tiles},) on {features.device}"
        )
    if features.stride(2) != 1 and dim > 1:
        raise ValueError("features of a tile are not adjacent: call .contiguous() first")

    out = torch.empty((n_channels, dim), dtype=torch.float32, device=features.device)
    if out.numel():
        constants = plan_segment_mean(n_tiles=n_tiles)
        grid = (n_channels, triton.cdiv(dim, constants["FEATURES"]))
        segment_mean_kernel[grid](
            features,
            keep.contiguous().view(torch.uint8),
            out,
            features.stride(0),
            features.stride(1),
            n_tiles,
            dim,
            **constants,
        )
    return out
