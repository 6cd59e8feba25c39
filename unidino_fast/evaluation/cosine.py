"""Nearest neighbours by cosine distance with excluded pairs, in bounded memory.

N rows, D features, B rows of a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    Excluded = Callable[[slice], NDArray[np.bool_]]

TIE = 1e-12
"""Similarities this close are ties: far above the rounding of float64, far below any meaning."""

_BLOCK_ELEMENTS = 1 << 23  # of a block of similarities: 32 MiB
_GATHER_ELEMENTS = 1 << 22  # of the rows compared in float64 at a time: 32 MiB


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The nearest allowed row of each row."""

    row: NDArray[np.int64]  # (N,), -1 where no row is allowed
    similarity: NDArray[np.float64]  # (N,) cosine with that row, NaN where there is none


def nearest_rows(features: NDArray[Any], excluded: Excluded) -> Neighbours:
    """Nearest allowed row of each row by cosine distance; the lowest row wins ties.

    Products are float32, a block of rows at a time; whatever comes within their rounding error of
    the best is compared again in float64. A row without length (all zeros) has distance 1 to every
    row, as in scikit-learn.

    Args:
        features: (N, D), finite.
        excluded: gives the (B, N) mask of pairs that are not allowed for a block of rows; it must
            exclude each row from itself.
    """
    n = len(features)
    row = np.full(n, -1, dtype=np.int64)
    similarity = np.full(n, np.nan)
    margin = _margin(features.shape[1])
    for block, products in _blocks(features):
        products[excluded(block)] = -np.inf
        best = products.max(axis=1)
        for offset in np.flatnonzero(best > -np.inf):
            query = block.start + int(offset)
            close = np.flatnonzero(products[offset] >= best[offset] - margin)
            exact = _similarities(features, query, close)
            winner = int(np.argmax(exact >= exact.max() - TIE))
            row[query], similarity[query] = close[winner], exact[winner]
    return Neighbours(row, similarity)


def lowest_similarity(features: NDArray[Any]) -> float:
    """The smallest cosine between any two rows: 1 minus the largest distance."""
    lowest = 1.0
    margin = _margin(features.shape[1])
    for block, products in _blocks(features):
        np.einsum("ii->i", products[:, block])[...] = 1.0
        for offset in np.flatnonzero(products.min(axis=1) <= lowest + margin):
            far = np.flatnonzero(products[offset] <= products[offset].min() + margin)
            far = far[far != block.start + offset]
            if len(far):
                exact = _similarities(features, block.start + int(offset), far)
                lowest = min(lowest, float(exact.min()))
    return lowest


def _blocks(features: NDArray[Any]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Similarities of a block of rows with all rows, (B, N), block after block."""
    units = np.empty(features.shape, dtype=np.float32)
    size = max(_BLOCK_ELEMENTS // max(len(features), 1), 1)
    scratch = max(_GATHER_ELEMENTS // max(features.shape[1], 1), 1)
    for start in range(0, len(features), scratch):
        units[start : start + scratch] = _unit(features[start : start + scratch])
    for start in range(0, len(features), size):
        block = slice(start, min(start + size, len(features)))
        yield block, units[block] @ units.T


def _similarities(
    features: NDArray[Any], query: int, rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Cosine of one row with some rows in float64."""
    unit = _unit(features[query : query + 1])[0]
    scratch = max(_GATHER_ELEMENTS // max(features.shape[1], 1), 1)
    parts = [
        _unit(features[rows[start : start + scratch]]) @ unit
        for start in range(0, len(rows), scratch)
    ]
    return np.concatenate(parts)


def _unit(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Rows of length 1 in float64, zero rows kept; values near either end of the range are safe."""
    exact = rows.astype(np.float64)
    largest = np.abs(exact).max(axis=1, keepdims=True, initial=0.0)
    exact /= np.where(largest > 0, largest, 1.0)
    length = np.sqrt(np.square(exact).sum(axis=1, keepdims=True))
    exact /= np.where(length > 0, length, 1.0)
    return exact


def _margin(n_features: int) -> float:
    """How far two float32 products may lie from their true order: rounding of D additions."""
    return float(8 * np.sqrt(n_features + 16) * np.finfo(np.float32).eps)
