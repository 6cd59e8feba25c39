"""Means and medians over the rows of a matrix (F, N), of what is not NaN.

Centres are given in two parts, a value of the matrix and a small rest, because subtracting the one
and then the other keeps float32 as exact as its input: what a feature has in common over all rows
may be a thousand times what tells them apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from unidino_fast.profiles.table import Matrix


class Centre(NamedTuple):
    """A centre (F,) as `base + rest`."""

    base: Matrix
    rest: Matrix

    def whole(self) -> Matrix:
        """In one number, float64."""
        return self.base.astype(np.float64) + self.rest

    def taken_from(self, values: Matrix) -> Matrix:
        """Values - centre, (F, N), a new matrix."""
        centred: Matrix = values - self.base[:, None]
        centred -= self.rest[:, None]
        return centred


def median(values: Matrix) -> Centre:
    """Median (F,); NaN where all is."""
    low, high = _middle(np.sort(values, axis=1))
    return Centre(low, (high - low) / 2)


def median_absolute(values: Matrix) -> Matrix:
    """Median of the absolute values (F,)."""
    low, high = _middle(np.sort(np.abs(values), axis=1))
    middle: Matrix = low + (high - low) / 2
    return middle


def mean(values: Matrix) -> Centre:
    """Mean (F,), summed in float64; NaN where all is."""
    whole = mean_of(values)
    base = whole.astype(values.dtype)
    return Centre(base, (whole - base).astype(values.dtype))


def mean_of(values: Matrix) -> Matrix:
    """Mean (F,) in float64; NaN where all is."""
    if not values.shape[1]:
        return np.full(len(values), np.nan)
    found: Matrix = values.mean(axis=1, dtype=np.float64)
    if np.isnan(found).any():
        return weighted_mean(values, np.ones(values.shape[1]))
    return found


def weighted_mean(values: Matrix, weights: Matrix) -> Matrix:
    """Mean (F,) in float64 by weights (N,) of what is not NaN; NaN where all is."""
    values = np.ascontiguousarray(values)  # the last bit is not to tell what stands beside them
    total: Matrix = values @ weights
    weight = np.full_like(total, weights.sum())
    if np.isnan(total).any():
        present = ~np.isnan(values)
        total, weight = np.where(present, values, 0) @ weights, present @ weights
    found: Matrix = np.full_like(total, np.nan)
    return np.divide(total, weight, out=found, where=weight > 0)


def standard_deviation(centred: Matrix) -> Matrix:
    """Root of the mean square (F,), of values without their mean, with 1/n, in float64."""
    found: Matrix = np.sqrt(mean_of(np.square(centred)))
    return found


def _middle(ordered: Matrix) -> tuple[Matrix, Matrix]:
    """The two middle values (F,) of sorted rows, which are one where their number is odd."""
    n = ordered.shape[1]
    if not n:
        nothing = np.full(len(ordered), np.nan, ordered.dtype)
        return nothing, nothing
    if not np.isnan(ordered[:, -1]).any():  # NaN sorts last
        return ordered[:, (n - 1) // 2].copy(), ordered[:, n // 2].copy()
    n_present = n - np.isnan(ordered).sum(axis=1)
    features = np.arange(len(ordered))
    low = ordered[features, np.maximum(n_present - 1, 0) // 2]
    return low, ordered[features, np.minimum(n_present // 2, n - 1)]
