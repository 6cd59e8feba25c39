"""What every evaluation asks of a table of profiles: columns, labels as codes, finite features.

N rows, D features, G groups.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from unidino_fast.columns import n_unknown
from unidino_fast.errors import TableError, UsageError
from unidino_fast.names import one_line
from unidino_fast.results import METADATA_PREFIX, feature_columns

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

TIDY = {
    "metric": pl.String,
    "subject": pl.String,
    "value": pl.Float64,
    "lower": pl.Float64,
    "upper": pl.Float64,
    "n": pl.Int64,
}
"""Columns of every result as rows; a subject of null means all together."""

_COLUMNS_AT_A_TIME = 64


def tidy(rows: Iterable[Sequence[Any]]) -> pl.DataFrame:
    """Rows (metric, subject, value, lower, upper, n) as a table; NaN becomes null."""
    frame = pl.DataFrame(list(rows), schema=TIDY, orient="row")
    return frame.with_columns(pl.col("value", "lower", "upper").fill_nan(None))


def labelled(profiles: pl.DataFrame, label: str) -> pl.DataFrame:
    """The rows whose label is not null or NaN.

    Raises:
        TableError: there are none.
    """
    if profiles.is_empty():
        raise TableError("the profiles have no rows: there is nothing to evaluate")
    if profiles[label].dtype.is_float():
        profiles = profiles.with_columns(pl.col(label).fill_nan(None))
    rows = profiles.filter(pl.col(label).is_not_null())
    if rows.is_empty():
        raise TableError(f"{label} is null in all {len(profiles)} rows: join labels to the table")
    return rows


def check_varies(rows: pl.DataFrame, label: str, option: str = "--label") -> None:
    """Raises TableError where all rows carry one label."""
    if rows[label].n_unique() == 1:
        raise TableError(
            f"{label} is {rows[label][0]!r} in all {len(rows)} rows that take part: a label must "
            f"have two values or more, use another {option}"
        )


def check_complete(rows: pl.DataFrame, key: str) -> None:
    """Raises TableError where a key is not known in every row."""
    missing = n_unknown(rows[key])
    if missing:
        raise TableError(
            f"{key} is null in {missing} of {len(rows)} labelled rows, so what they may match is "
            f"unknown: fill it or filter those rows"
        )


def codes_of(values: pl.Series) -> tuple[NDArray[np.int32], list[Any]]:
    """Values as integers in their sorted order, and the sorted values."""
    distinct = sorted(values.unique().to_list())
    place = {value: index for index, value in enumerate(distinct)}
    return np.array([place[value] for value in values], dtype=np.int32), distinct


def joint_codes(codes: Sequence[NDArray[np.int32]], n: int) -> NDArray[np.int32]:
    """Codes (N,) that are equal where all of the given ones are; all 0 where none are given."""
    joint = np.zeros(n, dtype=np.int64)
    for one in codes:
        joint = joint * (int(one.max(initial=0)) + 1) + one
        joint = np.unique(joint, return_inverse=True)[1].astype(np.int64)
    return joint.astype(np.int32)


def group_codes(rows: pl.DataFrame, keys: Sequence[str]) -> NDArray[np.int32]:
    """Codes (N,) of the combinations of some columns' values, each known in every row.

    Raises:
        TableError: one of them is null somewhere.
    """
    for key in keys:
        check_complete(rows, key)
    return joint_codes([codes_of(rows[key])[0] for key in keys], len(rows))


def numeric_features(rows: pl.DataFrame) -> list[str]:
    """Names of the feature columns; rows are not looked at, so there need not be any.

    Raises:
        TableError: there are no features, or one does not hold numbers.
    """
    columns = feature_columns(rows)
    if not columns:
        raise TableError("the profiles have no feature columns: every column begins with Metadata_")
    for column, dtype in zip(rows.columns, rows.dtypes, strict=True):
        if not (column.startswith(METADATA_PREFIX) or dtype.is_numeric()):
            raise TableError(
                f"column {column} holds {dtype}, but a column without the "
                f"{METADATA_PREFIX} prefix is a feature and must be a number: rename it to "
                f"{METADATA_PREFIX}{column}"
            )
    return columns


def feature_matrix(rows: pl.DataFrame) -> NDArray[Any]:
    """Feature matrix (N, D), every value finite.

    Raises:
        TableError: no features, or text, null, NaN or infinity among them.
    """
    known = set(numeric_features(rows))
    features = rows.drop(name for name in rows.columns if name not in known)
    matrix = features.to_numpy(order="c")  # rows are gathered
    if matrix.dtype == object:  # decimals
        matrix = features.cast(pl.Float64).to_numpy(order="c")
    if not np.isfinite(matrix).all():
        raise _not_finite(features)
    return matrix


def _not_finite(features: pl.DataFrame) -> TableError:
    """The error for a table (N, D) with null, NaN or infinity in it."""
    bad = features.select((~pl.all().cast(pl.Float64).is_finite().fill_null(False)).sum()).row(0)
    faulty = [name for name, count in zip(features.columns, bad, strict=True) if count]
    column, n = faulty[0], len(features)
    others = f" (and {len(faulty) - 1} more features)" if len(faulty) > 1 else ""
    kind = "null" if features[column].null_count() == n else "null, NaN or infinite"
    return TableError(
        f"feature {column}{others} is {kind} in {bad[features.columns.index(column)]} of"
        f" {n} rows: leave its channel out (embed --channels), or give a table without such columns"
        " or rows"
    )


def group_means(features: NDArray[Any], groups: NDArray[np.int32]) -> NDArray[np.float64]:
    """Mean (G, D) in float64 of the rows of each group 0 ... G - 1, none of them empty."""
    order = np.argsort(groups, kind="stable")
    sizes = np.bincount(groups)
    starts = np.cumsum(sizes) - sizes
    means = np.empty((len(sizes), features.shape[1]))
    for start in range(0, features.shape[1], _COLUMNS_AT_A_TIME):
        part = slice(start, start + _COLUMNS_AT_A_TIME)
        means[:, part] = np.add.reduceat(features[order, part].astype(np.float64), starts, axis=0)
    return means / sizes[:, None]


def average(
    rows: pl.DataFrame, by: Sequence[str], keep: Sequence[str] = ()
) -> tuple[pl.DataFrame, NDArray[np.float64]]:
    """Rows averaged by some columns, in the order in which each first appears.

    Args:
        rows: profiles.
        by: columns that name a group.
        keep: more columns of the result; each must have one value in each group.

    Returns:
        The columns `by` and `keep` (G rows), and the mean features (G, D).

    Raises:
        TableError: a column is null somewhere or varies within a group, or the features are unfit.
    """
    codes = group_codes(rows, by)
    firsts, places = np.unique(codes, return_index=True)
    order = np.argsort(places)
    rank = np.empty(len(order), dtype=np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    groups = rank[np.searchsorted(firsts, codes)]
    for key in keep:
        check_complete(rows, key)
        joint = joint_codes([groups, codes_of(rows[key])[0]], len(rows))
        if int(joint.max(initial=0)) + 1 > len(firsts):
            raise TableError(
                f"{key} has several values within one mean over {', '.join(by)}: "
                f"add it to the columns of the level"
            )
    names = list(dict.fromkeys([*by, *keep]))
    return rows.select(names)[np.sort(places).tolist()], group_means(feature_matrix(rows), groups)


def shown(names: Sequence[str], nothing: str) -> str:
    """Column names for people, on one line."""
    return ", ".join(map(one_line, names)) or nothing


def check_share(name: str, value: float) -> None:
    """Raises UsageError where a number is no share between 0 and 1."""
    if not 0 < value < 1:
        raise UsageError(f"{name} {value} is no share: use a number between 0 and 1")


def check_count(name: str, value: int, least: int) -> None:
    """Raises UsageError where a number is too small."""
    if value < least:
        raise UsageError(f"{name} {value} is too small: use {least} or more")
