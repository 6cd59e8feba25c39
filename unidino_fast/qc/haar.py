"""The pass over the pixels of planes of whole numbers, compiled by numba: see `passes`.

Over planes that are there, or, `watch`, over one that is being decoded.

Letters: H x W pixels, S whole strips of 8 rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba.np.numpy_support import carray

from unidino_fast.compiled import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Planes = NDArray[Any]
    Row = NDArray[Any]
    Rooms = tuple[Planes, Row, Row, Row]

_EDGE, _OF_SQUARE = 8, 8
"""Pixels of a strip down (`passes.EDGE`), and sums in a square either way: what is compiled keeps
no constant of other files."""
_N_FOUND, _N_SEEN = 14, 7
"""Numbers of `passes.Found`, and of what is known of some strips."""
_LOWEST, _HIGHEST, _N_HIGHEST, _CROSS, _FINE, _COARSE, _N_CROSSES = range(_N_SEEN)
_VALUES = 1 << 16
"""Of a pixel of 16 bits; differences of 2 x 2 of them go up to twice that."""
_HEIGHT, _WIDTH, _STEP, _LOW_PLACE, _HIGH_PLACE, _EVERY, _NOISE = range(7)
_NEXT, _SEEN, _HEAD = 8, 9, 9 + _N_SEEN
"""Of the state of `watch`: shape and sampling of the plane (two numbers are floating-point), which
strip is next, what is known of those before, and where counters and sums begin."""


@compiled
def pass_over(
    planes: Planes,
    numbers: Row,
    pairs: Planes,
    of_pairs: Row,
    sampling: Any,
    counters: tuple[Row, Row],
    found: Planes,
) -> None:
    """Goes over planes, one after another.

    Args:
        planes: (C, H, W).
        numbers: (N,) of those to go over.
        pairs: (D, H, W // 2): words of two pixels, so that every step of a row is alike.
        of_pairs: (N,) which of these are of the same planes.
        sampling: `passes.Sampling` as a plain tuple.
        counters: all 0, as they are left: one for each value of a pixel, and twice as many.
        found: (N, 14) takes what `passes.Found` has, in order.
    """
    height, width = planes.shape[1:]
    sums = np.empty((height // _EDGE, width // _EDGE), np.int32)
    columns = np.empty(width // _EDGE * _EDGE // 2, np.int32)
    rooms = sums, columns, counters[0], counters[1]
    seen = np.empty(_N_SEEN, np.int64)
    for i in range(len(numbers)):
        plane = planes[numbers[i]]
        _begin(seen)
        _go_over(plane, pairs[of_pairs[i]], 0, -(-height // _EDGE), sampling, rooms, seen)
        _end(plane, sampling, rooms, seen, found[i])


def watch_state(shape: tuple[int, int], sampling: Any) -> NDArray[np.int64]:
    """For `watch`, of a thread: for planes (H, W) of 16 bits, W even, neither less than 8."""
    n_down, n_right = (edge // _EDGE for edge in shape)
    n_words = (3 * _VALUES + n_right * _EDGE // 2 + n_down * n_right) // 2 + 1
    state = np.zeros(_HEAD + n_words, np.int64)
    step, places, every, noise = sampling
    state[:_NOISE] = *shape, step, *places, every
    state[_NOISE:_NEXT].view(np.float64)[:] = noise
    return state


# of `watch`, as numba writes it
WATCH_SIGNATURE = "void(CPointer(int64), CPointer(uint16), int64, int64, CPointer(int64))"


def watch(state: Any, pixels: Any, first: int, n: int, found: Any) -> None:
    """Goes over those strips of a plane that are complete by now: a function as C has them.

    Args:
        state: as `watch_state` gives it.
        pixels: of the plane.
        first: of the pixels that came last, behind those before; 0 begins with another plane.
        n: of them.
        found: takes what `passes.Found` has when the last of them came.
    """
    head = carray(state, (_HEAD,))
    height, width = head[_HEIGHT], head[_WIDTH]
    n_down, n_right = height // _EDGE, width // _EDGE
    n_columns = n_right * _EDGE // 2
    n_words = _HEAD + (3 * _VALUES + n_columns + n_down * n_right) // 2 + 1
    numbers = carray(state, (n_words,))[_HEAD:].view(np.int32)
    counts, crosses = numbers[:_VALUES], numbers[_VALUES : 3 * _VALUES]
    columns = numbers[3 * _VALUES : 3 * _VALUES + n_columns]
    sums = numbers[3 * _VALUES + n_columns :][: n_down * n_right].reshape(n_down, n_right)
    noise = head[_NOISE:_NEXT].view(np.float64)
    seen, places = head[_SEEN:], (head[_LOW_PLACE], head[_HIGH_PLACE])
    sampling = head[_STEP], places, head[_EVERY], (noise[0], noise[1])
    if first == 0:
        if head[_NEXT]:  # of a plane that came to no end
            numbers[: 3 * _VALUES], head[_NEXT] = 0, 0
        _begin(seen)
    plane = carray(pixels, (height, width))
    pairs = plane.reshape(-1).view(np.uint32).reshape(height, width // 2)
    is_last = first + n == height * width
    end = -(-height // _EDGE) if is_last else (first + n) // width // _EDGE
    start, head[_NEXT] = head[_NEXT], -1
    if start < 0:
        return  # memory gave out on the way
    rooms = sums, columns, counts, crosses
    _go_over(plane, pairs, start, end, sampling, rooms, seen)
    if is_last:
        _end(plane, sampling, rooms, seen, carray(found, (_N_FOUND,)))
    head[_NEXT] = 0 if is_last else end


@compiled
def _begin(seen: Row) -> None:
    """With no strip."""
    seen[:] = 0
    seen[_LOWEST], seen[_HIGHEST] = _VALUES, -1


@compiled
def _go_over(
    plane: Planes, pairs: Planes, first: int, end: int, sampling: Any, rooms: Rooms, seen: Row
) -> None:
    """Goes over some strips, each of which the caches hold; the last may have fewer rows."""
    step, _, every, _ = sampling
    sums, columns, counts, crosses = rooms
    height, width = plane.shape
    pixels = plane.reshape(-1)
    for strip in range(first, end):
        top, bottom = _EDGE * strip, min(_EDGE * (strip + 1), height)
        low, high = _extremes(pixels[top * width : bottom * width])
        seen[_LOWEST] = min(seen[_LOWEST], low)
        if high > seen[_HIGHEST]:
            seen[_HIGHEST], seen[_N_HIGHEST] = high, 0
        if high == seen[_HIGHEST]:
            seen[_N_HIGHEST] += _count_of(pixels[top * width : bottom * width], high)
        for y in range(-(-top // step) * step, bottom, step):
            _count(plane[y], step, counts)
        if strip < len(sums):
            _add_up(pairs[top:bottom], 8 * plane.itemsize, high, columns, sums[strip])
            if strip % every == 0:
                energies = _details(pairs[top:bottom], 8 * plane.itemsize, crosses)
                seen[_CROSS] += energies[0]
                seen[_FINE] += energies[1]
                seen[_COARSE] += energies[2]
                seen[_N_CROSSES] += 2 * ((width // 2 + 1) // 2)


@compiled
def _end(plane: Planes, sampling: Any, rooms: Rooms, seen: Row, found: Row) -> None:
    """Makes of all strips what `passes.Found` has, in order; leaves counters at 0."""
    _, places, _, noise = sampling
    sums, _, counts, crosses = rooms
    lowest, highest = seen[_LOWEST], seen[_HIGHEST]
    total, spans, down, right = _summed_up(sums)
    low, high = _value_at(counts, places[0]), _value_at(counts, places[1])
    middle = _value_at(crosses, seen[_N_CROSSES] // 2)
    counts[: highest + 1] = 0
    crosses[: 2 * (highest - lowest) + 1] = 0
    n_empty = _count_upto(spans, max(middle * noise[0], noise[1]))
    whole = total + _beyond(plane)
    found[0], found[1], found[2], found[3] = whole, lowest, highest, seen[_N_HIGHEST]
    found[4], found[5], found[6], found[7] = low, high, middle, seen[_CROSS]
    found[8], found[9], found[10], found[11] = seen[_FINE], seen[_COARSE], n_empty, total
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
