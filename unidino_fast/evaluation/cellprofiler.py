"""CellProfiler profiles as tables of ours: which columns are features, and what the rest is called.

Reads what pycytominer and CytoTable write, and the public tables of BBBC021.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

import polars as pl

from unidino_fast.columns import find_columns
from unidino_fast.errors import TableError, UsageError
from unidino_fast.names import one_line
from unidino_fast.results import METADATA_PREFIX, feature_columns
from unidino_fast.tables import check_polars, read_table

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

COMPARTMENTS = ("Cells_", "Cytoplasm_", "Nuclei_")
"""Prefixes of CellProfiler's features, as pycytominer infers them."""
_MEASURED = re.compile(
    r"(Cells|Cytoplasm|Nuclei)_(AreaShape|Children|Correlation|Granularity|Intensity|Location"
    r"|Neighbors|Number|ObjectSkeleton|Parent|RadialDistribution|Texture)_"
)
"""What tells CellProfiler's features from those of a channel called Nuclei (`Nuclei_007`)."""
_IMAGE_METADATA = "Image_Metadata_"
WELL = ("Metadata_Plate", "Metadata_Well")


def read_profiles(path: str | os.PathLike[str], features: Sequence[str] = ()) -> pl.DataFrame:
    """A table from `.parquet`, `.csv`, `.csv.gz` ... with features told from metadata.

    Raises:
        TableError: the file is no table, or see `as_profiles`.
    """
    return as_profiles(read_table(path), features)


def as_profiles(table: pl.DataFrame, features: Sequence[str] = ()) -> pl.DataFrame:
    """A table in which exactly the columns without `Metadata_` are features.

    The rule is pycytominer's: columns whose names begin with one of `features` are features. Where
    none is given and the table has CellProfiler's measurements (`Cells_AreaShape_Area`), its
    compartments `Cells_`, `Cytoplasm_` and `Nuclei_` are taken; otherwise every column without
    `Metadata_` stays a feature, as in our own tables. Once features are known, all others are
    metadata: `Image_Metadata_X` becomes `Metadata_X`, and any other `X` does too. NaN, which
    CellProfiler writes where a measurement makes no sense, becomes null.

    Raises:
        UsageError: an empty prefix, or a table that is none of Polars.
        TableError: no column begins so, a feature is no number, or two columns would share a name.
    """
    check_polars(table)
    found = known_features(table.columns, features)
    if found is None:
        return table
    empty = [name for name in found if table[name].null_count() == len(table)]
    table = table.with_columns(pl.col(empty).cast(pl.Float64))
    for name in found:
        if not table[name].dtype.is_numeric():
            raise TableError(
                f"feature {one_line(name)} holds {table[name].dtype}, not numbers: rename it to"
                f" {METADATA_PREFIX}{one_line(name)} or name the features' prefixes"
            )
    table = table.with_columns(
        pl.col(name).fill_nan(None) for name in found if table[name].dtype.is_float()
    )
    return as_metadata(table, found)


def known_features(columns: Sequence[str], features: Sequence[str] = ()) -> list[str] | None:
    """Features among the names of columns by the rule of `as_profiles`.

    None stands for our own tables, where every column without `Metadata_` is one.

    Raises:
        UsageError: an empty prefix.
        TableError: no column begins so.
    """
    if not all(prefix.strip() for prefix in features):
        raise UsageError("--features is empty: name how features begin, such as Cells_")
    if not features and not any(_MEASURED.match(name) for name in columns):
        return None
    prefixes = tuple(features) or COMPARTMENTS
    found = [
        name
        for name in columns
        if name.startswith(prefixes) and not name.startswith(METADATA_PREFIX)
    ]
    if not found:
        shown = ", ".join(map(one_line, prefixes))
        raise TableError(f"no column begins with {shown}: name the prefix of the features")
    return found


def as_metadata(table: pl.DataFrame, features: Sequence[str] = ()) -> pl.DataFrame:
    """The table with the prefix before every column that is no feature.

    Raises:
        TableError: two columns that differ would share a name.
    """
    known = set(features)
    return _renamed(table, {n: _metadata_name(n) for n in table.columns if n not in known})


def mean_of_cells(
    cells: pl.DataFrame,
    by: Sequence[str] = WELL,
    statistic: Literal["mean", "median"] = "median",
) -> pl.DataFrame:
    """Wells of single cells, as CytoTable writes them: a feature's mean or median, null left out.

    NaN, which CellProfiler writes where a measurement makes no sense, counts as null. Metadata that
    vary within a well are left out; `Metadata_n_cells` counts rows.

    Raises:
        UsageError: an unknown statistic.
        TableError: a column to group by is missing.
    """
    if statistic not in ("mean", "median"):
        raise UsageError(f"statistic {statistic!r} is unknown: use mean or median")
    keys = find_columns(cells, by)
    features = feature_columns(cells)
    others = [name for name in cells.columns if name not in {*features, *keys}]
    grouped = cells.with_columns(pl.col(features).cast(pl.Float64).fill_nan(None)).group_by(
        keys, maintain_order=True
    )
    n_values = grouped.agg(pl.col(name).n_unique() for name in others)
    of_features = pl.col(features)
    return grouped.agg(
        *(pl.col(name).first() for name in others if (n_values[name] == 1).all()),
        pl.len().cast(pl.Int64).alias("Metadata_n_cells"),
        of_features.mean() if statistic == "mean" else of_features.median(),
    )


def _metadata_name(name: str) -> str:
    if name.startswith(METADATA_PREFIX):
        return name
    return METADATA_PREFIX + name.removeprefix(_IMAGE_METADATA)


def _renamed(table: pl.DataFrame, names: dict[str, str]) -> pl.DataFrame:
    """Renames columns; of two that would share a name one goes if they hold the same."""
    taken: dict[str, str] = {}
    spare = []
    for old, new in names.items():
        if new not in taken:
            taken[new] = old
        elif table[old].equals(table[taken[new]]):
            spare.append(old)
        else:
            raise TableError(
                f"columns {one_line(taken[new])} and {one_line(old)} would both be {one_line(new)},"
                " but differ: drop or rename one"
            )
    return table.drop(spare).rename({old: new for old, new in names.items() if old not in spare})
