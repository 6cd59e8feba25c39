"""The pass over the pixels of a plane of whole numbers, compiled by numba: see `passes`.

It takes a second or so to be compiled for each dtype, and leaves the interpreter to other threads
when it runs.

Letters: H x W pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from unidino_fast.qc.passes import EDGE, Found

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Row = NDArray[Any]

_PAIRS = {"uint8": np.uint16, "uint16": np.uint32}
"""Words that hold two pixels side by side: taken by these, every step of a row is alike."""


def compiled_pass(plane: NDArray[Any], step: int, places: tuple[int, int]) -> Found:
    """See `passes.pass_over`; the plane is contiguous, native and writable."""
    height, width = plane.shape
    pairs = np.ascontiguousarray(plane[:, : width // 2 * 2]).view(_PAIRS[plane.dtype.name])
    cross, fine, coarse = (np.zeros(height // edge, np.int64) for edge in (2, 4, EDGE))
    sums = np.empty((height // EDGE, width // EDGE), np.int32)
    facts: tuple[int, ...] = _pass(plane, pairs, step, *places, cross, fine, coarse, sums)
    # a row of squares fits 64 bits, a plane may not
    energies = (sum(rows.tolist()) for rows in (cross, fine, coarse))
    return Found._make((*facts, *energies, sums))


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    compiled: Callable[..., Any] = njit(nogil=True)(function)
    return compiled


@_compiled
def _extremes(row: Row) -> Any:
    """Sum, lowest and highest of a row."""
    total, lowest, highest = np.int64(0), row[0], row[0]
    for x in range(len(row)):
        total += row[x]
        lowest = min(lowest, row[x])
        highest = max(highest, row[x])
    return total, np.int64(lowest), np.int64(highest)


@_compiled
def _count_of(row: Row, value: int) -> Any:
    n = 0
    for x in range(len(row)):
        n += row[x] == value
    return n


@_compiled
def _pairs_halved(upper: Row, lower: Row, bits: int, sums: Row) -> Any:
    """Sums of 2 x 2 pixels; gives the squares of their crosswise differences, added up."""
    mask = np.uint32((1 << bits) - 1)
    energy = np.int64(0)
    for x in range(len(sums)):
        a, b = np.int32(upper[x] & mask), np.int32(upper[x] >> bits)
        c, d = np.int32(lower[x] & mask), np.int32(lower[x] >> bits)
        sums[x] = (a + b) + (c + d)
        cross = np.int64((a - b) - (c - d))
        energy += cross * cross
    return energy


@_compiled
def _count_crosses(upper: Row, lower: Row, bits: int, counts: Row) -> None:
    """Counts every other crosswise difference, without its sign."""
    mask = np.uint32((1 << bits) - 1)
    for x in range(0, len(upper), 2):
        a, b = np.int32(upper[x] & mask), np.int32(upper[x] >> bits)
        c, d = np.int32(lower[x] & mask), np.int32(lower[x] >> bits)
        counts[abs((a - b) - (c - d))] += 1


@_compiled
def _halved(upper: Row, lower: Row, sums: Row) -> Any:
    """As `_pairs_halved`, of rows of sums."""
    energy = np.int64(0)
    for x in range(len(sums)):
        a, b, c, d = upper[2 * x], upper[2 * x + 1], lower[2 * x], lower[2 * x + 1]
        sums[x] = (a + b) + (c + d)
        cross = np.int64((a - b) - (c - d))
        energy += cross * cross
    return energy


@_compiled
def _halved_along(upper: Row, lower: Row, sums: Row) -> Any:
    """As `_halved`, with the differences down and to the right."""
    energy = np.int64(0)
    for x in range(len(sums)):
        a, b, c, d = upper[2 * x], upper[2 * x + 1], lower[2 * x], lower[2 * x + 1]
        sums[x] = (a + b) + (c + d)
        down, right = np.int64((c + d) - (a + b)), np.int64((a - b) + (c - d))
        energy += down * down + right * right
    return energy


@_compiled
def _value_at(counts: Row, place: int) -> Any:
    """What stands at a place of the ordered values that were counted."""
    upto = value = 0
    for value in range(len(counts)):
        upto += counts[value]
        if upto > place:
            break
    return value


@_compiled
def _pass(
    plane: Row,
    pairs: Row,
    step: int,
    low: int,
    high: int,
    cross: Row,
    fine: Row,
    coarse: Row,
    sums: Row,
) -> Any:
    """Row by row: each second row ends squares of 2 pixels, each fourth of 4, each eighth of 8."""
    height, width = plane.shape
    bits = 8 * plane.itemsize
    counts = np.zeros(1 << bits, np.int32)
    crosses = np.zeros(2 << bits, np.int32)
    n_crosses = 0
    twos = np.empty((2, width // 2), np.int32)
    fours = np.empty((2, width // 4), np.int32)
    total, lowest, highest, n_highest = 0, 1 << bits, -1, 0
    for y in range(height):
        row_total, row_lowest, row_highest = _extremes(plane[y])
        total += row_total
        lowest = min(lowest, row_lowest)
        if row_highest > highest:
            highest, n_highest = row_highest, 0
        if row_highest == highest:
            n_highest += _count_of(plane[y], highest)
        if y % step == 0:
            for x in range(0, width, step):
                counts[plane[y, x]] += 1
        if y % 4 == 1:
            _count_crosses(pairs[y - 1], pairs[y], bits, crosses)
            n_crosses += (pairs.shape[1] + 1) // 2
        if y % 2 == 1:
            cross[y // 2] = _pairs_halved(pairs[y - 1], pairs[y], bits, twos[y // 2 % 2])
        if y % 4 == 3:
            fine[y // 4] = _halved(twos[0], twos[1], fours[y // 4 % 2])
        if y % 8 == 7:
            coarse[y // 8] = _halved_along(fours[0], fours[1], sums[y // 8])
    ordered = _value_at(counts, low), _value_at(counts, high), _value_at(crosses, n_crosses // 2)
    return total, lowest, highest, n_highest, *ordered
