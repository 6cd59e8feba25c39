"""Pixels with signal of each tile. Letters: P planes, H x W pixels, N tiles, T tile edge."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from unidino_fast.kernels.tile_normalize import PIXEL_DTYPES

if TYPE_CHECKING:
    from torch import Tensor

_BLOCK = 8192


def tile_signal_reference(planes: Tensor, *, tile: int, stride: int) -> Tensor:
    """Counts the pixels above zero of each tile, in the order of `tile_normalize_reference`.

    Args:
        planes: (P, H, W), any real dtype.
        tile: edge T in pixels, at most H and W.
        stride: step between tiles in pixels.

    Returns:
        (P, N) int32.
    """
    above = planes.to(torch.float32) > 0  # torch does not compare every unsigned dtype
    tiles = above.unfold(1, tile, stride).unfold(2, tile, stride)
    return tiles.sum(dim=(3, 4), dtype=torch.int32).flatten(1)


@triton.jit  # type: ignore[untyped-decorator]
def tile_signal_kernel(  # type: ignore[no-untyped-def]
    planes_ptr,  # (P, H, W), unit stride along W
    counts_ptr,  # (P, N) int32, zero before
    plane_units,  # strides and step in units of ALIGN pixels, so that alignment is known
    row_units,
    step_units,
    tiles_down,
    tiles_across,
    TILE: tl.constexpr,
    ALIGN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One program: ROWS rows of one tile."""
    tile_index = tl.program_id(0)
    tile_row = tile_index // tiles_across % tiles_down
    tile_column = tile_index % tiles_across
    plane = tile_index // (tiles_across * tiles_down)

    step = step_units * ALIGN
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    y = (tile_row * step + row).to(tl.int64)
    source = planes_ptr + plane.to(tl.int64) * plane_units * ALIGN
    source_row = y * (row_units * ALIGN) + tile_column * step

    count = tl.zeros((ROWS, COLUMNS), tl.int32)
    for left in tl.static_range(0, TILE, COLUMNS):
        column = left + tl.arange(0, COLUMNS)
        mask = (row < TILE)[:, None] & (column < TILE)[None, :]
        pixel = tl.load(source + (source_row[:, None] + column[None, :]), mask=mask, other=0)
        count += (pixel > 0).to(tl.int32)

    total = tl.sum(tl.sum(count, axis=1), axis=0)
    tl.atomic_add(counts_ptr + tile_index, total, sem="relaxed")


def plan_tile_signal(
    *, plane_stride: int, row_stride: int, tile: int, stride: int
) -> dict[str, Any]:
    """Compile-time constants of `tile_signal_kernel`; strides in pixels."""
    columns = min(triton.next_power_of_2(tile), 1024)
    return {
        "TILE": tile,
        "ALIGN": math.gcd(16, plane_stride, row_stride, stride),
        "ROWS": _BLOCK // columns,
        "COLUMNS": columns,
        "num_warps": 4,
    }


def tile_signal(planes: Tensor, *, tile: int, stride: int) -> Tensor:
    """`tile_signal_reference`, exactly, without copies of the pixels.

    Args:
        planes: (P, H, W) uint8, uint16, int16, uint32, int32 or float32; pixels of a row adjacent,
            else any strides.
        tile: edge T in pixels, at most H and W.
        stride: step between tiles in pixels.

    Returns:
        (P, N) int32.

    Raises:
        TypeError: another dtype.
        ValueError: shapes or strides that do not fit.
    """
    n_planes, height, width = planes.shape
    if planes.dtype not in PIXEL_DTYPES:
        raise TypeError(f"no kernel reads {planes.dtype}: use the reference")
    if not 1 <= tile <= min(height, width) or stride < 1:
        raise ValueError(f"tile {tile} and stride {stride} do not fit planes {height} x {width}")
    if planes.stride(2) != 1 and width > 1:
        raise ValueError("pixels of a row are not adjacent: call .contiguous() first")

    down, across = (height - tile) // stride + 1, (width - tile) // stride + 1
    counts = torch.zeros((n_planes, down * across), dtype=torch.int32, device=planes.device)
    if n_planes:
        plane_stride, row_stride, _ = planes.stride()
        constants = plan_tile_signal(
            plane_stride=plane_stride, row_stride=row_stride, tile=tile, stride=stride
        )
        align = constants["ALIGN"]
        grid = (counts.numel(), triton.cdiv(tile, constants["ROWS"]))
        tile_signal_kernel[grid](
            planes,
            counts,
            plane_stride // align,
            row_stride // align,
            stride // align,
            down,
            across,
            **constants,
        )
    return counts
