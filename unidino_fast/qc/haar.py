"""The pass over the pixels of a plane of whole numbers, compiled by numba: see `passes`.

Letters: H x W pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from unidino_fast.compiled import compiled
from unidino_fast.qc.passes import EDGE, SQUARE, Found, n_squares

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Row = NDArray[Any]

_PAIRS = {"uint8": np.uint16, "uint16": np.uint32}
"""Words that hold two pixels side by side: taken by these, every step of a row is alike."""


def compiled_pass(plane: NDArray[Any], step: int, places: tuple[int, int]) -> Found:
    """See `passes.pass_over`; the plane is contiguous, native and writable."""
    height, width = plane.shape
    pairs = np.ascontiguousarray(plane[:, : width // 2 * 2]).view(_PAIRS[plane.dtype.name])
    energies = np.zeros((3, 2), np.int64)
    sums = np.empty((height // EDGE, width // EDGE), np.int32)
    # numpy's zeros are pages that the system gives when they are written to: few of these are
    counts, crosses = (np.zeros(n << 8 * plane.itemsize, np.int32) for n in (1, 2))
    facts: tuple[int, ...] = _pass(plane, pairs, step, *places, counts, crosses, energies, sums)
    whole = ((high << 32) + low for high, low in energies.tolist())
    spans = np.empty(n_squares(sums.shape), np.int32)
    down, right = (np.zeros(edge, np.int64) for edge in sums.shape)
    total = _summed_up(sums, SQUARE // EDGE, spans, down, right) + _beyond(plane, EDGE)
    return Found._make((total, *facts, *whole, spans, down, right))


@compiled
def _extremes(row: Row) -> Any:
    """Lowest and highest of a row."""
    lowest, highest = row[0], row[0]
    for x in range(len(row)):
        lowest = min(lowest, row[x])
        highest = max(highest, row[x])
    return np.int64(lowest), np.int64(highest)


@compiled
def _count_of(row: Row, value: int) -> Any:
    n = 0
    for x in range(len(row)):
        n += row[x] == value
    return n


@compiled
def _pair_halved(upper: int, lower: int, bits: int) -> Any:
    """Sum and crosswise difference of 2 x 2 pixels."""
    mask = np.uint32((1 << bits) - 1)
    a, b = np.int32(upper & mask), np.int32(upper >> np.uint32(bits))
    c, d = np.int32(lower & mask), np.int32(lower >> np.uint32(bits))
    return (a + b) + (c + d), (a - b) - (c - d)


@compiled
def _pairs_halved(upper: Row, lower: Row, bits: int, sums: Row, crosses: Row) -> None:
    """Sums and crosswise differences of 2 x 2 pixels."""
    if bits == 16:  # shifts that are known beforehand take words of 32 bits, others of 64
        for x in range(len(sums)):
            sums[x], crosses[x] = _pair_halved(upper[x], lower[x], 16)
    else:
        for x in range(len(sums)):
            sums[x], crosses[x] = _pair_halved(upper[x], lower[x], 8)


@compiled
def _energy(row: Row) -> Any:
    """Squares, added up."""
    energy = np.int64(0)
    for x in range(len(row)):
        value = np.int64(row[x])
        energy += value * value
    return energy


@compiled
def _count_sizes(row: Row, step: int, counts: Row) -> None:
    """Counts each `step`-th value, without its sign."""
    for x in range(0, len(row), step):
        counts[np.uint32(abs(row[x]))] += 1  # of signed places numba asks whether they are negative


@compiled
def _halved(upper: Row, lower: Row, sums: Row) -> Any:
    """Sums of 2 x 2 sums; gives the squares of their crosswise differences, added up."""
    energy = np.int64(0)
    for x in range(len(sums)):
        a, b, c, d = upper[2 * x], upper[2 * x + 1], lower[2 * x], lower[2 * x + 1]
        sums[x] = (a + b) + (c + d)
        cross = np.int64((a - b) - (c - d))
        energy += cross * cross
    return energy


@compiled
def _halved_along(upper: Row, lower: Row, sums: Row) -> Any:
    """As `_halved`, with the differences down and to the right."""
    energy = np.int64(0)
    for x in range(len(sums)):
        a, b, c, d = upper[2 * x], upper[2 * x + 1], lower[2 * x], lower[2 * x + 1]
        sums[x] = (a + b) + (c + d)
        down, right = np.int64((c + d) - (a + b)), np.int64((a - b) + (c - d))
        energy += down * down + right * right
    return energy


@compiled
def _add(energy: int, limbs: Row) -> None:
    """Adds the energy of a row, which fits 64 bits, to that of a plane, which may not."""
    limbs[0] += energy >> 32
    limbs[1] += energy & 0xFFFFFFFF


@compiled
def _value_at(counts: Row, place: int) -> Any:
    """What stands at a place of the ordered values that were counted."""
    upto = value = 0
    for value in range(len(counts)):
        upto += counts[value]
        if upto > place:
            break
    return value


@compiled
def _pass(
    plane: Row,
    pairs: Row,
    step: int,
    low: int,
    high: int,
    counts: Row,
    crosses: Row,
    energies: Row,
    sums: Row,
) -> Any:
    """Row by row: each second row ends squares of 2 pixels, each fourth of 4, each eighth of 8."""
    cross, fine, coarse = energies[0], energies[1], energies[2]
    height, width = plane.shape
    bits = 8 * plane.itemsize
    n_crosses = 0
    row_crosses = np.empty(width // 2, np.int32)
    twos = np.empty((2, width // 2), np.int32)
    fours = np.empty((2, width // 4), np.int32)
    lowest, highest, n_highest = 1 << bits, -1, 0
    for y in range(height):
        row_lowest, row_highest = _extremes(plane[y])
        lowest = min(lowest, row_lowest)
        if row_highest > highest:
            highest, n_highest = row_highest, 0
        if row_highest == highest:
            n_highest += _count_of(plane[y], highest)
        if y % step == 0:
            for x in range(0, width, step):
                counts[plane[y, x]] += 1
        if y % 2 == 1:
            _pairs_halved(pairs[y - 1], pairs[y], bits, twos[y // 2 % 2], row_crosses)
            _add(_energy(row_crosses), cross)
        if y % 4 == 1:
            _count_sizes(row_crosses, 2, crosses)
            n_crosses += (width // 2 + 1) // 2
        if y % 4 == 3:
            _add(_halved(twos[0], twos[1], fours[y // 4 % 2]), fine)
        if y % 8 == 7:
            _add(_halved_along(fours[0], fours[1], sums[y // 8]), coarse)
    ordered = _value_at(counts, low), _value_at(counts, high), _value_at(crosses, n_crosses // 2)
    return lowest, highest, n_highest, *ordered


@compiled
def _summed_up(sums: Row, edge: int, spans: Row, down: Row, right: Row) -> Any:
    """See `passes.summed_up`, of squares of so many sums; gives all of them together."""
    height, width = min(edge, sums.shape[0]), min(edge, sums.shape[1])
    for i in range(spans.shape[0]):
        for j in range(spans.shape[1]):
            lowest = highest = sums[edge * i, edge * j]
            for y in range(edge * i, edge * i + height):
                for x in range(edge * j, edge * j + width):
                    lowest = min(lowest, sums[y, x])
                    highest = max(highest, sums[y, x])
            spans[i, j] = highest - lowest
    total = np.int64(0)
    for y in range(sums.shape[0]):
        for x in range(sums.shape[1]):
            down[y] += sums[y, x]
        for x in range(sums.shape[1]):  # apart, both take several sums at a time
            right[x] += sums[y, x]
        total += down[y]
    return total


@compiled
def _beyond(plane: Row, edge: int) -> Any:
    """Sum of the pixels that whole squares leave over, below and to the right."""
    height, width = plane.shape[0] // edge * edge, plane.shape[1] // edge * edge
    total = np.int64(0)
    for y in range(plane.shape[0]):
        for x in range(width if y < height else 0, plane.shape[1]):
            total += plane[y, x]
    return total
