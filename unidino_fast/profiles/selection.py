"""Feature selection: which features carry something that others do not.

The rules are pycytominer's (1.7), one function each: (F, N) -> which features to drop (F,).
"""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING, get_args

import numpy as np

from unidino_fast.errors import TableError, UsageError
from unidino_fast.profiles.options import Operation, SelectOptions
from unidino_fast.profiles.statistics import mean_of
from unidino_fast.profiles.table import (
    ALL_ROWS,
    Dropped,
    blocks,
    no_sample,
    selected_rows,
    take_apart,
)
from unidino_fast.threads import in_threads, threads_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl
    from numpy.typing import NDArray

    from unidino_fast.profiles.table import Mask, Matrix, Profiles

OPERATIONS: tuple[Operation, ...] = get_args(Operation)
_STAINS = ("AGP", "DNA", "ER", "Mito", "RNA")
BLOCKLIST = (
    *(
        f"Nuclei_Correlation_{kind}_{one}_{other}"
        for kind in ("Manders", "RWC")
        for one, other in permutations(_STAINS, 2)
    ),
    *(f"Nuclei_Granularity_{size}_{stain}" for size in (14, 15, 16) for stain in _STAINS),
)
"""CellProfiler features known to be noisy (Way 2019, doi 10.6084/m9.figshare.10255811)."""
_ROWS_AT_ONCE = 4096


def select_features(
    profiles: pl.DataFrame,
    operations: str | Sequence[str],
    *,
    samples: str | None = None,
    **options: object,
) -> pl.DataFrame:
    """Drops features that tell nothing, or nothing of their own; one operation after the other.

    Args:
        profiles: a profile table, usually normalised.
        operations: `variance` (the second most frequent value is rare beside the first, or there
            are few different ones; pycytominer's `frequency_threshold`, called `variance_threshold`
            up to its version 1.2), `low_variance` (its `variance_threshold` of today),
            `correlation`, `na` (missing in many rows), `blocklist`, `outliers`.
        samples: a query; its rows decide. All by default.
        **options: of `SelectOptions`, such as `correlation_threshold=0.8`.

    Returns:
        The table without the features that were dropped. Which, is logged by the command line and
        given by `select_features_with_report`.

    Raises:
        UsageError: unknown operation or option, none, or no Polars DataFrame.
        TableError: no row fits the samples, or no feature is left.
    """
    table, _ = select_features_with_report(profiles, operations, samples=samples, **options)
    return table


def select_features_with_report(
    profiles: pl.DataFrame,
    operations: str | Sequence[str],
    *,
    samples: str | None = None,
    **options: object,
) -> tuple[pl.DataFrame, list[Dropped]]:
    """Like `select_features`, and what each operation dropped."""
    names = operations_of(operations)
    chosen = SelectOptions.of(options)
    kept, dropped = select(take_apart(profiles), names, samples, chosen)
    return kept.frame(), dropped


def operations_of(operations: str | Sequence[str]) -> tuple[Operation, ...]:
    """Operations by name.

    Raises:
        UsageError: one is unknown, or there are none.
    """
    names = (operations,) if isinstance(operations, str) else tuple(operations)
    if not names:
        raise UsageError(f"select names no operation: use {', '.join(OPERATIONS)}")
    known = tuple(kind for name in names for kind in OPERATIONS if kind == name)
    for name in names:
        if name not in OPERATIONS:
            raise UsageError(f"selection {name!r} is not known: use {', '.join(OPERATIONS)}")
    return known


def select(
    profiles: Profiles, operations: Sequence[Operation], samples: str | None, options: SelectOptions
) -> tuple[Profiles, list[Dropped]]:
    """See `select_features`."""
    dropped = []
    selected = selected_rows(profiles, samples)
    if not selected.any():
        raise no_sample(ALL_ROWS, samples)
    for operation in operations:
        if operation == "blocklist":
            blocked = set(BLOCKLIST if options.blocklist is None else options.blocklist)
            drop = np.array([name in blocked for name in profiles.features], dtype=bool)
        else:
            values = profiles.values if selected.all() else profiles.values[:, selected]
            drop = _drop(values, operation, options)
        gone = tuple(name for name, goes in zip(profiles.features, drop, strict=True) if goes)
        dropped.append(Dropped(operation, gone))
        profiles = profiles.keeping(~drop) if gone else profiles
        if not profiles.features:
            raise TableError(f"no feature is left after {operation}: loosen its threshold")
    return profiles, dropped


def _drop(values: Matrix, operation: Operation, options: SelectOptions) -> Mask:
    match operation:
        case "variance":
            return by_frequency(values, options.freq_cut, options.unique_cut)
        case "low_variance":
            return by_variance(values, options.min_variance)
        case "correlation":
            return by_correlation(values, options.correlation_threshold)
        case "na":
            share: Matrix = np.isnan(values).mean(axis=1)
            return share > options.na_cutoff
    largest: Matrix = np.fmax.reduce(np.abs(values), axis=1)
    return largest > options.outlier_cutoff


def by_frequency(values: Matrix, freq_cut: float, unique_cut: float) -> Mask:
    """Second most frequent value / most frequent < freq_cut, or values / rows < unique_cut."""

    def work(portion: slice) -> Mask:
        ordered = np.sort(values[portion], axis=1)
        varied = (ordered[:, 1:] != ordered[:, :-1]).all(axis=1) & ~np.isnan(ordered[:, -1])
        drop: Mask = ~varied  # where no value comes twice, none is frequent
        for at in np.flatnonzero(drop | (ordered.shape[1] < 2)):
            drop[at] = _is_monotonous(ordered[at], freq_cut, unique_cut)
        return drop

    found = in_threads(work, blocks(len(values)), threads_for(values.size))
    return np.concatenate([np.empty(0, dtype=bool), *found])


def _is_monotonous(ordered: Matrix, freq_cut: float, unique_cut: float) -> bool:
    """One feature, sorted (N,)."""
    present = ordered[: len(ordered) - int(np.isnan(ordered).sum())]
    first = np.flatnonzero(
        np.concatenate([present[:1] == present[:1], present[1:] != present[:-1]])
    )
    ratio = 0.0
    if len(first) > 1:
        counts = np.partition(np.diff(first, append=len(present)), -2)
        ratio = counts[-2] / counts[-1]
    return bool(ratio < freq_cut or len(first) / len(ordered) < unique_cut)


def by_variance(values: Matrix, min_variance: float) -> Mask:
    """Variance (with 1/n) not above the least; with a least of 0, all values alike."""
    drop = np.empty(len(values), dtype=bool)
    for portion in blocks(len(values)):
        block = values[portion].astype(np.float64)
        variance = mean_of(np.square(block - mean_of(block)[:, None]))
        extent = np.fmax.reduce(block, axis=1) - np.fmin.reduce(block, axis=1)
        drop[portion] = ~((variance if min_variance > 0 else extent) > min_variance)
    return drop


def by_correlation(values: Matrix, threshold: float) -> Mask:
    """Of each pair with a correlation above the threshold, the one that correlates more with all.

    Negative correlations do not count. Where both correlate alike the later one goes.
    """
    correlation = correlation_matrix(values)
    portions = blocks(len(correlation))

    def work(portion: slice) -> tuple[Matrix, NDArray[np.int64], NDArray[np.int64]]:
        part = correlation[portion]
        size = np.abs(part)
        total: Matrix = size.sum(axis=1)
        unknown = np.isnan(total)
        total[unknown] = np.nansum(size[unknown], axis=1)
        one, other = np.nonzero(part[:, : portion.stop] > threshold)
        one += portion.start
        return total, one[other < one], other[other < one]

    found = list(in_threads(work, portions, threads_for(correlation.size)))
    total = np.concatenate([np.empty(0), *(part[0] for part in found)])
    rank = np.empty(len(total), dtype=np.int64)
    rank[np.argsort(total, kind="stable")] = np.arange(len(total))
    drop = np.zeros(len(total), dtype=bool)
    for _, one, other in found:
        drop[np.where(rank[one] > rank[other], one, other)] = True
    return drop


def correlation_matrix(values: Matrix) -> Matrix:
    """Pearson's r of each pair of features (F, F), over the rows that have both; NaN if constant.

    Summed over portions of rows, so that memory grows with F alone.
    """
    n_features, n = values.shape
    centre = np.nan_to_num(mean_of(values))
    has_holes = bool(np.isnan(values.min(initial=np.inf)))
    sums = np.zeros((4, n_features, n_features)) if has_holes else None
    product = np.zeros((n_features, n_features))
    for at in range(0, n, _ROWS_AT_ONCE):
        block = values[:, at : at + _ROWS_AT_ONCE] - centre[:, None]
        if sums is not None:
            present = (~np.isnan(block)).astype(np.float64)
            block = np.nan_to_num(block, nan=0.0)
            sums[0] += present @ present.T  # rows in common
            sums[1] += block @ present.T  # sum of one where the other is there
            sums[2] += np.square(block) @ present.T
        product += block @ block.T
    if sums is None:
        deviation = np.sqrt(np.diagonal(product))
        floor = np.finfo(np.float64).eps * n * np.abs(centre)
        deviation = np.where(deviation > floor, deviation, np.nan)
        correlation: Matrix = product
        for portion in blocks(n_features):
            correlation[portion] /= deviation[portion, None]
            correlation[portion] /= deviation
    else:
        correlation = _of_sums(product, *sums[:3])
    np.fill_diagonal(correlation, np.where(np.isnan(np.diagonal(correlation)), np.nan, 1))
    return np.clip(correlation, -1, 1, out=correlation)


def _of_sums(product: Matrix, common: Matrix, one: Matrix, square: Matrix) -> Matrix:
    """Pearson's r of pairwise sums (F, F): of products, rows, values and squares."""
    with np.errstate(invalid="ignore", divide="ignore"):
        covariance = product - one * one.T / common
        variance = square - one**2 / common
        variance = np.where(variance > 1e-12 * square, variance, np.nan)
        correlation: Matrix = covariance / np.sqrt(variance * variance.T)
    return correlation
