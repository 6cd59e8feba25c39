"""Counts over pairs of rows without looking at pairs, and intervals of shares.

N rows, K keys, R resamples.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from unidino_fast.evaluation.table import joint_codes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Codes = NDArray[np.int32]

CONFIDENCE = 0.95
_RESAMPLE_ELEMENTS = 1 << 22


def count_allowed(excluded: Sequence[Codes], n: int, within: Codes | None = None) -> Codes:
    """How many rows each row may match, (N,): all that share none of its codes, and not itself.

    By inclusion and exclusion over the sizes of groups: 2 ** K groupings, no N x N mask.

    Args:
        excluded: codes (N,) each.
        n: rows, N.
        within: count only rows that share this code too, such as the label.
    """
    base = [] if within is None else [within]
    allowed = _group_sizes(base, n).astype(np.int64)
    if not excluded:
        return (allowed - 1).astype(np.int32)
    for size in range(1, len(excluded) + 1):
        for chosen in itertools.combinations(excluded, size):
            allowed += (-1) ** size * _group_sizes([*base, *chosen], n)
    return allowed.astype(np.int32)


def _group_sizes(codes: Sequence[Codes], n: int) -> NDArray[np.int64]:
    """For each row, how many rows share all of its codes, itself among them (N,)."""
    joint = joint_codes(codes, n)
    return np.bincount(joint)[joint].astype(np.int64)


def share_interval(
    hits: NDArray[np.bool_], clusters: Codes | None, resamples: int, seed: int
) -> tuple[float, float] | None:
    """Percentile bootstrap interval (95 %) of the share of hits; None where nothing is drawn.

    Args:
        hits: (N,) one a query.
        clusters: codes (N,): whole clusters are drawn with replacement; queries where None.
        resamples: how often, R; 0 for no interval.
        seed: of the draws.
    """
    if not resamples or not len(hits):
        return None
    rng = np.random.default_rng(seed)
    n = len(hits)
    if clusters is None:  # resampling n coins with replacement is a binomial draw
        shares = rng.binomial(n, hits.mean(), resamples) / n
    else:
        codes = np.unique(clusters, return_inverse=True)[1]
        sizes, right = np.bincount(codes), np.bincount(codes, weights=hits)
        even = np.full(len(sizes), 1 / len(sizes))
        step = max(_RESAMPLE_ELEMENTS // len(sizes), 1)
        parts = []
        for start in range(0, resamples, step):
            draws = rng.multinomial(len(sizes), even, min(step, resamples - start))  # (R, clusters)
            parts.append(draws @ right / (draws @ sizes))
        shares = np.concatenate(parts)
    lower, upper = np.quantile(shares, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(lower), float(upper)
