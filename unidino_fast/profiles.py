"""Fields -> wells -> normalised profiles.

Tables are Polars; the features of a table are one matrix while they are worked on. Letters: N rows,
F features, h one feature over the rows of a plate, MAD its median absolute deviation.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import polars as pl

from unidino_fast.errors import TableError, UsageError
from unidino_fast.query import parse_query
from unidino_fast.results import METADATA_PREFIX, feature_columns, feature_series

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Matrix: TypeAlias = NDArray[np.float64]
    """Values, NaN where the table holds null."""
    Rows: TypeAlias = NDArray[np.int64]

METHODS = ("mad_robustize", "standardize", "none", "pycytominer_mad_robustize")
MAD_TO_SD = 1.4826
"""Scales a MAD to the standard deviation of a normal distribution (pycytominer's constant)."""
_PYCYTOMINER_EPSILON = 1e-18
_ROUNDING = 4 * float(np.finfo(np.float32).eps)
"""A spread below this share of a feature's largest value is the rounding of float32, no spread."""

_WELL_KEYS = (
    "Metadata_Plate",
    "Metadata_Well",
    "Metadata_Row",
    "Metadata_Column",
    "Metadata_Time",
)
_SUMS = ("Metadata_n_fields", "Metadata_n_tiles", "Metadata_n_tiles_dropped")
_ROW = "\0row"
"""A column name that no table has."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Neutralised:
    """Features of one group whose spread is zero and that were set to 0."""

    group: str
    features: tuple[str, ...]


def aggregate(
    fields: pl.DataFrame,
    *,
    statistic: Literal["mean", "median"] = "mean",
    weight: Literal["tiles", "fields"] = "tiles",
) -> pl.DataFrame:
    """Wells of fields: one row a well (and time point).

    Args:
        fields: the columns of `fields.parquet`.
        statistic: `mean`, or the `median` over fields, which knows no weight.
        weight: `tiles` averages all kept tiles of a well alike; `fields` averages fields alike.
            Both are equal where no tile was dropped.

    Returns:
        The columns of `wells.parquet`, float32 features, in the order in which wells first appear.
        A field that lacks a channel has no say in it. Counts are summed; further metadata columns
        stay where they are constant in each well.

    Raises:
        TableError: a column is missing, or features or counts are not what they should be.
        UsageError: unknown statistic or weight.
    """
    if statistic not in ("mean", "median") or weight not in ("tiles", "fields"):
        raise UsageError(
            f"statistic {statistic!r}, weight {weight!r}: use mean or median, tiles or fields"
        )
    for needed in ("Metadata_Plate", "Metadata_Well", "Metadata_n_tiles"):
        if needed not in fields.columns:
            raise TableError(f"column {needed} is missing: give the table that embed_plate returns")
    keys = [name for name in _WELL_KEYS if name in fields.columns]
    features = feature_columns(fields)
    values = _matrix(fields, features)
    weights = _tile_counts(fields) if weight == "tiles" else np.ones(fields.height)
    groups = list(_groups(fields, keys).values())
    of_wells = np.empty((len(groups), len(features)))
    for well, rows in enumerate(groups):
        if statistic == "median":
            of_wells[well] = _median(values[rows])
        else:
            of_wells[well] = _weighted_mean(values[rows], weights[rows])
    metadata = _constant_columns(fields, keys)
    wells = fields.group_by(keys, maintain_order=True).agg(
        *[pl.col(name).sum() for name in _SUMS if name in fields.columns],
        *[pl.col(name).first() for name in metadata],
    )
    order = [name for name in fields.columns if name in wells.columns]
    return wells.select(order).with_columns(feature_series(features, of_wells))


def normalize(
    wells: pl.DataFrame,
    method: str = "mad_robustize",
    *,
    by: str | Sequence[str] = "Metadata_Plate",
    samples: str | None = None,
) -> pl.DataFrame:
    """Normalises features within each plate.

    A feature has no spread where its spread is within the rounding of float32, compared with its
    largest value in the group. It is set to 0: divided by next to nothing it would outweigh all
    others (Morelli et al. 2025, BBBC021: accuracy .330 instead of .650).

    Args:
        wells: a profile table; metadata columns are kept as they are.
        method: `mad_robustize` is (h - median) / (1.4826 MAD) (Morelli et al. 2025, after
            pycytominer); `standardize` is (h - mean) / SD; both set features without spread to 0.
            `pycytominer_mad_robustize` adds 1e-18 to the scaled MAD instead, as pycytominer does,
            so that a feature without spread explodes: for comparison; `none` changes nothing.
        by: the column or columns whose groups are normalised apart.
        samples: a query such as `Metadata_Compound == "DMSO"`; its rows give centre and spread.

    Returns:
        A table of the same shape, float32 features. What was neutralised is logged as a warning.

    Raises:
        TableError: a group column is missing, features hold NaN or infinite values or are not
            numbers, or a group has no row that `samples` selects.
        UsageError: unknown method or malformed query.
    """
    profiles, neutralised = normalize_with_report(wells, method, by=by, samples=samples)
    for group in neutralised:
        _log.warning("%s", describe_neutralised(group))
    return profiles


def describe_neutralised(group: Neutralised) -> str:
    """One line for a person."""
    shown = ", ".join(group.features[:3]) + (", ..." if len(group.features) > 3 else "")
    one = len(group.features) == 1
    counted = "1 feature has" if one else f"{len(group.features)} features have"
    return f"{counted} no spread on {group.group} and {'was' if one else 'were'} set to 0: {shown}"


def normalize_with_report(
    wells: pl.DataFrame,
    method: str = "mad_robustize",
    *,
    by: str | Sequence[str] = "Metadata_Plate",
    samples: str | None = None,
) -> tuple[pl.DataFrame, list[Neutralised]]:
    """Like `normalize`, and the features that were set to 0 for want of spread, by group."""
    if method not in METHODS:
        raise UsageError(f"method {method!r} is not available: use {', '.join(METHODS)}")
    columns = [by] if isinstance(by, str) else list(dict.fromkeys(by))
    for name in columns:
        if name not in wells.columns:
            raise TableError(f"column {name} is missing: name another with --by")
    if not columns:
        raise UsageError("no column to group by: name one, such as Metadata_Plate")
    features = feature_columns(wells)
    values = _matrix(wells, features)
    selected = np.ones(wells.height, dtype=bool)
    if samples is not None:
        condition = parse_query(samples, wells.schema).alias(_ROW)
        selected = wells.with_columns(condition)[_ROW].to_numpy()
    if method == "none" or not features:
        return wells, []
    neutralised = []
    for key, rows in _groups(wells, columns).items():
        group = ", ".join(str(value) for value in key)
        if not selected[rows].any():
            raise TableError(f"no row of {group} fits the samples {samples!r}: widen the query")
        block, reference = values[rows], values[rows[selected[rows]]]
        unknown = np.isnan(reference).all(axis=0) & ~np.isnan(block).all(axis=0)
        if unknown.any():
            name = features[int(unknown.argmax())]
            raise TableError(
                f"feature {name} is null in the rows of {group} that fit the samples {samples!r}:"
                " widen the query"
            )
        values[rows], flat = _normalised(block, reference, method)
        if flat.any():
            names = tuple(features[index] for index in np.flatnonzero(flat))
            neutralised.append(Neutralised(group, names))
    return wells.with_columns(feature_series(features, values)), neutralised


def _normalised(block: Matrix, reference: Matrix, method: str) -> tuple[Matrix, NDArray[np.bool_]]:
    """One group (N, F), and which of its features have no spread (F,)."""
    if method == "standardize":
        centre = _mean(reference)
        spread = np.sqrt(_mean((reference - centre) ** 2))
    else:
        centre = _median(reference)
        spread = MAD_TO_SD * _median(np.abs(reference - centre))
    if method == "pycytominer_mad_robustize":
        return (block - centre) / (spread + _PYCYTOMINER_EPSILON), np.zeros(len(centre), bool)
    largest = np.fmax.reduce(np.abs(block), axis=0)
    flat = spread <= _ROUNDING * largest  # false where all is NaN
    normalised = (block - centre) / np.where(flat, 1, spread)
    normalised[:, flat] *= 0  # which leaves null what is null
    return normalised, flat


def _matrix(frame: pl.DataFrame, features: list[str]) -> Matrix:
    """Features (N, F), NaN where null.

    Raises:
        TableError: a feature is no number, or not finite.
    """
    if not features:
        return np.empty((frame.height, 0))
    chosen = frame.select(features)
    n_null = np.array(chosen.null_count().row(0))
    for name, dtype, nulls in zip(features, chosen.dtypes, n_null, strict=True):
        if not dtype.is_numeric() and nulls < frame.height:
            raise TableError(
                f"column {name} is {dtype}, but columns without the prefix {METADATA_PREFIX}"
                " are features: rename or drop it"
            )
    values: Matrix = chosen.select(pl.all().cast(pl.Float64)).to_numpy().astype(np.float64, "C")
    n_bad = (~np.isfinite(values)).sum(axis=0) - n_null
    if n_bad.any():
        worst = int(n_bad.argmax())
        others = f" ({np.count_nonzero(n_bad)} features are)" if np.count_nonzero(n_bad) > 1 else ""
        raise TableError(
            f"feature {features[worst]} is NaN or infinite in {n_bad[worst]} of {frame.height}"
            f" rows{others}: drop it"
        )
    return values


def _tile_counts(fields: pl.DataFrame) -> Matrix:
    """Kept tiles of each field (N,)."""
    counts = fields["Metadata_n_tiles"]
    if counts.dtype.is_integer() and counts.null_count() == 0 and (counts >= 1).all():
        return counts.to_numpy().astype(np.float64)
    raise TableError(
        'column Metadata_n_tiles must hold whole numbers from 1 up: mend it or use weight="fields"'
    )


def _groups(frame: pl.DataFrame, columns: list[str]) -> dict[tuple[object, ...], Rows]:
    """Row numbers of each group, groups in the order in which they first appear."""
    numbered = frame.select(columns).with_columns(pl.int_range(pl.len()).alias(_ROW))
    found = numbered.group_by(columns, maintain_order=True).agg(_ROW)
    keys = found.select(columns).rows()
    return {key: rows.to_numpy() for key, rows in zip(keys, found[_ROW], strict=True)}


def _constant_columns(fields: pl.DataFrame, keys: list[str]) -> list[str]:
    """Further metadata columns that have one value in each well."""
    others = [
        name
        for name in fields.columns
        if name.startswith(METADATA_PREFIX) and name not in (*keys, *_SUMS, "Metadata_Site")
    ]
    counts = fields.group_by(keys).agg(pl.col(name).n_unique() for name in others)
    return [name for name in others if (counts[name] == 1).all()]


def _weighted_mean(values: Matrix, weights: Matrix) -> Matrix:
    """Mean over rows (F,) of what is not NaN; NaN where all is."""
    present = ~np.isnan(values)
    total = (np.where(present, values, 0) * weights[:, None]).sum(axis=0)
    weight = (present * weights[:, None]).sum(axis=0)
    mean: Matrix = np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0)
    return mean


def _mean(values: Matrix) -> Matrix:
    return _weighted_mean(values, np.ones(len(values)))


def _median(values: Matrix) -> Matrix:
    """Median over rows (F,) of what is not NaN; NaN where all is."""
    n_present = (~np.isnan(values)).sum(axis=0)
    ordered = np.sort(values, axis=0)  # NaN last
    columns = np.arange(values.shape[1])
    low = ordered[np.maximum(n_present - 1, 0) // 2, columns]
    high = ordered[n_present // 2, columns]
    middle: Matrix = (low + high) / 2
    return middle
