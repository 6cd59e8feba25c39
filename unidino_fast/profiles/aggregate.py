"""Fields -> wells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl

from unidino_fast.errors import TableError, UsageError
from unidino_fast.profiles.groups import keyed_groups
from unidino_fast.profiles.statistics import median, weighted_mean
from unidino_fast.profiles.table import Profiles, take_apart
from unidino_fast.results import METADATA_PREFIX, QUALITY_PREFIX
from unidino_fast.tables import check_polars

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unidino_fast.profiles.table import Matrix

_WELL_KEYS = (
    "Metadata_Plate",
    "Metadata_Well",
    "Metadata_Row",
    "Metadata_Column",
    "Metadata_Time",
)
_SUMS = ("Metadata_n_fields", "Metadata_n_tiles", "Metadata_n_tiles_dropped")


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
        A field that lacks a channel has no say in it. Counts are summed; measures of quality
        (`Metadata_QC_...`) become the median over fields, whatever the statistic; further metadata
        columns stay where they are constant in each well.

    Raises:
        TableError: a column is missing, a plate or well is null, or features or counts are not what
            they should be.
        UsageError: unknown statistic or weight, or no Polars DataFrame.
    """
    check_polars(fields)
    return aggregate_profiles(take_apart(fields), statistic=statistic, weight=weight).frame()


def aggregate_profiles(
    fields: Profiles,
    *,
    statistic: Literal["mean", "median"] = "mean",
    weight: Literal["tiles", "fields"] = "tiles",
) -> Profiles:
    """`aggregate` of a table that is taken apart, as its wells are to be."""
    if statistic not in ("mean", "median") or weight not in ("tiles", "fields"):
        raise UsageError(
            f"statistic {statistic!r}, weight {weight!r}: use mean or median, tiles or fields"
        )
    told = fields.metadata
    for needed in ("Metadata_Plate", "Metadata_Well", "Metadata_n_tiles"):
        if needed not in told.columns:
            raise TableError(f"column {needed} is missing: give the table that embed_plate returns")
    keys = [name for name in _WELL_KEYS if name in told.columns]
    values = fields.values.astype(np.float64)
    weights = _tile_counts(told) if weight == "tiles" else np.ones(told.height)
    groups = list(keyed_groups(told, keys).values())
    of_wells = np.empty((len(values), len(groups)), np.float32)
    for well, rows in enumerate(groups):
        if statistic == "median":
            of_wells[:, well] = median(values[:, rows]).whole()
        else:
            of_wells[:, well] = weighted_mean(values[:, rows], weights[rows])
    measures = quality_measures(told)
    constant = constant_columns(told, keys, but=(*_SUMS, *measures, "Metadata_Site"))
    wells = told.group_by(keys, maintain_order=True).agg(
        *[pl.col(name).sum() for name in _SUMS if name in told.columns],
        *[pl.col(name).median().cast(pl.Float32) for name in measures],
        *[pl.col(name).first() for name in constant],
    )
    kept = {*wells.columns, *fields.features}
    return Profiles(
        wells.select(name for name in told.columns if name in kept),
        fields.features,
        of_wells,
        tuple(name for name in fields.order if name in kept),
    )


def constant_columns(
    frame: pl.DataFrame, keys: Sequence[str], *, but: Sequence[str] = ()
) -> list[str]:
    """Metadata columns, other than the keys, that have one value in each group."""
    others = [
        name
        for name in frame.columns
        if name.startswith(METADATA_PREFIX) and name not in (*keys, *but)
    ]
    counts = frame.group_by(keys).agg(pl.col(name).n_unique() for name in others)
    return [name for name in others if (counts[name] == 1).all()]


def quality_measures(frame: pl.DataFrame) -> list[str]:
    """Columns of numbers that quality control made of pixels."""
    return [
        name
        for name, dtype in frame.schema.items()
        if name.startswith(QUALITY_PREFIX) and dtype.is_float()
    ]


def _tile_counts(fields: pl.DataFrame) -> Matrix:
    """Kept tiles of each field (N,)."""
    counts = fields["Metadata_n_tiles"]
    if counts.dtype.is_integer() and counts.null_count() == 0 and (counts >= 1).all():
        return counts.to_numpy().astype(np.float64)
    raise TableError(
        'column Metadata_n_tiles must hold whole numbers from 1 up: mend it or use weight="fields"'
    )
