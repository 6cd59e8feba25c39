"""The pass over the pixels of planes of whole numbers, compiled by numba: see `passes`.

Letters: H x W pixels, S whole strips of 8 rows.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from unidino_fast.compiled import compiled
from unidino_fast.qc.passes import Found

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from unidino_fast.qc.passes import Sampling

    Planes = NDArray[Any]
    Row = NDArray[Any]

_PAIRS = {1: np.uint16, 2: np.uint32}
"""Words that hold two pixels side by side: taken by these, every step of a row is alike."""
_EDGE, _OF_SQUARE = 8, 8
"""Pixels of a strip down (`passes.EDGE`), and sums in a square either way: what is compiled keeps
no constant of other files."""


def compiled_pass(planes: Planes, numbers: Sequence[int], sampling: Sampling) -> NDArray[np.int64]:
    """See `passes.pass_over`; the planes are contiguous, native and writable."""
    own = of_pairs = np.array(numbers, np.int64)
    even = planes
    if planes.shape[2] % 2:
        even, of_pairs = np.ascontiguousarray(planes[own, :, :-1]), np.arange(len(own))
    pairs = even.view(_PAIRS[planes.itemsize])
    counters = _COUNTERS.of(planes.itemsize)
    found = np.empty((len(own), len(Found._fields)), np.int64)
    # to recognise any other than a plain tuple takes numba longer
    _pass_over(planes, own, pairs, of_pairs, tuple(sampling), counters, found)
    return found


class _Counters(threading.local):
    """Of values, and of differences, for one thread.

    New ones for each plane would be pages that the system gives and takes back, while other threads
    wait: a tenth of a millisecond.
    """

    def __init__(self) -> None:
        self._held: dict[int, tuple[Row, Row]] = {}

    def of(self, n_bytes: int) -> tuple[Row, Row]:
        """For pixels of so many bytes: all 0, as the pass leaves them."""
        held = self._held.get(n_bytes)
        if held is None:
            values, differences = (np.zeros(n << 8 * n_bytes, np.int32) for n in (1, 2))
            held = self._held[n_bytes] = values, differences
        return held


_COUNTERS = _Counters()


@compiled
def _pass_over(
    planes: Planes,
    numbers: Row,
    pairs: Planes,
    of_pairs: Row,
    sampling: Any,
    counters: tuple[Row, Row],
    found: Row,
) -> None:
    """Plane by plane; those of `pairs` may be others than those of `planes`."""
    for i in range(len(numbers)):
        _pass(planes[numbers[i]], pairs[of_pairs[i]], sampling, counters, found[i])


@compiled
def _pass(plane: Row, pairs: Row, sampling: Any, counters: tuple[Row, Row], found: Row) -> None:
    """Strip by strip, each of which the caches hold; finds what `passes.Found` has, in order."""
    step, places, every, noise = sampling
    counts, crosses = counters
    height, width = plane.shape
    pixels = plane.reshape(-1)
    n_strips = height // _EDGE
    sums = np.empty((n_strips, width // _EDGE), np.int32)
    columns = np.empty(sums.shape[1] * _EDGE // 2, np.int32)
    lowest, highest, n_highest = 1 << (8 * plane.itemsize), -1, 0
    cross, fine, coarse, n_crosses = 0, 0, 0, 0
    for strip in range(-(-height // _EDGE)):
        top, end = _EDGE * strip, min(_EDGE * (strip + 1), height)
        low, high = _extremes(pixels[top * width : end * width])
        lowest = min(lowest, low)
        if high > highest:
            highest, n_highest = high, 0
        if high == highest:
            n_highest += _count_of(pixels[top * width : end * width], high)
        for y in range(-(-top // step) * step, end, step):
            _count(plane[y], step, counts)
        if strip < n_strips:
            _add_up(pairs[top:end], 8 * plane.itemsize, high, columns, sums[strip])
            if strip % every == 0:
                energies = _details(pairs[top:end], 8 * plane.itemsize, crosses)
                cross += energies[0]
                fine += energies[1]
                coarse += energies[2]
                n_crosses += 2 * ((width // 2 + 1) // 2)
    total, spans, down, right = _summed_up(sums)
    low, high = _value_at(counts, places[0]), _value_at(counts, places[1])
    middle = _value_at(crosses, n_crosses // 2)
    counts[: highest + 1] = 0
    crosses[: 2 * (highest - lowest) + 1] = 0
    n_empty = _count_upto(spans, max(middle * noise[0], noise[1]))
    whole = total + _beyond(plane)
    found[0], found[1], found[2], found[3] = whole, lowest, highest, n_highest
    found[4], found[5], found[6], found[7] = low, high, middle, cross
    found[8], found[9], found[10], found[11] = fine, coarse, n_empty, total
    found[12], found[13] = down, right


@compiled
def _extremes(pixels: Row) -> Any:
    """Lowest and highest."""
    lowest, highest = pixels[0], pixels[0]
    for x in range(len(pixels)):
        lowest = min(lowest, pixels[x])
        highest = max(highest, pixels[x])
    return np.int64(lowest), np.int64(highest)


@compiled
def _count_of(pixels: Row, value: int) -> Any:
    n = 0
    for x in range(len(pixels)):
        n += pixels[x] == value
    return n


@compiled
def _count_upto(values: Row, limit: float) -> Any:
    n = 0
    for x in range(len(values)):
        n += values[x] <= limit
    return n


@compiled
def _count(row: Row, step: int, counts: Row) -> None:
    """Counts each `step`-th value."""
    for x in range(0, len(row), step):
        counts[row[x]] += 1


@compiled
def _count_sizes(row: Row, counts: Row) -> None:
    """Counts every other value, without its sign."""
    for x in range(0, len(row), 2):
        counts[np.uint32(abs(row[x]))] += 1  # of signed places numba asks whether they are negative


@compiled
def _add_up(pairs: Row, bits: int, highest: int, columns: Row, sums: Row) -> None:
    """A strip (8, W / 2) of pairs -> sums of their columns, and of squares."""
    if _EDGE * highest < 1 << bits:
        _add_words(pairs, bits, columns)
    elif bits == 16:  # shifts that are known beforehand take words of 32 bits, others of 64
        _add_pairs(pairs, 16, columns)
    else:
        _add_pairs(pairs, 8, columns)
    for x in range(len(sums)):
        at = 4 * x
        sums[x] = (columns[at] + columns[at + 1]) + (columns[at + 2] + columns[at + 3])


@compiled
def _add_pairs(pairs: Row, bits: int, columns: Row) -> None:
    a, b, c, d = pairs[0], pairs[1], pairs[2], pairs[3]
    e, f, g, h = pairs[4], pairs[5], pairs[6], pairs[7]
    for x in range(len(columns)):
        upper = (_pair(a[x], bits) + _pair(b[x], bits)) + (_pair(c[x], bits) + _pair(d[x], bits))
        lower = (_pair(e[x], bits) + _pair(f[x], bits)) + (_pair(g[x], bits) + _pair(h[x], bits))
        columns[x] = upper + lower


@compiled
def _add_words(pairs: Row, bits: int, columns: Row) -> None:
    """As `_add_pairs`, where the sums of eight pixels need no more bits than a pixel has."""
    a, b, c, d = pairs[0], pairs[1], pairs[2], pairs[3]
    e, f, g, h = pairs[4], pairs[5], pairs[6], pairs[7]
    for x in range(len(columns)):
        columns[x] = ((a[x] + b[x]) + (c[x] + d[x])) + ((e[x] + f[x]) + (g[x] + h[x]))
    if bits == 16:
        for x in range(len(columns)):
            columns[x] = _pair(np.uint32(columns[x]), 16)
    else:
        for x in range(len(columns)):
            columns[x] = _pair(np.uint32(columns[x]), 8)


@compiled
def _pair(pair: int, bits: int) -> Any:
    """Sum of two pixels."""
    mask = np.uint32((1 << bits) - 1)
    return np.int32(pair & mask) + np.int32(pair >> np.uint32(bits))


@compiled
def _details(pairs: Row, bits: int, counts: Row) -> Any:
    """Energies of a strip (8, W / 2) of pairs: of squares of 2, 4 and 8 pixels."""
    crosses = np.empty(pairs.shape[1], np.int32)
    twos = np.empty((2, pairs.shape[1]), np.int32)
    fours = np.empty((2, pairs.shape[1] // 2), np.int32)
    cross, fine = np.int64(0), np.int64(0)
    for four in range(2):
        for two in range(2):
            y = 4 * four + 2 * two
            _pairs_halved(pairs[y], pairs[y + 1], bits, twos[two], crosses)
            cross += _energy(crosses)
            if two == 0:
                _count_sizes(crosses, counts)
        fine += _halved(twos[0], twos[1], fours[four])
    return cross, fine, _energy_along(fours[0], fours[1])


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
def _energy_along(upper: Row, lower: Row) -> Any:
    """Squares of the differences of 2 x 2 sums down and to the right, added up."""
    energy = np.int64(0)
    for x in range(len(upper) // 2):
        a, b, c, d = upper[2 * x], upper[2 * x + 1], lower[2 * x], lower[2 * x + 1]
        down, right = np.int64((c + d) - (a + b)), np.int64((a - b) + (c - d))
        energy += down * down + right * right
    return energy


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
def _summed_up(sums: Row) -> Any:
    """All sums together, and what `passes.summed_up` finds of them."""
    n_rows, n_columns = sums.shape
    of_columns = np.zeros(n_columns, np.int64)
    total = down = right = np.int64(0)
    for y in range(n_rows):
        row = sums[y]
        of_row = np.int64(0)
        for x in range(n_columns):
            of_row += row[x]
        for x in range(n_columns):  # apart, both take several sums at a time
            of_columns[x] += row[x]
        total += of_row
        down += of_row * (2 * y - (n_rows - 1))
    for x in range(n_columns):
        right += of_columns[x] * (2 * x - (n_columns - 1))
    return total, _spans(sums), down, right


@compiled
def _spans(sums: Row) -> Row:
    """Highest less lowest of each square of sums: down first, which vectors do."""
    n_rows, n_columns = sums.shape
    height, width = min(_OF_SQUARE, n_rows), min(_OF_SQUARE, n_columns)
    across = n_columns // width
    lowest, highest = np.empty(n_columns, np.int32), np.empty(n_columns, np.int32)
    spans = np.empty(n_rows // height * across, np.int32)
    for square in range(n_rows // height):
        rows = sums[square * height : (square + 1) * height]
        lowest[:], highest[:] = rows[0], rows[0]
        for y in range(1, height):
            row = rows[y]
            for x in range(n_columns):
                lowest[x] = min(lowest[x], row[x])
            for x in range(n_columns):
                highest[x] = max(highest[x], row[x])
        for i in range(across):
            own = slice(i * width, (i + 1) * width)
            spans[square * across + i] = highest[own].max() - lowest[own].min()
    return spans


@compiled
def _beyond(plane: Row) -> Any:
    """Sum of the pixels that whole squares leave over, below and to the right."""
    height, width = plane.shape[0] // _EDGE * _EDGE, plane.shape[1] // _EDGE * _EDGE
    total = np.int64(0)
    for y in range(plane.shape[0]):
        for x in range(width if y < height else 0, plane.shape[1]):
            total += plane[y, x]
    return total
