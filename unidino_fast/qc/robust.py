"""Medians and spreads over wells (the first axis), of what is known there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAD_OF_NORMAL = 1.4826
MEDIAN_ERROR = 1.2533
"""Standard error of the median of normal values, over that of the mean."""


def median(values: NDArray[Any]) -> NDArray[Any]:
    """Of each column; NaN where nothing is known."""
    empty = np.isnan(values).all(axis=0)
    filled = np.where(empty, 0.0, values)
    return np.where(empty, np.nan, np.nanmedian(filled, axis=0))


def mad(values: NDArray[Any]) -> NDArray[Any]:
    """Median absolute deviation of each column, times 1.4826."""
    return MAD_OF_NORMAL * median(np.abs(values - median(values)))


def trend(places: NDArray[Any], values: NDArray[Any]) -> float:
    """Spearman's correlation times the root of n - 1: standard normal where there is no trend."""
    ranks = [_ranks(places), _ranks(values)]
    spread = [float(r.std()) for r in ranks]
    if min(spread) == 0:
        return 0.0
    one, other = (r - r.mean() for r in ranks)
    correlation = float((one * other).mean()) / (spread[0] * spread[1])
    return float(correlation * (len(values) - 1) ** 0.5)


def theil_sen(places: NDArray[Any], values: NDArray[Any]) -> float:
    """Median slope of the lines through any two values at different places."""
    one, other = np.triu_indices(len(values), 1)
    run = places[other] - places[one]
    apart = run != 0
    if not apart.any():
        return 0.0
    return float(np.median((values[other] - values[one])[apart] / run[apart]))


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """Equal values share their mean rank."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: NDArray[np.float64] = (ends - (counts - 1) / 2)[group]
    return ranks
