"""Nearest neighbours by cosine distance with excluded pairs, in bounded memory.

N rows, D features, S strips of columns. The matrix of similarities is symmetric, so only the tiles
on and above its diagonal are multiplied: half the work of a whole product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from unidino_fast.threads import in_threads, threads_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Codes = NDArray[np.int32]

TIE = 1e-12
"""Similarities this close are ties: far above the rounding of float64, far below any meaning."""

_SMALLEST_TILE, _LARGEST_TILE = 512, 2048
_TILES = 8  # along an edge: more leave less to do twice on the diagonal, larger multiply faster
_SMALLEST_STRIP = 64
_STRIPS = 128  # that keep the best product of each row: more leave less to multiply again
_GATHER_ELEMENTS = 1 << 21  # of the rows compared in float64 at a time: 16 MiB
_CACHED_ELEMENTS = 1 << 16  # of rows that are made of length 1: they stay in a core's own cache


class UnitRows(NamedTuple):
    """Rows, and what makes them of length 1 without leaving the range of float64."""

    features: NDArray[Any]  # (N, D) as given
    units: NDArray[np.float32]  # (N, D) of length 1, zero rows kept
    largest: NDArray[np.float64]  # (N, 1) largest absolute value, 1 for a row of zeros
    length: NDArray[np.float64]  # (N, 1) of the row divided by it, 1 for a row of zeros


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The nearest allowed row of each row."""

    row: NDArray[np.int64]  # (N,), -1 where no row is allowed
    product: NDArray[np.float32]  # (N,) cosine with it, rounded as float32 products are; or -inf


def unit_rows(features: NDArray[Any]) -> UnitRows:
    """Rows (N, D), finite, of length 1; each row's does not depend on the others."""
    n, width = features.shape
    rows = UnitRows(features, np.empty((n, width), np.float32), np.ones((n, 1)), np.ones((n, 1)))

    def look(part: slice) -> None:
        exact = features[part].astype(np.float64)
        largest = np.maximum(exact.max(axis=1, initial=0.0), -exact.min(axis=1, initial=0.0))
        largest[largest == 0] = 1.0
        exact /= largest[:, None]
        length = np.sqrt(np.einsum("ij,ij->i", exact, exact))
        length[length == 0] = 1.0
        np.divide(exact, length[:, None], out=rows.units[part], casting="same_kind")
        rows.largest[part, 0], rows.length[part, 0] = largest, length

    for _ in in_threads(look, _parts(n, width, _CACHED_ELEMENTS), threads_for(n * width)):
        pass
    return rows


def nearest_rows(rows: UnitRows, excluded: Sequence[Codes] = ()) -> Neighbours:
    """Nearest allowed row of each row by cosine distance; the lowest row wins ties.

    Products are float32, tile by tile. A first pass keeps the best product of each row in each
    narrow strip of columns; a second one returns to the strips whose best comes within rounding
    error of the row's. What is so close there is compared in float64, unless it is alone. A row
    without length (all zeros) has distance 1 to every row, as in scikit-learn.

    Args:
        rows: N of them.
        excluded: codes (N,) each; rows that share a code of any of them may not match. No row
            matches itself.
    """
    n = len(rows.units)
    strip = max(-(-n // _STRIPS), _SMALLEST_STRIP)
    best = _best_of_strips(rows.units, excluded, strip)  # (N, S)
    found = _Best(n, best.max(axis=1, initial=-np.inf))
    least = found.product - product_margin(rows.units.shape[1])  # (N,) -inf where none is allowed
    close = (best >= least[:, None]) & (least > -np.inf)[:, None]
    in_one_strip = np.count_nonzero(close, axis=1) == 1

    def look(part: tuple[NDArray[np.int64], slice]) -> tuple[NDArray[Any], ...]:
        queries, columns = part
        products = rows.units[queries] @ rows.units[columns].T
        _exclude(products, queries, columns, excluded)
        places, others = np.nonzero(products >= least[queries, None])
        asked, others = queries[places], others + columns.start
        alone = in_one_strip[asked] & (np.bincount(places)[places] == 1)
        exact = np.ones(len(asked))
        exact[~alone] = similarities(rows, asked[~alone], others[~alone])
        return asked, others, exact

    def parts() -> Iterator[tuple[NDArray[np.int64], slice]]:
        for index in range(best.shape[1]):
            queries = np.flatnonzero(close[:, index])
            columns = slice(index * strip, min((index + 1) * strip, n))
            for start in range(0, len(queries), _SMALLEST_TILE):
                yield queries[start : start + _SMALLEST_TILE], columns

    for asked, others, exact in in_threads(look, parts()):
        found.add(asked, others, exact)
    return Neighbours(found.row, found.product)


def at_largest_distance(rows: UnitRows, neighbours: Neighbours) -> NDArray[np.bool_]:
    """Rows (N,) whose neighbour is as far as any two rows of the table are.

    All distances are looked at only where it is in doubt: mostly the row whose neighbour is
    farthest has a row that is farther still, so that no neighbour is at the largest distance.
    """
    found = np.flatnonzero(neighbours.row >= 0)
    farthest = np.zeros(len(neighbours.row), dtype=np.bool_)
    if not len(found):
        return farthest
    margin = product_margin(rows.units.shape[1])
    products = neighbours.product[found]
    last = found[products.argmin()]
    if (rows.units @ rows.units[last]).min() < products.min() - margin:
        return farthest
    lowest = lowest_similarity(rows)
    near = found[products <= lowest + margin]
    exact = similarities(rows, near, neighbours.row[near])
    farthest[near] = exact <= lowest + TIE
    return farthest


def lowest_similarity(rows: UnitRows) -> float:
    """The smallest cosine between any two rows: 1 minus the largest distance."""
    units = rows.units
    margin = product_margin(units.shape[1])
    lowest = 1.0

    def look(tile: tuple[slice, slice]) -> float:
        down, across = tile
        products = units[down] @ units[across].T
        if down == across:
            np.fill_diagonal(products, 1.0)
        least = min(float(products.min()), lowest)
        one, other = np.nonzero(products <= least + margin)
        one, other = one + down.start, other + across.start
        apart = one < other  # each pair once: a tile on the diagonal holds it twice
        exact = similarities(rows, one[apart], other[apart])
        return float(exact.min(initial=1.0))

    for value in in_threads(look, _upper(_tiles(len(units), 1))):
        lowest = min(lowest, value)
    return lowest


def similarities(
    rows: UnitRows, one: NDArray[np.int64], other: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Cosine in float64 of pairs of rows (P,), (P,); equal pairs give equal bits."""
    features, _, largest, length = rows
    exact = np.empty(len(one))
    for part in _parts(len(one), features.shape[1], _GATHER_ELEMENTS):
        a, b = one[part], other[part]
        products = np.einsum("ij,ij->i", features[a] / largest[a], features[b] / largest[b])
        exact[part] = products / (length[a] * length[b])[:, 0]
    return exact


def product_margin(n_features: int) -> float:
    """How far two float32 products may lie from their true order: rounding of D additions."""
    return float(8 * np.sqrt(n_features + 16) * np.finfo(np.float32).eps)


def _best_of_strips(
    units: NDArray[np.float32], excluded: Sequence[Codes], strip: int
) -> NDArray[np.float32]:
    """Largest allowed product of each row in each strip of columns, (N, S); -inf where is none."""
    n = len(units)
    best = np.empty((n, -(-n // strip)), dtype=np.float32)

    def look(tile: tuple[slice, slice]) -> None:
        rows, columns = tile
        products = units[rows] @ units[columns].T
        _exclude(products, np.arange(rows.start, rows.stop), columns, excluded)
        for start in range(columns.start, columns.stop, strip):
            part = products[:, start - columns.start : start - columns.start + strip]
            part.max(axis=1, out=best[rows, start // strip])
        for start in range(rows.start, rows.stop, strip):
            part = products[start - rows.start : start - rows.start + strip]
            part.max(axis=0, out=best[columns, start // strip])

    for _ in in_threads(look, _upper(_tiles(n, strip))):
        pass
    return best


def _exclude(
    products: NDArray[np.float32],
    queries: NDArray[np.int64],
    columns: slice,
    excluded: Sequence[Codes],
) -> None:
    """Sets products (Q, C) of rows that may not match to -inf."""
    for codes in excluded:
        np.copyto(products, -np.inf, where=codes[queries, None] == codes[columns])
    own = np.flatnonzero((queries >= columns.start) & (queries < columns.stop))
    products[own, queries[own] - columns.start] = -np.inf


class _Best:
    """The best candidate so far of each of N rows."""

    def __init__(self, n: int, product: NDArray[np.float32]) -> None:
        self.row = np.full(n, -1, dtype=np.int64)
        self.product = product
        self._similarity = np.full(n, -np.inf)

    def add(
        self, queries: NDArray[np.int64], rows: NDArray[np.int64], exact: NDArray[np.float64]
    ) -> None:
        """Candidates (P,) of some queries, sorted by query and row, above all rows before them."""
        if not len(queries):
            return
        firsts = np.flatnonzero(np.diff(queries, prepend=-1))
        sizes = np.diff(firsts, append=len(queries))
        best = np.repeat(np.maximum.reduceat(exact, firsts), sizes)
        tied = np.flatnonzero(exact >= best - TIE)
        asked, places = np.unique(queries[tied], return_index=True)
        winners = tied[places]
        better = exact[winners] > self._similarity[asked] + TIE
        self.row[asked[better]] = rows[winners[better]]
        self._similarity[asked[better]] = exact[winners[better]]


def _tiles(n: int, strip: int) -> list[slice]:
    """Rows 0 to n in tiles of one size, of whole strips."""
    size = min(max(n // _TILES, _SMALLEST_TILE), _LARGEST_TILE)
    size = max(size // strip, 1) * strip
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def _upper(tiles: Sequence[slice]) -> Iterator[tuple[slice, slice]]:
    """Pairs of tiles on and above the diagonal."""
    for index, rows in enumerate(tiles):
        for columns in tiles[index:]:
            yield rows, columns


def _parts(n: int, width: int, n_elements: int) -> Iterator[slice]:
    """Rows 0 to n in parts of so many numbers."""
    size = max(n_elements // max(width, 1), 1)
    return (slice(start, min(start + size, n)) for start in range(0, n, size))
