"""Planes -> scaled tiles, as images or as rows of patches.

Letters: P planes, H x W pixels, N tiles a plane, T tile edge, E patch edge.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from torch import Tensor

PIXEL_DTYPES = (torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.float32)
VALUE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_BLOCK = 2048
"""Pixels a program: for each of 64 threads, four 16-byte loads of 16-bit pixels at once."""


def tile_normalize_reference(
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
    """Cuts planes into tiles and maps each pixel to `(x - low) / span`.

    Tiles start at the top-left corner and run along rows; what is left over at the right and bottom
    is dropped. The arithmetic is float64: in float32 a narrow range far from zero (uint32 counts, a
    percentile between two large integers) would lose its digits in the subtraction.

    Args:
        planes: (P, H, W), any real dtype.
        low: (P,) float, subtracted.
        span: (P,) float, divided by.
        tile: edge T in pixels, at most H and W.
        stride: step between tiles in pixels.
        clip: clamp to [0, 1].
        patch: edge E of the patches that a tile is laid out in, a divisor of T; None leaves tiles
            as images.
        dtype: of the result, rounded to from float32.

    Returns:
        (P, N, T, T), or (P, N, (T / E) ** 2, E * E): patches along rows, and pixels of a patch
        along rows.
    """
    shape = (-1, 1, 1)
    scaled = planes.to(torch.float64)
    scaled = (scaled - low.to(torch.float64).view(shape)) / span.to(torch.float64).view(shape)
    if clip:
        scaled = scaled.clamp_(0, 1)
    tiles = scaled.to(torch.float32).to(dtype).unfold(1, tile, stride).unfold(2, tile, stride)
    tiles = tiles.flatten(1, 2)  # (P, N, T, T)
    if patch is None:
        return tiles
    grid = tiles.unfold(2, patch, patch).unfold(3, patch, patch)  # (P, N, T / E, T / E, E, E)
    return grid.flatten(4).flatten(2, 3)


@triton.jit  # type: ignore[untyped-decorator]
def tile_normalize_kernel(  # type: ignore[no-untyped-def]
    planes_ptr,  # (P, H, W), unit stride along W
    low_ptr,  # (P,) float64
    span_ptr,  # (P,) float64
    out_ptr,  # (P, N, (T / E) ** 2, E * E), contiguous
    plane_units,  # strides and step in units of ALIGN pixels, so that alignment is known
    row_units,
    step_units,
    tiles_down,
    tiles_across,
    TILE: tl.constexpr,
    PATCH: tl.constexpr,
    ALIGN: tl.constexpr,
    CLIP: tl.constexpr,
    WIDE: tl.constexpr,  # pixels that float32 does not hold exactly, in integers
    WHOLE: tl.constexpr,  # pixels are integers
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One program: ROWS patch rows (E pixels each) of one tile, in the order they are written."""
    tile_index = tl.program_id(0)
    tile_row = tile_index // tiles_across % tiles_down
    tile_column = tile_index % tiles_across
    plane = tile_index // (tiles_across * tiles_down)

    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)  # patch rows of the tile, as written
    patch = row // PATCH
    y = patch // (TILE // PATCH) * PATCH + row % PATCH
    x = patch % (TILE // PATCH) * PATCH
    inside = row < TILE * (TILE // PATCH)
    step = step_units * ALIGN
    y = (tile_row * step + y).to(tl.int64)
    source = planes_ptr + plane.to(tl.int64) * plane_units * ALIGN
    source_row = y * (row_units * ALIGN) + (tile_column * step + x)
    target = out_ptr + tile_index.to(tl.int64) * (TILE * TILE)

    low = tl.load(low_ptr + plane)
    span = tl.load(span_ptr + plane).to(tl.float32)
    # what can be taken from pixels without loss of digits, and the rest
    base = tl.floor(low + 0.5) if WHOLE else low.to(tl.float32).to(tl.float64)
    rest = (low - base).to(tl.float32)

    for left in tl.static_range(0, PATCH, COLUMNS):
        column = left + tl.arange(0, COLUMNS)
        mask = inside[:, None] & (column < PATCH)[None, :]
        pixel = tl.load(source + (source_row[:, None] + column[None, :]), mask=mask, other=0)

        if WIDE:
            above = (pixel.to(tl.int64) - base.to(tl.int64)).to(tl.float32)
        else:
            above = pixel.to(tl.float32) - base.to(tl.float32)
        value = tl.math.div_rn(above - rest, span)
        if CLIP:
            value = tl.maximum(value, 0.0, propagate_nan=tl.PropagateNan.ALL)
            value = tl.minimum(value, 1.0, propagate_nan=tl.PropagateNan.ALL)

        out = target + (row * PATCH)[:, None] + column[None, :]
        tl.store(out, value.to(out_ptr.dtype.element_ty), mask=mask)


def plan_tile_normalize(
    dtype: torch.dtype,
    *,
    plane_stride: int,
    row_stride: int,
    tile: int,
    stride: int,
    patch: int,
    clip: bool,
) -> dict[str, Any]:
    """Compile-time constants of `tile_normalize_kernel`; strides in pixels."""
    columns = min(triton.next_power_of_2(patch), _BLOCK)
    return {
        "TILE": tile,
        "PATCH": patch,
        "ALIGN": math.gcd(16, plane_stride, row_stride, stride),
        "CLIP": clip,
        "WIDE": dtype in (torch.int32, torch.uint32),
        "WHOLE": not dtype.is_floating_point,
        "ROWS": _BLOCK // columns,
        "COLUMNS": columns,
        "num_warps": 2,
    }


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
    """`tile_normalize_reference` in one read of the pixels and one write, in float32.

    In units in the last place of float32, the result is off by nothing where `low` is a whole
    number, `span` a float32 and the pixels have 8 or 16 bits (division is correctly rounded). Else
    by at most 3 for 8 and 16 bits (one rounding each of `span` and of what is left of `low` below
    a whole number, before the division; one of the quotient), by at most 4 for wider pixels, whose
    difference from `low` is rounded too. Whole numbers are subtracted before anything is rounded,
    so that a narrow range far from zero keeps its digits. `low` is within a factor of 2**30 of the
    pixels.

    Args:
        planes: (P, H, W) uint8, uint16, int16, uint32, int32 or float32; pixels of a row adjacent,
            else any strides.
        low: as for the reference.
        span: as for the reference.
        tile: as for the reference.
        stride: as for the reference.
        clip: as for the reference.
        patch: as for the reference.
        dtype: float32, bfloat16 or float16.

    Raises:
        TypeError: another dtype.
        ValueError: shapes or strides that do not fit, or tensors on several devices.
    """
    n_planes, height, width = planes.shape
    if planes.dtype not in PIXEL_DTYPES or dtype not in VALUE_DTYPES:
        raise TypeError(f"no kernel scales {planes.dtype} to {dtype}: use the reference")
    if not 1 <= tile <= min(height, width) or stride < 1:
        raise ValueError(f"tile {tile} and stride {stride} do not fit planes {height} x {width}")
    if patch is not None and (patch < 1 or tile % patch):
        raise ValueError(f"patch {patch} does not divide tile {tile}")
    if planes.stride(2) != 1 and width > 1:
        raise ValueError("pixels of a row are not adjacent: call .contiguous() first")
    if low.shape != (n_planes,) or span.shape != (n_planes,):
        raise ValueError(f"low {tuple(low.shape)} and span {tuple(span.shape)}: give ({n_planes},)")
    if not planes.device == low.device == span.device:
        raise ValueError(f"planes, low, span on {planes.device}, {low.device}, {span.device}")

    edge = tile if patch is None else patch
    down, across = (height - tile) // stride + 1, (width - tile) // stride + 1
    out = torch.empty(
        (n_planes, down * across, (tile // edge) ** 2, edge * edge),
        dtype=dtype,
        device=planes.device,
    )
    if n_planes:
        plane_stride, row_stride, _ = planes.stride()
        constants = plan_tile_normalize(
            planes.dtype,
            plane_stride=plane_stride,
            row_stride=row_stride,
            tile=tile,
            stride=stride,
            patch=edge,
            clip=clip,
        )
        align = constants["ALIGN"]
        grid = (n_planes * down * across, triton.cdiv(tile * (tile // edge), constants["ROWS"]))
        tile_normalize_kernel[grid](
            planes,
            low.to(torch.float64),
            span.to(torch.float64),
            out,
            plane_stride // align,
            row_stride // align,
            stride // align,
            down,
            across,
            **constants,
        )
    return out.view(n_planes, down * across, tile, tile) if patch is None else out
