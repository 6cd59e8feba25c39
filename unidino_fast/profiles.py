"""Fields -> wells -> normalised profiles, in Polars.

Letters in formulas: h one feature over the rows of a plate, MAD its median absolute deviation.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl

from unidino_fast.errors import TableError, UsageError
from unidino_fast.query import parse_query
from unidino_fast.results import METADATA_PREFIX, feature_columns

if TYPE_CHECKING:
    from collections.abc import Sequence

METHODS = ("mad_robustize", "standardize", "none", "pycytominer_mad_robustize")
MAD_TO_SD = 1.4826
"""Scales a MAD to the standard deviation of a normal distribution (pycytominer's constant)."""
_PYCYTOMINER_EPSILON = 1e-18
_ROUNDING = 4 * float(np.finfo(np.float32).eps)
"""A spread below this share of a feature's magnitude is the rounding of float32, not a spread."""

_WELL_KEYS = (
    "Metadata_Plate",
    "Metadata_Well",
    "Metadata_Row",
    "Metadata_Column",
    "Metadata_Time",
)
_SUMS = ("Metadata_n_fields", "Metadata_n_tiles", "Metadata_n_tiles_dropped")
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
        statistic: `mean`, or the `median` over fields.
        weight: `tiles` averages all kept tiles of a well alike; `fields` averages fields alike. Both
            are equal where no tile was dropped.

    Returns:
        The columns of `wells.parquet`, float32 features, in the order in which wells first appear.
        Counts are summed; further metadata columns stay where they are constant in each well.

    Raises:
        TableError: a column is missing.
    """
    if statistic not in ("mean", "median") or weight not in ("tiles", "fields"):
        raise UsageError(
            f"statistic {statistic!r}, weight {weight!r}: use mean or median, tiles or fields"
        )
    keys = [name for name in _WELL_KEYS if name in fields.columns]
    for needed in ("Metadata_Plate", "Metadata_Well", "Metadata_n_tiles"):
        if needed not in fields.columns:
            raise TableError(f"column {needed} is missing: give the table that embed_plate returns")
    features = feature_columns(fields)
    others = [
        name
        for name in fields.columns
        if name.startswith(METADATA_PREFIX)
        and name not in (*keys, *_SUMS, "Metadata_Site")
        and _is_constant(fields, name, keys)
    ]
    tiles = pl.col("Metadata_n_tiles") if weight == "tiles" else pl.lit(1)
    if statistic == "median":
        values = [pl.col(name).median() for name in features]
    else:
        values = [
            (pl.col(name).cast(pl.Float64) * tiles).sum()
            / (pl.col(name).is_not_null() * tiles).sum()
            for name in features
        ]
    wells = fields.group_by(keys, maintain_order=True).agg(
        *[pl.col(name).sum() for name in _SUMS if name in fields.columns],
        *[pl.col(name).first() for name in others],
        *[
            pl.when(pl.col(name).is_not_null().any()).then(value).cast(pl.Float32).alias(name)
            for name, value in zip(features, values, strict=True)
        ],
    )
    order = [name for name in fields.columns if name in wells.columns]
    return wells.select(order)


def normalize(
    wells: pl.DataFrame,
    method: str = "mad_robustize",
    *,
    by: str | Sequence[str] = "Metadata_Plate",
    samples: str | None = None,
) -> pl.DataFrame:
    """Normalises features within each plate.

    Args:
        wells: a profile table; metadata columns are kept as they are.
        method: `mad_robustize` is (h - median) / (1.4826 MAD) (Morelli et al. 2025, after
            pycytominer), features without spread set to 0; `standardize` is (h - mean) / SD;
            `pycytominer_mad_robustize` adds 1e-18 to the MAD instead, as pycytominer does, so that
            a feature without spread explodes: for comparison; `none` changes nothing.
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
    plural = "feature has" if len(group.features) == 1 else "features have"
    return f"{len(group.features)} {plural} no spread on {group.group} and set to 0: {shown}"


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
    groups = [by] if isinstance(by, str) else list(by)
    for name in groups:
        if name not in wells.columns:
            raise TableError(f"column {name} is missing: name another with --by")
    features = feature_columns(wells)
    _check_features(wells, features)
    selected = None if samples is None else parse_query(samples, wells.schema)
    if method == "none" or not features:
        return wells, []
    numbered = wells.with_row_index("Metadata_row_number")
    parts = []
    neutralised = []
    for key, part in numbered.partition_by(groups, maintain_order=True, as_dict=True).items():
        name = ", ".join(str(value) for value in key)
        reference = part if selected is None else part.filter(selected)
        if reference.is_empty():
            raise TableError(f"no row of {name} fits the samples {samples!r}: widen the query")
        normalised, flat = _normalised(part, reference, features, method)
        parts.append(normalised)
        if flat:
            neutralised.append(Neutralised(name, tuple(flat)))
    merged = pl.concat(parts).sort("Metadata_row_number").drop("Metadata_row_number")
    return merged, neutralised


def _normalised(
    part: pl.DataFrame, reference: pl.DataFrame, features: list[str], method: str
) -> tuple[pl.DataFrame, list[str]]:
    """One group, and its features without spread."""
    values = reference.select(pl.col(features).cast(pl.Float64))
    if method == "standardize":
        centre = values.mean().row(0)
        spread = values.select(pl.all().std(ddof=0)).row(0)
    else:
        centre = values.median().row(0)
        deviations = [
            (pl.col(name) - middle).abs().median() * MAD_TO_SD
            for name, middle in zip(features, centre, strict=True)
        ]
        spread = values.select(deviations).row(0)
    largest = values.select(pl.all().abs().max()).row(0)
    expressions = []
    flat = []
    for name, middle, width, top in zip(features, centre, spread, largest, strict=True):
        column = pl.col(name).cast(pl.Float64)
        if middle is None:  # a channel that the whole group lacks
            value = column
        elif method == "pycytominer_mad_robustize":
            value = (column - middle) / (width + _PYCYTOMINER_EPSILON)
        elif width <= _ROUNDING * top:
            flat.append(name)
            value = pl.when(column.is_not_null()).then(0.0)
        else:
            value = (column - middle) / width
        expressions.append(value.cast(pl.Float32).alias(name))
    return part.with_columns(expressions), flat


def _is_constant(fields: pl.DataFrame, name: str, keys: list[str]) -> bool:
    counts = fields.group_by(keys).agg(pl.col(name).n_unique())
    return bool((counts[name] == 1).all())


def _check_features(wells: pl.DataFrame, features: list[str]) -> None:
    for name in features:
        column = wells[name]
        if not column.dtype.is_numeric():
            raise TableError(
                f"column {name} is {column.dtype}, but columns without the prefix {METADATA_PREFIX}"
                " are features: rename or drop it"
            )
        bad = column.len() - int(column.is_finite().sum()) - column.null_count()
        if bad:
            raise TableError(
                f"feature {name} is NaN or infinite in {bad} of {column.len()} rows: drop it"
            )
