"""Joins platemaps (CSV or Parquet tables of what is in each well) onto profile tables."""

from __future__ import annotations

import os
import re
from pathlib import Path

import polars as pl

from unidino_fast.errors import TableError
from unidino_fast.names import WellName, parse_well, row_index
from unidino_fast.results import METADATA_PREFIX
from unidino_fast.tables import read_table

_WELL_NAMES = ("well", "wellname", "wellid", "wellposition", "welllabel", "position", "assaywell")
_PLATE_NAMES = ("plate", "plateid", "platename", "platebarcode", "barcode", "assayplatebarcode")
_ROW_NAMES = ("row", "wellrow", "platerow")
_COLUMN_NAMES = ("column", "col", "wellcolumn", "wellcol", "platecolumn")
_RESERVED = (
    "Metadata_Site",
    "Metadata_Time",
    "Metadata_n_fields",
    "Metadata_n_tiles",
    "Metadata_n_tiles_dropped",
)


def read_platemap(path: str | os.PathLike[str]) -> pl.DataFrame:
    """A platemap with `Metadata_Well` (`A01`), `Metadata_Plate` where it has one, and the rest.

    The well comes from a column such as `Well`, `Metadata_Well` or `well_position`, or from a pair
    such as `Row` and `Column`. All columns get the `Metadata_` prefix. CSV, TSV and Parquet.

    Raises:
        TableError: the file cannot be read, has no well column, or holds a well that is none.
    """
    file = Path(path)
    table = read_table(file)
    if table.is_empty():
        raise TableError(f"{file.name} has no rows: a platemap has one a well")
    plain = {_plain(name): name for name in reversed(table.columns)}
    well = _first(plain, _WELL_NAMES)
    row, column = _first(plain, _ROW_NAMES), _first(plain, _COLUMN_NAMES)
    if well is not None:
        used = [well] + [name for name in (row, column) if name is not None]
        positions = [parse_well(str(text)) for text in table[well]]
        shown = table[well].to_list()
    elif row is not None and column is not None:
        used = [row, column]
        shown = list(zip(table[row].to_list(), table[column].to_list(), strict=True))
        positions = [_from_pair(*pair) for pair in shown]
    else:
        raise TableError(
            f"{file.name} has no well column: name one Well (A01) or two Row and Column;"
            f" it has {', '.join(table.columns[:8])}"
        )
    for position, text in zip(positions, shown, strict=True):
        if position is None:
            raise TableError(f"{file.name} holds the well {text!r}, which is none: write A01")
    plate = _first(plain, _PLATE_NAMES)
    columns = [pl.Series("Metadata_Well", [str(position) for position in positions], pl.String)]
    if plate is not None:
        used.append(plate)
        columns.append(table[plate].cast(pl.String).alias("Metadata_Plate"))
    for name in table.columns:
        if name not in used:
            columns.append(table[name].alias(_prefixed(name)))
    names = [series.name for series in columns]
    for name in names:
        if name in _RESERVED or names.count(name) > 1:
            raise TableError(
                f"{file.name} has a column that would become {name}, which is taken: rename it"
            )
    return pl.DataFrame(columns)


def join_platemap(
    frame: pl.DataFrame, platemap: pl.DataFrame, *, name: str = "platemap"
) -> tuple[pl.DataFrame, list[str]]:
    """Joins a platemap's columns onto the wells (or fields) of one plate, after its metadata.

    Args:
        frame: a table with `Metadata_Plate` and `Metadata_Well`.
        platemap: from `read_platemap`; used by plate and well where it has both.
        name: what to call the platemap in messages.

    Returns:
        The joined table and complaints: rows of the platemap without a well, and wells without a row.

    Raises:
        TableError: a well stands in the platemap twice, or no row of it matches.
    """
    keys = ["Metadata_Well"]
    plates = set(frame["Metadata_Plate"])
    if "Metadata_Plate" in platemap.columns:
        keys.insert(0, "Metadata_Plate")
        platemap = platemap.filter(pl.col("Metadata_Plate").is_in(list(plates)))
        if platemap.is_empty():
            raise TableError(
                f"{name} has no row for plate {', '.join(sorted(plates))}:"
                " check its plate column, or leave that column out"
            )
    repeated = platemap.filter(pl.struct(keys).is_duplicated())
    if not repeated.is_empty():
        raise TableError(f"{name} lists well {repeated['Metadata_Well'][0]} twice: keep one row")
    fresh = [column for column in platemap.columns if column not in keys]
    frame = frame.drop([column for column in fresh if column in frame.columns])
    present = frame.select(keys).unique()
    unmatched = platemap.join(present, on=keys, how="anti")["Metadata_Well"].to_list()
    unlisted = present.join(platemap, on=keys, how="anti")["Metadata_Well"].sort().to_list()
    if len(unmatched) == platemap.height:
        raise TableError(
            f"{name} names no well of plate {', '.join(sorted(plates))}:"
            f" it has {_some(unmatched)}, the plate {_some(unlisted)}"
        )
    complaints = []
    if unmatched:
        complaints.append(
            f"{name}: {len(unmatched)} wells are not on the plate: {_some(unmatched)}"
        )
    if unlisted:
        complaints.append(f"{name}: {len(unlisted)} wells have no row: {_some(unlisted)}")
    joined = frame.join(platemap, on=keys, how="left", maintain_order="left")
    metadata = [column for column in frame.columns if column.startswith(METADATA_PREFIX)]
    features = [column for column in frame.columns if not column.startswith(METADATA_PREFIX)]
    return joined.select(metadata + fresh + features), complaints


def _plain(name: str) -> str:
    """`well_position` and `Metadata_Well Position` are the same word."""
    return re.sub(r"[^a-z]", "", name.removeprefix(METADATA_PREFIX).lower())


def _first(plain: dict[str, str], names: tuple[str, ...]) -> str | None:
    return next((plain[name] for name in names if name in plain), None)


def _prefixed(name: str) -> str:
    return name if name.startswith(METADATA_PREFIX) else f"{METADATA_PREFIX}{name}"


def _from_pair(row: object, column: object) -> WellName | None:
    """A well of row `A` (or 1) and column `1` (or `01`)."""
    letters, number = str(row).strip(), str(column).strip()
    if not number.isdigit() or not 1 <= int(number) <= 999:
        return None
    if letters.isdigit() and int(letters) >= 1:
        return WellName(int(letters) - 1, int(number))
    if letters.isascii() and letters.isalpha() and len(letters) <= 2:
        return WellName(row_index(letters), int(number))
    return None


def _some(wells: list[str], most: int = 5) -> str:
    more = ", ..." if len(wells) > most else ""
    return ", ".join(wells[:most]) + more if wells else "none"
