"""One pass over the pixels of a plane of whole numbers, compiled: all that quality is measured by.

Numba compiles it where it first runs, a second or two for each dtype, and keeps what it made for
later processes. It leaves the interpreter to other threads. All sums are of whole numbers, so that
equal pixels give equal bits on every machine.

Letters: H x W pixels.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Row = NDArray[Any]

_PAIRS = {"uint8": np.uint16, "uint16": np.uint32}
"""Words that hold two pixels side by side: taken by these, every step of a row is alike."""
_MOST_TRIES = 8
"""As many as there are functions."""


class Found(NamedTuple):
    """What the pass finds.

    Attributes:
        total: of all pixels.
        lowest, highest: of all pixels.
        n_highest: pixels of the highest value.
        low, high: what stands at two places of the ordered sample.
        middle: median of the crosswise differences of 2 x 2 pixels without their signs; every other
            one is looked at, both ways.
        cross: squares of the crosswise differences of 2 x 2 pixels, added up.
        fine: likewise, of squares of 2 x 2 pixels.
        coarse: squares of the differences down and to the right, of squares of 4 x 4 pixels.
        sums: of squares of 8 pixels (H // 8, W // 8).
    """

    total: int
    lowest: int
    highest: int
    n_highest: int
    low: int
    high: int
    middle: int
    cross: float
    fine: float
    coarse: float
    sums: NDArray[np.int32]


def pass_over(plane: NDArray[Any], step: int, places: tuple[int, int]) -> Found:
    """Goes over a plane (H, W) of uint8 or uint16, 8 x 8 pixels or larger.

    Squares at odd edges, which would be cut, are left out of what squares say.

    Args:
        plane: the pixels.
        step: from pixel to pixel of the sample, both ways.
        places: in the ordered sample, from 0.
    """
    height, width = plane.shape
    plane = np.ascontiguousarray(plane, plane.dtype.newbyteorder("="))
    pairs = np.ascontiguousarray(plane[:, : width // 2 * 2]).view(_PAIRS[plane.dtype.name])
    sums = np.empty((height // 8, width // 8), np.int32)
    for _ in range(_MOST_TRIES):
        with suppress(OSError):  # a function is compiled, and its disk is full: it is not kept
            return Found._make((*_pass(plane, pairs, step, *places, sums), sums))
    return Found._make((*_pass(plane, pairs, step, *places, sums), sums))


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # there is no folder where it could be kept
        return njit(nogil=True)(function)


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
def _pass(plane: Row, pairs: Row, step: int, low: int, high: int, sums: Row) -> Any:
    """Row by row: each second row ends squares of 2 pixels, each fourth of 4, each eighth of 8."""
    height, width = plane.shape
    bits = 8 * plane.itemsize
    counts = np.zeros(1 << bits, np.int32)
    crosses = np.zeros(2 << bits, np.int32)
    n_crosses = 0
    twos = np.empty((2, width // 2), np.int32)
    fours = np.empty((2, width // 4), np.int32)
    total, lowest, highest, n_highest = 0, 1 << bits, -1, 0
    cross, fine, coarse = 0.0, 0.0, 0.0
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
            cross += _pairs_halved(pairs[y - 1], pairs[y], bits, twos[y // 2 % 2])
        if y % 4 == 3:
            fine += _halved(twos[0], twos[1], fours[y // 4 % 2])
        if y % 8 == 7:
            coarse += _halved_along(fours[0], fours[1], sums[y // 8])
    ordered = _value_at(counts, low), _value_at(counts, high), _value_at(crosses, n_crosses // 2)
    return total, lowest, highest, n_highest, *ordered, cross, fine, coarse
