"""Average precision of each row's positives among its negatives, a block of rows at a time.

N rows, D features, B rows of a block, M positives of a query, L its positives and negatives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from unidino_fast.evaluation.cosine import TIE
from unidino_fast.threads import in_threads

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Codes = NDArray[np.int32]

_BLOCK_ELEMENTS = 1 << 20  # of a block of similarities in float64: 8 MiB a thread
_DRAW_ELEMENTS = 1 << 22


@dataclass(frozen=True, slots=True)
class Pairs:
    """Which rows are a query's positives, or its negatives.

    Attributes:
        same: codes (N,), all of which the two share.
        different: codes (N,), none of which the two share.
    """

    same: tuple[Codes, ...]
    different: tuple[Codes, ...]

    def mask(self, query: int) -> NDArray[np.bool_]:
        """Rows (N,) that are paired with one, never with itself."""
        codes = (*self.same, *self.different)
        mask = np.ones(len(codes[0]), dtype=np.bool_)
        for one in self.same:
            mask &= one == one[query]
        for one in self.different:
            mask &= one != one[query]
        mask[query] = False
        return mask


@dataclass(frozen=True, slots=True)
class Precision:
    """Average precision of each row, (N,) each."""

    value: NDArray[np.float64]  # NaN without a positive
    n_positive: NDArray[np.int64]  # M
    n_total: NDArray[np.int64]  # L, 0 where a row has neither positives nor negatives
    tied: NDArray[np.bool_]  # a negative is as near as a positive, so that the rule decides


def average_precisions(features: NDArray[Any], positives: Pairs, negatives: Pairs) -> Precision:
    """Ranks each row's positives among its negatives by cosine similarity in float64.

    The mean, over its positives, of the share of positives among all that rank as high. Positives
    stand before negatives that are as near, as in copairs.

    Args:
        features: (N, D), finite; rows of zeros are as far (1) from every row.
        positives: pairs to find.
        negatives: pairs to find them among.
    """
    n = len(features)
    units = _unit_rows(features)
    counts = np.zeros(n, np.int64), np.zeros(n, np.int64)
    found = Precision(np.full(n, np.nan), *counts, np.zeros(n, np.bool_))

    def rank(query: int, row: NDArray[np.float64]) -> None:
        near = row[positives.mask(query)]
        others = np.sort(row[negatives.mask(query)])
        found.n_positive[query] = len(near)
        found.n_total[query] = len(near) + len(others)
        if len(near):  # positives first, best first
            near = np.sort(near)[::-1]
            no_nearer = np.searchsorted(others, near + TIE, side="right")
            ahead = len(others) - no_nearer
            found.tied[query] = (np.searchsorted(others, near - TIE) < no_nearer).any()
            order = np.arange(1, len(near) + 1)
            found.value[query] = float(np.mean(order / (order + ahead)))

    size = max(_BLOCK_ELEMENTS // max(n, 1), 16)

    def look(start: int) -> None:
        for offset, row in enumerate(units[start : start + size] @ units.T):  # (B, N)
            rank(start + offset, row)

    for _ in in_threads(look, range(0, n, size)):
        pass
    return found


def random_precisions(
    n_positive: int, n_total: int, n_draws: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Average precision of M positives at random places among L, drawn so many times."""
    ranks = np.empty((n_draws, n_positive), dtype=np.float64)
    step = max(_DRAW_ELEMENTS // n_total, 1)
    for start in range(0, n_draws, step):
        part = slice(start, min(start + step, n_draws))
        ranks[part] = _random_subsets(n_positive, n_total, part.stop - part.start, rng)
    order = np.arange(1, n_positive + 1)
    return np.asarray((order / ranks).mean(axis=1))


def expected_precision(n_positive: NDArray[np.int64], n_total: NDArray[np.int64]) -> NDArray[Any]:
    """Mean of the average precision over all orders of M positives among L.

    ((M - 1) / (L - 1) * (L - H) + H) / L with the harmonic number H of L (Bestgen 2015).
    """
    longest = int(n_total.max(initial=1))
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, longest + 1))])[n_total]
    total = np.maximum(n_total, 1)
    share = (n_positive - 1) / np.maximum(total - 1, 1)
    return np.asarray(np.where(total == 1, 1.0, (share * (total - harmonic) + harmonic) / total))


def adjust_p_values(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """P-values corrected for a false discovery rate (Benjamini and Hochberg 1995)."""
    n = len(p_values)
    order = np.argsort(p_values)[::-1]
    scaled = p_values[order] * n / np.arange(n, 0, -1)
    adjusted = np.empty(n)
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled), 1.0)
    return adjusted


def _random_subsets(size: int, n: int, draws: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Sorted subsets of 1 ... n, (draws, size), each equally likely."""
    if size * size > n:  # a draw with replacement would rarely be without repeats
        places = np.tile(np.arange(1, n + 1), (draws, 1))
        return np.sort(rng.permuted(places, axis=1)[:, :size], axis=1)
    subsets = np.sort(rng.integers(1, n + 1, (draws, size)), axis=1)
    while True:
        repeated = np.flatnonzero((np.diff(subsets, axis=1) == 0).any(axis=1))
        if not len(repeated):
            return subsets
        subsets[repeated] = np.sort(rng.integers(1, n + 1, (len(repeated), size)), axis=1)


def _unit_rows(features: NDArray[Any]) -> NDArray[np.float64]:
    """Rows of length 1 in float64, zero rows kept."""
    units = np.array(features, dtype=np.float64)
    for scale in (np.abs(units).max(axis=1, initial=0.0), None):
        length = np.sqrt(np.einsum("ij,ij->i", units, units)) if scale is None else scale
        units /= np.where(length > 0, length, 1.0)[:, None]
    return units
