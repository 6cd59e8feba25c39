"""Metadata columns by the names that people type, for all that group, label or exclude by them."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

import polars as pl

from unidino_fast.errors import TableError, UsageError
from unidino_fast.names import one_line
from unidino_fast.results import METADATA_PREFIX
from unidino_fast.tables import check_polars

if TYPE_CHECKING:
    from collections.abc import Sequence


def metadata_names(names: str | Sequence[str]) -> tuple[str, ...]:
    """Names of columns, each once and with its prefix: `Plate` is `Metadata_Plate`.

    Raises:
        UsageError: a name is empty.
    """
    given = (names,) if isinstance(names, str) else tuple(names)
    if any(not name.strip() for name in given):
        raise UsageError("the name of a column is empty: write one, such as Plate")
    return tuple(dict.fromkeys(METADATA_PREFIX + n.removeprefix(METADATA_PREFIX) for n in given))


def find_column(table: pl.DataFrame, name: str, needed_by: str = "") -> str:
    """The metadata column of a name given with or without its prefix.

    Args:
        table: has it, or not.
        name: such as `MoA` or `Metadata_MoA`.
        needed_by: who needs it, such as `preset NSCB`, where nobody typed the name.

    Raises:
        UsageError: the table is none of Polars, or the name is empty.
        TableError: there is no such column, or it holds lists and the like.
    """
    check_polars(table)
    (column,) = metadata_names(name)
    if column not in table.columns:
        raise _missing(table, column, needed_by)
    dtype = table.schema[column]
    if dtype.is_nested() or dtype in (pl.Object, pl.Binary):
        raise TableError(
            f"{one_line(column)} holds {dtype}: labels and groups are text, numbers or dates, name"
            " another column"
        )
    return column


def find_columns(
    table: pl.DataFrame, names: str | Sequence[str], needed_by: str = ""
) -> tuple[str, ...]:
    """`find_column` of one name or several, each once, in their order."""
    check_polars(table)
    return tuple(find_column(table, name, needed_by) for name in metadata_names(names))


def n_unknown(values: pl.Series) -> int:
    """How many are null or NaN."""
    return (values.fill_nan(None) if values.dtype.is_float() else values).null_count()


def _missing(table: pl.DataFrame, column: str, needed_by: str) -> TableError:
    """The error for a column that is not there, with those that are."""
    there = [name for name in table.columns if name.startswith(METADATA_PREFIX)]
    folded = {name.removeprefix(METADATA_PREFIX).lower(): name for name in there}
    stem = column.removeprefix(METADATA_PREFIX).lower()
    near = difflib.get_close_matches(stem, folded, n=3, cutoff=0.6)
    meant = " or ".join(one_line(folded[match]) for match in near)
    meant = f"did you mean {meant}? " if near else ""
    asked = f", which {needed_by} needs" if needed_by else ""
    told = [name for name in there if not name.startswith(f"{METADATA_PREFIX}QC_")]  # dozens
    known = ", ".join(map(one_line, told or there)) or "its columns (it has no metadata)"
    return TableError(
        f"the table has no column {one_line(column)}{asked}: {meant}join it to the table (embed"
        f" --metadata) or name one of {known}"
    )
