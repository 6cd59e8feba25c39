"""Nearest neighbours by cosine distance with excluded pairs, in bounded memory.

N rows, D features, S strips of columns. The matrix of similarities is symmetric, so only the tiles
on and above its diagonal are multiplied: half the work of a whole product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from unidino_fast.evaluation.threads import in_threads

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


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The nearest allowed row of each row."""

    row: NDArray[np.int64]  # (N,), -1 where no row is allowed
    similarity: NDArray[np.float64]  # (N,) cosine with that row, NaN where there is none


class _Scales(NamedTuple):
    """What makes rows of length 1 of rows of any size, without leaving the range of float64."""

    largest: NDArray[np.float64]  # (N, 1) largest absolute value, 1 for a row of zeros
    length: NDArray[np.float64]  # (N, 1) of the row divided by it, 1 for a row of zeros


def nearest_rows(features: NDArray[Any], excluded: Sequence[Codes] = ()) -> Neighbours:
    """Nearest allowed row of each row by cosine distance; the lowest row wins ties.

    Products are float32, tile by tile. A first pass keeps the best product of each row in each
    narrow strip of columns; a second one returns to the strips whose best comes within rounding
    error of the row's, and compares what is so close in float64. A row without length (all zeros)
    has distance 1 to every row, as in scikit-learn.

    Args:
        features: (N, D), finite.
        excluded: codes (N,) each; rows that share a code of any of them may not match. No row
            matches itself.
    """
    n = len(features)
    found = Neighbours(np.full(n, -1, dtype=np.int64), np.full(n, np.nan))
    units, scales = unit_rows(features)
    margin = product_margin(features.shape[1])
    strip = max(-(-n // _STRIPS), _SMALLEST_STRIP)
    best = _best_of_strips(units, excluded, strip)  # (N, S)
    least = best.max(axis=1, initial=-np.inf) - margin  # (N,) -inf where no row is allowed

    def look(part: tuple[NDArray[np.int64], slice]) -> tuple[NDArray[Any], ...]:
        queries, columns = part
        products = units[queries] @ units[columns].T
        _exclude(products, queries, columns, excluded)
        asked, places = np.nonzero(products >= least[queries, None])
        rows = places + columns.start
        return queries[asked], rows, similarities(features, scales, queries[asked], rows)

    def parts() -> Iterator[tuple[NDArray[np.int64], slice]]:
        for index in range(best.shape[1]):
            close = np.flatnonzero((best[:, index] >= least) & (least > -np.inf))
            for start in range(0, len(close), _SMALLEST_TILE):
                columns = slice(index * strip, min((index + 1) * strip, n))
                yield close[start : start + _SMALLEST_TILE], columns

    for queries, rows, exact in in_threads(look, parts()):
        _keep_better(found, queries, rows, exact)
    return found


def lowest_similarity(features: NDArray[Any]) -> float:
    """The smallest cosine between any two rows: 1 minus the largest distance."""
    units, scales = unit_rows(features)
    margin = product_margin(features.shape[1])
    lowest = 1.0

    def look(tile: tuple[slice, slice]) -> float:
        rows, columns = tile
        products = units[rows] @ units[columns].T
        if rows == columns:
            np.fill_diagonal(products, 1.0)
        least = min(float(products.min()), lowest)
        one, other = np.nonzero(products <= least + margin)
        one, other = one + rows.start, other + columns.start
        apart = one < other  # each pair once: a tile on the diagonal holds it twice
        exact = similarities(features, scales, one[apart], other[apart])
        return float(exact.min(initial=1.0))

    for value in in_threads(look, _upper(_tiles(len(features), 1))):
        lowest = min(lowest, value)
    return lowest


def unit_rows(features: NDArray[Any]) -> tuple[NDArray[np.float32], _Scales]:
    """Rows of length 1 as float32 (N, D), zero rows kept, and what they were divided by."""
    n, width = features.shape
    units = np.empty((n, width), dtype=np.float32)
    scales = _Scales(np.ones((n, 1)), np.ones((n, 1)))
    for part in _parts(n, width):
        exact = features[part].astype(np.float64)
        largest = np.abs(exact).max(axis=1, keepdims=True, initial=0.0)
        scales.largest[part] = np.where(largest > 0, largest, 1.0)
        exact /= scales.largest[part]
        length = np.sqrt(np.einsum("ij,ij->i", exact, exact))[:, None]
        scales.length[part] = np.where(length > 0, length, 1.0)
        units[part] = exact / scales.length[part]
    return units, scales


def similarities(
    features: NDArray[Any], scales: _Scales, one: NDArray[np.int64], other: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Cosine in float64 of pairs of rows (P,), (P,); equal pairs give equal bits."""
    exact = np.empty(len(one))
    for part in _parts(len(one), features.shape[1]):
        a, b = one[part], other[part]
        products = np.einsum(
            "ij,ij->i", features[a] / scales.largest[a], features[b] / scales.largest[b]
        )
        exact[part] = products / (scales.length[a] * scales.length[b])[:, 0]
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


def _keep_better(
    found: Neighbours,
    queries: NDArray[np.int64],
    rows: NDArray[np.int64],
    exact: NDArray[np.float64],
) -> None:
    """Takes the best of some candidates, sorted by query and row, where it beats the known one."""
    if not len(queries):
        return
    firsts = np.flatnonzero(np.diff(queries, prepend=-1))
    sizes = np.diff(firsts, append=len(queries))
    best = np.repeat(np.maximum.reduceat(exact, firsts), sizes)
    tied = np.flatnonzero(exact >= best - TIE)
    asked, places = np.unique(queries[tied], return_index=True)
    winners = tied[places]
    known = found.similarity[asked]
    better = np.isnan(known) | (exact[winners] > known + TIE)
    found.row[asked[better]] = rows[winners[better]]
    found.similarity[asked[better]] = exact[winners[better]]


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


def _parts(n: int, width: int) -> Iterator[slice]:
    """Rows 0 to n in parts that fit the scratch memory."""
    size = max(_GATHER_ELEMENTS // max(width, 1), 1)
    return (slice(start, min(start + size, n)) for start in range(0, n, size))
