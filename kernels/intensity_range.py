"""Exact percentiles and moments of planes, from counts of their values.

Letters: P planes, H x W pixels, Q percentiles, K ranks, V values that the dtype has.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

COUNTED_DTYPES = (torch.uint8, torch.int16, torch.uint16)
"""Dtypes of so few values that counting them is some 20 times faster than sorting the pixels."""
_WINDOW = 2048
"""Values counted in shared memory; the background and the dim half of most planes."""
_BLOCK = 4096
_STEPS = 4
_SEARCH = 4096


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
def histogram_kernel(  # type: ignore[no-untyped-def]
    planes_ptr,  # (P, H * W), contiguous
    counts_ptr,  # (P, V) int32, zero before
    pixel_units,  # H * W in units of ALIGN pixels, so that alignment is known
    LOWEST: tl.constexpr,
    HIGHEST: tl.constexpr,
    VALUES: tl.constexpr,
    ALIGN: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK: tl.constexpr,
    STEPS: tl.constexpr,
):
    """One program: STEPS blocks of pixels of one plane.

    Values in a window above the first block's smallest are counted by the program itself, and added
    to the plane's counts once: background, which most pixels are, would otherwise have all
    programs add to the same few addresses. The other pixels are added one by one.
    """
    n_pixels = pixel_units * ALIGN
    plane = tl.program_id(1).to(tl.int64)
    source = planes_ptr + plane * n_pixels
    target = counts_ptr + plane * VALUES
    first = tl.program_id(0) * (BLOCK * STEPS)
    window = tl.arange(0, WINDOW)
    counts = tl.zeros((WINDOW,), tl.int32)

    index = first + tl.arange(0, BLOCK)
    start = 0
    if WINDOW < VALUES:
        start = tl.min(tl.load(source + index, mask=index < n_pixels, other=HIGHEST), axis=0)
        start = start.to(tl.int32) - LOWEST
    for _ in range(STEPS):
        mask = index < n_pixels
        value = tl.load(source + index, mask=mask, other=LOWEST).to(tl.int32) - LOWEST

        place = value - start
        within = mask & (place >= 0) & (place < WINDOW)
        counts += tl.histogram(tl.where(within, place, 0), WINDOW, mask=within)
        tl.atomic_add(target + value, 1, mask=mask & ~within, sem="relaxed")
        index += BLOCK

    found = (counts > 0) & (start + window < VALUES)
    tl.atomic_add(target + start + window, counts, mask=found, sem="relaxed")


@triton.jit(do_not_specialize=["rank", "last", "column"])  # type: ignore[untyped-decorator]
def order_statistics_kernel(  # type: ignore[no-untyped-def]
    counts_ptr,  # (P, V) int32
    out_ptr,  # (P, K) float64
    rank,
    last,
    column,
    n_columns,
    LOWEST: tl.constexpr,
    VALUES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program: one plane's value at `rank` or the next. Finds the block of counts, then it."""
    plane = tl.program_id(1).to(tl.int64)
    counts = counts_ptr + plane * VALUES
    rank = tl.minimum(rank + tl.program_id(0), last)
    lane = tl.arange(0, BLOCK)

    upto = 0
    below = 0  # pixels in the blocks before the one that holds the rank
    start = 0
    for block in range(0, VALUES, BLOCK):
        upto += tl.sum(tl.load(counts + block + lane), axis=0)
        start = tl.where(upto <= rank, block + BLOCK, start)
        below = tl.where(upto <= rank, upto, below)

    cumulated = below + tl.cumsum(tl.load(counts + start + lane), axis=0)
    value = start + tl.sum((cumulated <= rank).to(tl.int32), axis=0) + LOWEST

    out = out_ptr + plane * n_columns + column + tl.program_id(0)
    tl.store(out, value.to(tl.float64))


def plan_histogram(dtype: torch.dtype, *, n_pixels: int) -> dict[str, Any]:
    """Compile-time constants of `histogram_kernel`."""
    limits = torch.iinfo(dtype)
    return {
        "LOWEST": limits.min,
        "HIGHEST": limits.max,
        "VALUES": limits.max - limits.min + 1,
        "ALIGN": math.gcd(16, n_pixels),
        "WINDOW": min(limits.max - limits.min + 1, _WINDOW),
        "BLOCK": _BLOCK,
        "STEPS": _STEPS,
        "num_warps": 8,
    }


def plan_order_statistics(dtype: torch.dtype) -> dict[str, Any]:
    """Compile-time constants of `order_statistics_kernel`."""
    limits = torch.iinfo(dtype)
    n_values = limits.max - limits.min + 1
    return {
        "LOWEST": limits.min,
        "VALUES": n_values,
        "BLOCK": min(n_values, _SEARCH),
        "num_warps": 4,
    }


def intensity_range(planes: Tensor, percentiles: tuple[float, ...]) -> Tensor:
    """`intensity_range_reference`, bit for bit, in one read of the pixels.

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
    return _percentiles(_histogram(planes), planes, percentiles)


def intensity_statistics(planes: Tensor, percentiles: tuple[float, ...]) -> IntensityStatistics:
    """`intensity_statistics_reference` in one read of the pixels.

    Percentiles and extremes are the same bit for bit; mean and standard deviation are sums of
    float64 over values instead of pixels, and not rounded further.

    Args:
        planes: as for `intensity_range`.
        percentiles: in 0..100.

    Raises:
        TypeError, ValueError: as `intensity_range`.
    """
    counts = _histogram(planes)
    bounds = _percentiles(counts, planes, (0.0, 100.0, *percentiles))
    limits = torch.iinfo(planes.dtype)
    values = torch.arange(limits.min, limits.max + 1, device=planes.device)
    n_pixels = planes[0].numel()
    mean = (counts * values).sum(dim=1).to(torch.float64) / n_pixels  # an exact sum: int64
    deviation = values.to(torch.float64) - mean[:, None]
    return IntensityStatistics(
        percentiles=bounds[:, 2:],
        lowest=bounds[:, 0],
        highest=bounds[:, 1],
        mean=mean,
        sd=((counts * deviation**2).sum(dim=1) / n_pixels).sqrt(),
    )


def _histogram(planes: Tensor) -> Tensor:
    """How many pixels of each plane have each value, from the dtype's lowest; (P, V) int32."""
    if planes.dtype not in COUNTED_DTYPES:
        raise TypeError(f"no kernel counts {planes.dtype}: use the reference")
    if not planes.is_contiguous():
        raise ValueError("planes are not contiguous: call .contiguous() first")
    n_planes, n_pixels = len(planes), planes.shape[1:].numel()
    if not 0 < n_pixels <= 2**30:  # places are int32
        raise ValueError(f"planes of {n_pixels} pixels: give 1 to {2**30}")
    constants = plan_histogram(planes.dtype, n_pixels=n_pixels)
    counts = torch.zeros((n_planes, constants["VALUES"]), dtype=torch.int32, device=planes.device)
    if n_planes:
        grid = (triton.cdiv(n_pixels, constants["BLOCK"] * constants["STEPS"]), n_planes)
        histogram_kernel[grid](planes, counts, n_pixels // constants["ALIGN"], **constants)
    return counts


def _percentiles(counts: Tensor, planes: Tensor, percentiles: tuple[float, ...]) -> Tensor:
    n_planes, n_pixels = len(planes), planes.shape[1:].numel()
    places = [_place(percentile, n_pixels) for percentile in percentiles]
    ordered = torch.empty((n_planes, 2 * len(places)), dtype=torch.float64, device=planes.device)
    constants = plan_order_statistics(planes.dtype)
    if n_planes:
        for index, (rank, _) in enumerate(places):
            # ranks go as arguments: a tensor of them would make the program wait for its copy
            order_statistics_kernel[(2, n_planes)](
                counts, ordered, rank, n_pixels - 1, 2 * index, 2 * len(places), **constants
            )
    return interpolated(ordered, [share for _, share in places])
