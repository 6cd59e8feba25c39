"""Exact percentiles and moments of planes, from counts of their values.

Letters: P planes, H x W pixels, Q percentiles, K ranks (two a percentile).

A histogram costs in proportion to its bins, and additions to one address wait for each other. So no
kernel counts more than 256 values at once: first high bytes, then the low bytes of those pixels
whose high byte is that of a wanted rank, its *bucket*. A value of 8 bits is its own bucket.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

COUNTED_DTYPES = (torch.uint8, torch.int16, torch.uint16)
"""Dtypes of so few values that counting them is some 20 times faster than sorting the pixels."""
_BLOCK = 4096
"""Pixels of a program: a plane of 1080 x 1080 makes 285, two for each processor of an H200."""
_BINS = tl.constexpr(256)
_CROWDED = tl.constexpr(256)
"""Buckets with more than 1/256 of the plane are counted by a histogram. Estimated, not measured: as
many additions to one address, at one a nanosecond, take as long as it does."""


class IntensityStatistics(NamedTuple):
    """What the values of P planes are: percentiles (P, Q), the others (P,); all float64."""

    percentiles: Tensor
    lowest: Tensor
    highest: Tensor
    mean: Tensor
    sd: Tensor


def intensity_range_reference(planes: Tensor, percentiles: tuple[float, ...]) -> Tensor:
    """Percentiles of each plane, equal to `numpy.percentile` (linear) of the pixels as float64.

    One plane is worked on at a time: the memory in use is 8 bytes (8 and 16 bit) or 16 to 24 bytes
    a pixel of one plane.

    Args:
        planes: (P, H, W), any real dtype, finite.
        percentiles: in 0..100.

    Returns:
        (P, Q) float64.
    """
    ranks, shares = ranks_around(percentiles, planes[0].numel())
    select = order_statistics_counted if planes.dtype in COUNTED_DTYPES else order_statistics_sorted
    ordered = torch.stack([select(plane, ranks) for plane in planes])  # (P, 2 Q)
    return interpolated(ordered, shares)


def intensity_statistics_reference(
    planes: Tensor, percentiles: tuple[float, ...]
) -> IntensityStatistics:
    """Percentiles, extremes, mean and standard deviation (of the population) of each plane.

    Args:
        planes: (P, H, W), any real dtype, finite.
        percentiles: in 0..100.
    """
    bounds = intensity_range_reference(planes, (0.0, 100.0, *percentiles))
    values = planes.flatten(1).to(torch.float64)
    return IntensityStatistics(
        percentiles=bounds[:, 2:],
        lowest=bounds[:, 0],
        highest=bounds[:, 1],
        mean=values.mean(dim=1),
        sd=values.std(dim=1, correction=0),
    )


def order_statistics_sorted(plane: Tensor, ranks: Sequence[int]) -> Tensor:
    """The values at zero-based ranks of the sorted pixels.

    Args:
        plane: (H, W), any real dtype.
        ranks: K of them, in 0 .. H * W - 1.

    Returns:
        (K,) float64.
    """
    values = plane.flatten()
    if not values.is_floating_point():  # torch cannot sort every unsigned dtype
        values = values.to(torch.int64)
    return values.sort().values[list(ranks)].to(torch.float64)


def order_statistics_counted(plane: Tensor, ranks: Sequence[int]) -> Tensor:
    """Like `order_statistics_sorted`, by a histogram; for integers of at most 16 bits."""
    lowest = torch.iinfo(plane.dtype).min
    counts = torch.bincount(plane.flatten().to(torch.int64) - lowest)
    wanted = torch.tensor(ranks, device=plane.device)
    return (torch.searchsorted(counts.cumsum(0), wanted, right=True) + lowest).to(torch.float64)


def ranks_around(percentiles: Sequence[float], n_pixels: int) -> tuple[list[int], list[float]]:
    """The ranks below and above each percentile (2 Q), and its share of the way between (Q)."""
    places = [_place(percentile, n_pixels) for percentile in percentiles]
    ranks = [rank for low, _ in places for rank in (low, min(low + 1, n_pixels - 1))]
    return ranks, [share for _, share in places]


def _place(percentile: float, n_pixels: int) -> tuple[int, float]:
    """The rank below a percentile, and what share of the step to the next rank to go."""
    place = percentile / 100 * (n_pixels - 1)
    return int(place), place - int(place)


def interpolated(ordered: Tensor, shares: Sequence[float]) -> Tensor:
    """Values at the ranks below and above each percentile (P, 2 Q) -> percentiles (P, Q)."""
    columns = []
    for low, high, share in zip(ordered.T[0::2], ordered.T[1::2], shares, strict=True):
        step = high - low
        # numpy starts from the nearer end, so that neither end is missed by rounding
        columns.append(low + step * share if share < 0.5 else high - step * (1 - share))
    return torch.stack(columns, dim=1)


@triton.jit  # type: ignore[untyped-decorator]
def _block(planes_ptr, n_pixels, LOWEST: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Values of one block of one plane, from the dtype's lowest, and which of them exist."""
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    source = planes_ptr + tl.program_id(1).to(tl.int64) * n_pixels
    value = tl.load(source + index, mask=index < n_pixels, other=LOWEST)
    return value.to(tl.int32) - LOWEST, index < n_pixels


@triton.jit
def _row(counts_ptr, row):  # type: ignore[no-untyped-def]
    """The 256 counts of this program's plane in one row of (1 + K, P, 256)."""
    plane = tl.program_id(1).to(tl.int64)
    return counts_ptr + (row * tl.num_programs(1) + plane) * _BINS


@triton.jit
def _add_histogram(counts, value, mask):  # type: ignore[no-untyped-def]
    found = tl.histogram(value, _BINS, mask=mask)
    tl.atomic_add(counts + tl.arange(0, _BINS), found, mask=found > 0, sem="relaxed")


@triton.jit
def _located(counts, rank):  # type: ignore[no-untyped-def]
    """Which of 256 counts holds a rank, and what ranks it has: from `first` to before `end`."""
    cumulated = tl.cumsum(tl.load(counts + tl.arange(0, _BINS)), axis=0)
    before = cumulated <= rank
    place = tl.sum(before.to(tl.int32), axis=0)
    first = tl.max(tl.where(before, cumulated, 0), axis=0)
    end = tl.min(tl.where(before, 2**31 - 1, cumulated), axis=0)
    return place, first, end


@triton.jit  # type: ignore[untyped-decorator]
def count_kernel(  # type: ignore[no-untyped-def]
    planes_ptr,  # (P, H * W), contiguous
    counts_ptr,  # (1, P, 256) int32, zero before
    pixel_units,  # H * W in units of ALIGN pixels, so that alignment is known
    LOWEST: tl.constexpr,
    SHIFT: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program: counts the buckets of one block of one plane."""
    value, exists = _block(planes_ptr, pixel_units * ALIGN, LOWEST, BLOCK)
    _add_histogram(_row(counts_ptr, 0), value >> SHIFT, exists)


@triton.jit  # type: ignore[untyped-decorator]
def find_kernel(  # type: ignore[no-untyped-def]
    counts_ptr,  # (1, P, 256) int32
    found_ptr,  # (P, K, 3) int32: bucket, rank within it, first of the K ranks with this bucket
    ranks_ptr,  # (K,) int32
    LANES: tl.constexpr,
):
    """One program: finds the bucket of one rank of one plane."""
    rank = tl.load(ranks_ptr + tl.program_id(0))
    bucket, first, end = _located(_row(counts_ptr, 0), rank)

    lane = tl.arange(0, LANES)
    ranks = tl.load(ranks_ptr + lane, mask=lane < tl.num_programs(0), other=-1)
    owner = tl.min(tl.where((ranks >= first) & (ranks < end), lane, LANES), axis=0)

    plane = tl.program_id(1).to(tl.int64)
    found = found_ptr + (plane * tl.num_programs(0) + tl.program_id(0)) * 3
    tl.store(found, bucket)
    tl.store(found + 1, rank - first)
    tl.store(found + 2, owner)


@triton.jit  # type: ignore[untyped-decorator]
def refine_kernel(  # type: ignore[no-untyped-def]
    planes_ptr,  # (P, H * W), contiguous
    counts_ptr,  # (1 + K, P, 256) int32: of buckets; then zero before, low bytes in each rank's
    found_ptr,  # (P, K, 3) int32
    pixel_units,
    LOWEST: tl.constexpr,
    SHIFT: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program: counts the low bytes of one rank's bucket in one block of one plane."""
    n_pixels = pixel_units * ALIGN
    rank = tl.program_id(2)
    plane = tl.program_id(1).to(tl.int64)
    found = found_ptr + (plane * tl.num_programs(2) + rank) * 3
    if tl.load(found + 2) == rank:  # ranks of one bucket share its counts; neighbours mostly do
        bucket = tl.load(found)
        crowd = tl.load(_row(counts_ptr, 0) + bucket)
        value, exists = _block(planes_ptr, n_pixels, LOWEST, BLOCK)
        within = exists & (value >> SHIFT == bucket)
        counts = _row(counts_ptr, 1 + rank)
        if crowd > n_pixels // _CROWDED:
            _add_histogram(counts, value & 255, within)
        else:
            tl.atomic_add(counts + (value & 255), 1, mask=within, sem="relaxed")


@triton.jit  # type: ignore[untyped-decorator]
def _value_at(counts_ptr, found, LOWEST: tl.constexpr, SHIFT: tl.constexpr):  # type: ignore[no-untyped-def]
    """The value at a rank, as float64."""
    value = tl.load(found)
    if SHIFT:
        low, _, _ = _located(_row(counts_ptr, 1 + tl.load(found + 2)), tl.load(found + 1))
        value = (value << SHIFT) + low
    return (value + LOWEST).to(tl.float64)


@triton.jit  # type: ignore[untyped-decorator]
def percentile_kernel(  # type: ignore[no-untyped-def]
    counts_ptr,  # (1 + K, P, 256) int32
    found_ptr,  # (P, K, 3) int32
    shares_ptr,  # (Q,) float64
    out_ptr,  # (P, Q) float64
    LOWEST: tl.constexpr,
    SHIFT: tl.constexpr,
):
    """One program: one percentile of one plane, as `interpolated` has it."""
    place = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    low = _value_at(counts_ptr, found_ptr + place * 6, LOWEST, SHIFT)
    high = _value_at(counts_ptr, found_ptr + place * 6 + 3, LOWEST, SHIFT)
    step = high - low
    share = tl.load(shares_ptr + tl.program_id(0))
    result = tl.where(share < 0.5, low + step * share, high - step * (1 - share))
    tl.store(out_ptr + place, result)


def plan_pixels(dtype: torch.dtype, *, n_pixels: int) -> dict[str, Any]:
    """Compile-time constants of `count_kernel` and `refine_kernel`."""
    return {
        "LOWEST": torch.iinfo(dtype).min,
        "SHIFT": _shift(dtype),
        "ALIGN": math.gcd(16, n_pixels),
        "BLOCK": _BLOCK,
        "num_warps": 8,
    }


def plan_find(*, n_ranks: int) -> dict[str, Any]:
    """Compile-time constants of `find_kernel`."""
    return {"LANES": triton.next_power_of_2(n_ranks), "num_warps": 1}


def plan_percentile(dtype: torch.dtype) -> dict[str, Any]:
    """Compile-time constants of `percentile_kernel`."""
    return {
        "LOWEST": torch.iinfo(dtype).min,
        "SHIFT": _shift(dtype),
        "num_warps": 1,
        "enable_fp_fusion": False,  # products are rounded before they are added, as in torch
    }


def _shift(dtype: torch.dtype) -> int:
    """Bits of a value below its bucket."""
    return torch.iinfo(dtype).bits - 8


def intensity_range(planes: Tensor, percentiles: tuple[float, ...]) -> Tensor:
    """`intensity_range_reference`, bit for bit, in few reads of the pixels.

    8-bit pixels are read once, 16-bit ones once more for each different high byte at the ranks.

    Args:
        planes: (P, H, W) uint8, int16 or uint16, contiguous. The values of wider dtypes are too
            many to be counted: they are the reference's.
        percentiles: in 0..100.

    Returns:
        (P, Q) float64.

    Raises:
        TypeError: another dtype.
        ValueError: planes that are not contiguous, or of no pixels, or of more than 2**30.
    """
    if planes.dtype not in COUNTED_DTYPES:
        raise TypeError(f"no kernel counts {planes.dtype}: use the reference")
    if not planes.is_contiguous():
        raise ValueError("planes are not contiguous: call .contiguous() first")
    n_planes, n_pixels = len(planes), planes.shape[1:].numel()
    if not 0 < n_pixels <= 2**30:  # places are int32
        raise ValueError(f"planes of {n_pixels} pixels: give 1 to {2**30}")

    device = planes.device
    out = torch.empty((n_planes, len(percentiles)), dtype=torch.float64, device=device)
    if out.numel():
        ranks, shares = _wanted(tuple(percentiles), n_pixels, device)
        pixel_plan = plan_pixels(planes.dtype, n_pixels=n_pixels)
        is_refined = pixel_plan["SHIFT"] > 0
        n_ranks, n_rows = len(ranks), 1 + len(ranks) * is_refined
        counts = torch.zeros((n_rows, n_planes, 256), dtype=torch.int32, device=device)
        found = torch.empty((n_planes, n_ranks, 3), dtype=torch.int32, device=device)
        n_blocks, units = triton.cdiv(n_pixels, _BLOCK), n_pixels // pixel_plan["ALIGN"]

        count_kernel[(n_blocks, n_planes)](planes, counts, units, **pixel_plan)
        find_kernel[(n_ranks, n_planes)](counts, found, ranks, **plan_find(n_ranks=n_ranks))
        if is_refined:
            refine_kernel[(n_blocks, n_planes, n_ranks)](planes, counts, found, units, **pixel_plan)
        percentile_kernel[(len(shares), n_planes)](
            counts, found, shares, out, **plan_percentile(planes.dtype)
        )
    return out


@cache
def _wanted(
    percentiles: tuple[float, ...], n_pixels: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """`ranks_around` on a device. Kept, as the program waits for a list to be copied there."""
    ranks, shares = ranks_around(percentiles, n_pixels)
    return (
        torch.tensor(ranks, dtype=torch.int32, device=device),
        torch.tensor(shares, dtype=torch.float64, device=device),
    )


def intensity_statistics(planes: Tensor, percentiles: tuple[float, ...]) -> IntensityStatistics:
    """`intensity_statistics_reference`, its percentiles and extremes by `intensity_range`.

    These are the same bit for bit. The mean is a sum of whole numbers, exact in float64, the
    standard deviation a sum of squares in float64. 16 bytes of memory a pixel of all planes.

    Args:
        planes: as for `intensity_range`.
        percentiles: in 0..100.

    Raises:
        TypeError, ValueError: as `intensity_range`.
    """
    bounds = intensity_range(planes, (0.0, 100.0, *percentiles))
    values = planes.flatten(1).to(torch.float64)
    n_pixels = values.shape[1]
    mean = values.sum(dim=1) / n_pixels
    return IntensityStatistics(
        percentiles=bounds[:, 2:],
        lowest=bounds[:, 0],
        highest=bounds[:, 1],
        mean=mean,
        sd=((values - mean[:, None]).square().sum(dim=1) / n_pixels).sqrt(),
    )
