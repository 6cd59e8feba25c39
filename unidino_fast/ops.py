"""The one place that picks which implementation of an op runs.

Tensors on CUDA go to the Triton kernel, where it takes their dtype; all others to the reference, or
to what gives its bits in less time.
Why is logged once, at level DEBUG.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING, Literal

import torch

from unidino_fast import kernels
from unidino_fast.cpu_ops import (
    TABLE_DTYPES,
    intensity_range_by_count,
    segment_mean_by_numpy,
    tile_normalize_by_table,
    tile_signal_by_count,
)
from unidino_fast.kernels.add_norm import STREAM_DTYPES
from unidino_fast.kernels.intensity_range import COUNTED_DTYPES
from unidino_fast.kernels.quantize_rows import ROW_DTYPES
from unidino_fast.kernels.segment_mean import FEATURE_DTYPES
from unidino_fast.kernels.tile_normalize import PIXEL_DTYPES

if TYPE_CHECKING:
    from torch import Tensor

Implementation = Literal["triton", "table", "count", "numpy", "reference"]

_LOG = logging.getLogger(__name__)
_DTYPES = {
    "add_norm": STREAM_DTYPES,
    "intensity_range": COUNTED_DTYPES,
    "quantize_rows": ROW_DTYPES,
    "segment_mean": FEATURE_DTYPES,
    "tile_normalize": PIXEL_DTYPES,
    "tile_signal": PIXEL_DTYPES,
}
"""What each kernel reads."""


def implementation(op: str, tensor: Tensor) -> Implementation:
    """Which implementation of an op runs on a tensor."""
    if not tensor.is_cuda:
        if op == "tile_normalize" and tensor.dtype in TABLE_DTYPES:
            return _chosen(op, "table", f"{tensor.dtype} on {tensor.device.type}")
        is_counted = op == "intensity_range" and tensor.dtype in COUNTED_DTYPES
        if (is_counted or op == "tile_signal") and tensor.device.type == "cpu":
            return _chosen(op, "count", "tensors on cpu")
        if op == "segment_mean" and tensor.device.type == "cpu":
            return _chosen(op, "numpy", "tensors on cpu")
        return _chosen(op, "reference", f"tensors on {tensor.device.type}")
    if tensor.dtype not in _DTYPES[op]:
        return _chosen(op, "reference", f"no kernel for {tensor.dtype}")
    return _chosen(op, "triton", f"{tensor.dtype} on CUDA")


def add_norm(
    stream: Tensor, branch: Tensor, weight: Tensor, bias: Tensor, epsilon: float
) -> Tensor:
    """Stream (M, D) += branch, and its norm. See `kernels.add_norm_reference`."""
    if implementation("add_norm", stream) == "triton":
        return kernels.add_norm(stream, branch, weight, bias, epsilon)
    return kernels.add_norm_reference(stream, branch, weight, bias, epsilon)


def intensity_range(planes: Tensor, percentiles: tuple[float, ...]) -> Tensor:
    """Percentiles of planes (P, H, W); (P, Q) float64. See `kernels.intensity_range_reference`."""
    chosen = implementation("intensity_range", planes)
    if chosen == "triton":
        return kernels.intensity_range(planes.contiguous(), percentiles)
    if chosen == "count":
        return intensity_range_by_count(planes, percentiles)
    return kernels.intensity_range_reference(planes, percentiles)


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (M, K) in e4m3 and their scales (M,). See `kernels.quantize_rows_reference`.

    Under torch.compile it is the reference, which the compiler joins with what makes the rows.
    """
    if torch.compiler.is_compiling() or implementation("quantize_rows", x) == "reference":
        return kernels.quantize_rows_reference(x)
    return kernels.quantize_rows(x.contiguous())


def segment_mean(features: Tensor, keep: Tensor) -> Tensor:
    """Means (C, D) of features (C, N, D) over kept tiles. See `kernels.segment_mean_reference`."""
    chosen = implementation("segment_mean", features)
    if chosen == "triton":
        return kernels.segment_mean(features.contiguous(), keep)
    if chosen == "numpy":
        return segment_mean_by_numpy(features, keep)
    return kernels.segment_mean_reference(features, keep)


def tile_normalize(
    planes: Tensor,
    low: Tensor,
    span: Tensor,
    *,
    tile: int,
    stride: int,
    clip: bool,
    patch: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Scaled tiles or patches of planes (P, H, W). See `kernels.tile_normalize_reference`."""
    chosen = implementation("tile_normalize", planes)
    if chosen == "triton":
        run, planes = kernels.tile_normalize, planes.contiguous()
    elif chosen == "table":
        run = tile_normalize_by_table
    else:
        run = kernels.tile_normalize_reference
    return run(planes, low, span, tile=tile, stride=stride, clip=clip, patch=patch, dtype=dtype)


def tile_signal(planes: Tensor, *, tile: int, stride: int, enough: int | None = None) -> Tensor:
    """Pixels above zero of each tile; (P, N) int32. See `kernels.tile_signal_reference`.

    Of tiles with `enough` of them, the count may be any from there to the true one.
    """
    chosen = implementation("tile_signal", planes)
    if chosen == "triton":
        return kernels.tile_signal(planes.contiguous(), tile=tile, stride=stride)
    if chosen == "count":
        return tile_signal_by_count(planes, tile=tile, stride=stride, enough=enough)
    return kernels.tile_signal_reference(planes, tile=tile, stride=stride)


@cache
def _chosen(op: str, choice: Implementation, reason: str) -> Implementation:
    _LOG.debug("%s: %s (%s)", op, choice, reason)  # once: the answer is remembered
    return choice
