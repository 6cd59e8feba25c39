"""The k nearest rows of some queries by cosine distance, from rows that pass by in blocks.

Q queries, B rows of a block, D features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from unidino_fast.errors import TableError
from unidino_fast.evaluation.cosine import product_margin, unit_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TINY, _HUGE = 1e-30, 1e30  # squares of lengths between which float32 keeps its digits
_GATHER_ELEMENTS = 1 << 21
_TIE_DIGITS = 12
"""Similarities are ordered by so many digits: what differs less is a tie, the lowest row first."""


class Nearest(NamedTuple):
    """Rows found for one query, best first."""

    rows: NDArray[np.int64]
    similarities: NDArray[np.float64]


class TopK:
    """Collects the k nearest rows of each query.

    Products are float32; all that come within their rounding error of the k-th best so far are
    compared again in float64, while their block is at hand. What is kept does not depend on how
    the rows are cut into blocks.
    """

    def __init__(self, queries: NDArray[np.float32], k: int) -> None:
        self._k = k
        self._units = unit_rows(queries).units  # (Q, D)
        self._exact = _unit(queries)  # (Q, D) float64
        self._margin = product_margin(queries.shape[1])
        nothing = Nearest(np.empty(0, np.int64), np.empty(0))
        self.found = [nothing] * len(queries)

    def add(
        self, start: int, block: NDArray[np.float32], excluded: NDArray[np.bool_] | None
    ) -> None:
        """Looks at the rows from `start` on.

        Args:
            start: number of the block's first row.
            block: (B, D) in either memory order.
            excluded: (B, Q) pairs that are not allowed, or None.

        Raises:
            TableError: a value is null, NaN or infinite.
        """
        products = _cosines(block, self._units, start)
        if excluded is not None:
            np.copyto(products, -np.inf, where=excluded)
        close = products >= self._floor(products)
        rows, queries = np.divmod(np.flatnonzero(close), products.shape[1])
        exact = np.empty(len(rows))
        step = max(_GATHER_ELEMENTS // block.shape[1], 1)
        for first in range(0, len(rows), step):
            part = slice(first, first + step)
            exact[part] = np.einsum(
                "ij,ij->i", _unit(block[rows[part]]), self._exact[queries[part]]
            )
        for query in np.unique(queries):
            own = queries == query
            self._merge(int(query), rows[own] + start, exact[own])

    def _floor(self, products: NDArray[np.float32]) -> NDArray[np.float32]:
        """Products (Q,) below which no row can be among the k best."""
        nothing = np.finfo(np.float32).min  # above -inf, the product of what is excluded
        floor = np.full(products.shape[1], nothing, dtype=np.float32)
        for query, known in enumerate(self.found):
            if len(known.rows) == self._k:
                floor[query] = known.similarities[-1] - self._margin
        most = 4 * self._k * len(floor)
        if len(products) > self._k and np.count_nonzero(products >= floor) > most:
            kth = np.partition(products.T, len(products) - self._k, axis=1)[:, -self._k]
            floor = np.maximum(floor, kth - self._margin)
        return floor

    def _merge(self, query: int, rows: NDArray[np.int64], exact: NDArray[np.float64]) -> None:
        known = self.found[query]
        rows = np.concatenate([known.rows, rows])
        exact = np.concatenate([known.similarities, exact])
        best = np.lexsort([rows, -np.round(exact, _TIE_DIGITS)])[: self._k]
        self.found[query] = Nearest(rows[best], exact[best])


def _cosines(
    block: NDArray[np.float32], units: NDArray[np.float32], start: int
) -> NDArray[np.float32]:
    """Products (B, Q) of rows of length 1."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        squares = np.einsum("ij,ij->i", block, block)
        products = np.asarray(block @ units.T)
        products /= np.sqrt(squares)[:, None]
    odd = np.flatnonzero(~((squares > _TINY) & (squares < _HUGE)))
    if len(odd):  # zeros, values near the ends of the range, or none that are numbers
        bad = odd[~np.isfinite(block[odd]).all(axis=1)]
        if len(bad):
            raise TableError(
                f"row {start + bad[0]} has features that are null, NaN or infinite: leave their"
                " channel out (embed --channels), or give a table without such columns or rows"
            )
        products[odd] = unit_rows(block[odd]).units @ units.T
    return products


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Rows of length 1 in float64, zero rows kept; equal rows give equal bits."""
    exact = rows.astype(np.float64)  # squares of float32 stay in the range of float64
    length = np.sqrt(np.einsum("ij,ij->i", exact, exact))
    exact /= np.where(length > 0, length, 1.0)[:, None]
    return exact
