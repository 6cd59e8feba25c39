"""Replicates -> one profile, and how well replicates agree.

Letters: n replicates of a group, F features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import polars as pl

from unidino_fast.columns import metadata_names
from unidino_fast.errors import UsageError
from unidino_fast.profiles.aggregate import constant_columns
from unidino_fast.profiles.groups import keyed_groups
from unidino_fast.profiles.options import Statistic
from unidino_fast.profiles.statistics import mean_of, median, weighted_mean
from unidino_fast.profiles.table import Profiles, take_apart
from unidino_fast.results import QUALITY_PREFIX
from unidino_fast.threads import in_threads, threads_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unidino_fast.profiles.table import Matrix, Rows

REPLICATES = "Metadata_n_replicates"
_LEAST_WEIGHT = 0.01
_DIGITS = 4
"""Weights are rounded, as those of cmapPy and pycytominer are."""


def consensus(
    profiles: pl.DataFrame, by: str | Sequence[str], *, statistic: Statistic = "modz"
) -> pl.DataFrame:
    """One profile for each group of replicates, in the order in which groups first appear.

    Args:
        profiles: a profile table.
        by: columns whose values make a group, such as `Metadata_Compound` or `Compound`.
        statistic: `mean`; `median`; or `modz`, the mean weighted by how well each replicate agrees
            with the others (Subramanian et al. 2017): Spearman's correlations, negative ones 0,
            averaged over the other replicates, .01 at least, divided by their sum and rounded to
            four digits, as pycytominer does.

    Returns:
        The group columns, `Metadata_n_replicates`, metadata that are constant in each group (but
        not what quality control says of single wells), and float32 features. A feature that some
        replicates lack is that of the others.

    Raises:
        TableError: a column is missing or null somewhere, or features are not what they should be.
        UsageError: no column, an unknown statistic, or no Polars DataFrame.
    """
    columns = metadata_names(by)
    return consensus_of(take_apart(profiles), columns, statistic).frame()


def consensus_of(profiles: Profiles, columns: Sequence[str], statistic: Statistic) -> Profiles:
    """See `consensus`."""
    if statistic not in get_args(Statistic):
        raise UsageError(f"statistic {statistic!r}: use {', '.join(get_args(Statistic))}")
    if not columns:
        raise UsageError("no column to group by: name one, such as Metadata_Compound")
    groups = list(keyed_groups(profiles.metadata, columns).values())
    values = np.empty((len(profiles.features), len(groups)), profiles.values.dtype)

    def work(index: int) -> None:
        values[:, index] = _of_replicates(profiles.values[:, groups[index]], statistic)

    for _ in in_threads(work, range(len(groups)), threads_for(profiles.values.size)):
        pass
    of_wells = [name for name in profiles.metadata.columns if name.startswith(QUALITY_PREFIX)]
    kept = constant_columns(profiles.metadata, columns, but=(REPLICATES, *of_wells))
    metadata = profiles.metadata.group_by(columns, maintain_order=True).agg(
        pl.len().cast(pl.Int64).alias(REPLICATES), *[pl.col(name).first() for name in kept]
    )
    return Profiles(metadata, profiles.features, values)


def replicate_correlation(
    profiles: pl.DataFrame,
    by: str | Sequence[str],
    *,
    method: Literal["pearson", "spearman"] = "pearson",
) -> pl.DataFrame:
    """How well the replicates of each group agree.

    Args:
        profiles: a profile table.
        by: columns whose values make a group.
        method: `pearson` or `spearman`, over the features that both of a pair have.

    Returns:
        The group columns, `Metadata_n_replicates`, and `mean`, `median`, `lowest` of the
        correlations of all pairs in the group; null where it has one row.

    Raises:
        TableError: a column is missing or null somewhere, or features are not what they should be.
        UsageError: no column, an unknown method, or no Polars DataFrame.
    """
    columns = metadata_names(by)
    if method not in ("pearson", "spearman"):
        raise UsageError(f"method {method!r}: use pearson or spearman")
    if not columns:
        raise UsageError("no column to group by: name one, such as Metadata_Compound")
    table = take_apart(profiles)
    groups = list(keyed_groups(table.metadata, columns).values())

    def work(rows: Rows) -> tuple[float, float, float]:
        matrix = row_correlations(table.values[:, rows], ranked=method == "spearman")
        pairs = matrix[np.triu_indices(len(matrix), 1)]
        pairs = pairs[~np.isnan(pairs)]
        if not len(pairs):
            return (np.nan, np.nan, np.nan)
        return (float(pairs.mean()), float(np.median(pairs)), float(pairs.min()))

    found = np.array(list(in_threads(work, groups, threads_for(table.values.size)))).reshape(-1, 3)
    keys = table.metadata.group_by(columns, maintain_order=True).agg(
        pl.len().cast(pl.Int64).alias(REPLICATES)
    )
    return keys.with_columns(
        pl.Series(name, found[:, at], nan_to_null=True)
        for at, name in enumerate(("mean", "median", "lowest"))
    )


def _of_replicates(values: Matrix, statistic: Statistic) -> Matrix:
    """(F, n) -> (F,)."""
    if values.shape[1] == 1:
        single: Matrix = values[:, 0]
        return single
    if statistic == "median":
        return median(values).whole()
    if statistic == "mean":
        return mean_of(values)
    weights = modz_weights(values)
    # where all replicates have a feature, the plain weighted sum: see `_DIGITS`
    joined: Matrix = weighted_mean(values, weights) * weights.sum()
    return joined


def modz_weights(values: Matrix) -> Matrix:
    """Weights of replicates (n,), of features (F, n)."""
    correlation = np.clip(row_correlations(values, ranked=True), 0, None)
    np.fill_diagonal(correlation, np.nan)
    known = (~np.isnan(correlation)).sum(axis=1)
    average = np.nansum(correlation, axis=1) / np.maximum(known, 1)
    raw = np.maximum(average, _LEAST_WEIGHT)
    weights: Matrix = np.round(raw / raw.sum(), _DIGITS)
    return weights


def row_correlations(values: Matrix, *, ranked: bool) -> Matrix:
    """Correlations of profiles (n, n), of features (F, n); NaN where one of a pair is constant.

    A pair that lacks features is compared, and ranked, over those that both have.
    """
    rows = values.T.astype(np.float64)
    if not np.isnan(rows).any():
        return _correlated(_ranks(rows) if ranked else rows)
    n = len(rows)
    correlation = np.full((n, n), np.nan)
    for one in range(n):
        for other in range(one + 1):
            pair = rows[[one, other]]
            pair = pair[:, ~np.isnan(pair).any(axis=0)]
            if pair.shape[1] > 1:
                found = _correlated(_ranks(pair) if ranked else pair)[0, 1]
                correlation[one, other] = correlation[other, one] = found
    return correlation


def _correlated(rows: Matrix) -> Matrix:
    """Pearson's r of rows (n, F) -> (n, n)."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    length = np.sqrt(np.square(centred).sum(axis=1))
    floor = np.finfo(np.float64).eps * rows.shape[1] * np.abs(rows).max(axis=1, initial=0)
    unit = centred / np.where(length > floor, length, np.nan)[:, None]
    correlation: Matrix = unit @ unit.T
    return correlation


def _ranks(rows: Matrix) -> Matrix:
    """Ranks within each row (n, F), equal values sharing their mean rank."""
    order = np.argsort(rows, axis=1)
    ordered = np.take_along_axis(rows, order, axis=1)
    places = np.broadcast_to(np.arange(rows.shape[1], dtype=np.float64), rows.shape).copy()
    rises = ordered[:, 1:] != ordered[:, :-1]
    for at in np.flatnonzero(~rises.all(axis=1)):
        first = np.flatnonzero(np.concatenate([[True], rises[at]]))
        last = np.append(first[1:], rows.shape[1]) - 1
        places[at] = np.repeat((first + last) / 2, last - first + 1)
    ranks: Matrix = np.empty_like(rows)
    np.put_along_axis(ranks, order, places, axis=1)
    return ranks
