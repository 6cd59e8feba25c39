"""Joins platemaps (CSV or Parquet tables of what is in each well) onto profile tables."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from unidino_fast.errors import TableError
from unidino_fast.names import WellName, one_line, parse_well, row_letters
from unidino_fast.results import METADATA_PREFIX, feature_columns, is_quality_column
from unidino_fast.tables import read_table

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

_WELL_NAMES = ("well", "wellname", "wellid", "wellposition", "welllabel", "assaywell")
_POSITION_NAMES = ("position",)
_PLATE_NAMES = ("plate", "plateid", "platename", "platebarcode", "barcode", "assayplatebarcode")
_ROW_NAMES = ("row", "wellrow", "platerow")
_COLUMN_NAMES = ("column", "col", "wellcolumn", "wellcol", "platecolumn")
_RESERVED = (
    "Metadata_Row",
    "Metadata_Column",
    "Metadata_Site",
    "Metadata_Time",
    "Metadata_n_fields",
    "Metadata_n_tiles",
    "Metadata_n_tiles_dropped",
)
_LONGEST_SHOWN = 40
_MOST_ROWS = 26 * 27  # ZZ


@dataclass(frozen=True, slots=True)
class Platemap:
    """A platemap to join: its table (from `read_platemap`) and its name for messages."""

    name: str
    table: pl.DataFrame

    def describe(self) -> dict[str, str]:
        """Name and SHA-256 of the table as CSV, for provenance."""
        text = self.table.write_csv()
        return {"name": self.name, "digest": hashlib.sha256(text.encode()).hexdigest()}


def read_platemap(path: str | os.PathLike[str]) -> pl.DataFrame:
    """A platemap with `Metadata_Well` (`A01`), `Metadata_Plate` where it has one, and the rest.

    The well comes from a column such as `Well`, `Metadata_Well` or `well_position`, or from a pair
    such as `Row` (`A` or 1) and `Column`. All columns get the `Metadata_` prefix; rows without any
    cell are skipped. Plates are text. For the formats see `tables.read_table`.

    Raises:
        TableError: the file cannot be read, has no well column, or holds a well that is none.
    """
    file = Path(path)
    table = read_table(file)
    plain = {_plain(name): name for name in reversed(table.columns)}
    row, column = _first(plain, _ROW_NAMES), _first(plain, _COLUMN_NAMES)
    pair = [row, column] if row is not None and column is not None else []
    well = _first(plain, _WELL_NAMES if pair else _WELL_NAMES + _POSITION_NAMES)
    if well is None and not pair:
        raise TableError(
            f"{file.name} has no well column: name one Well (A01) or two Row and Column;"
            f" it has {', '.join(_shown(name) for name in table.columns[:8]) or 'no column'}"
        )
    table = table.filter(~pl.all_horizontal(pl.all().is_null()))
    if table.is_empty():
        raise TableError(f"{file.name} has no rows: a platemap has one a well")
    wells = _wells(file.name, table, [well] if well is not None else pair)
    columns = [pl.Series("Metadata_Well", wells, pl.String)]
    plate = _first(plain, _PLATE_NAMES)
    if plate is not None:
        names = [_text(value) for value in table[plate]]
        columns.append(pl.Series("Metadata_Plate", names, pl.String))
    used = (well, plate, row, column)
    columns += [table[name].alias(_prefixed(name)) for name in table.columns if name not in used]
    names_after = [series.name for series in columns]
    for name in names_after:
        if name in _RESERVED or is_quality_column(name) or names_after.count(name) > 1:
            raise TableError(
                f"{file.name} has a column that would become {_shown(name)}, which is taken:"
                " rename it"
            )
    return pl.DataFrame(columns)


def join_platemap(
    frame: pl.DataFrame, platemap: pl.DataFrame, *, name: str = "platemap"
) -> tuple[pl.DataFrame, list[str]]:
    """Joins a platemap's columns onto a table of wells or fields, after its metadata.

    Joining again replaces the columns that the platemap brings.

    Args:
        frame: a table with `Metadata_Plate` and `Metadata_Well`.
        platemap: from `read_platemap`; used by plate and well where it has both.
        name: what to call the platemap in messages.

    Returns:
        The joined table and complaints: platemap rows without a well, and wells without a row.

    Raises:
        TableError: a well stands in the platemap twice, or no row of it matches.
    """
    for needed in ("Metadata_Plate", "Metadata_Well"):
        if needed not in frame.columns:
            raise TableError(
                f"column {needed} is missing: give a table of fields, wells or profiles"
            )
    by_plate = "Metadata_Plate" in platemap.columns
    plates = list(dict.fromkeys(_text(plate) for plate in frame["Metadata_Plate"]))
    if by_plate and plates:
        of_plates = platemap.filter(pl.col("Metadata_Plate").is_in(plates))
        if of_plates.is_empty():
            listed = platemap["Metadata_Plate"].drop_nulls().unique(maintain_order=True).to_list()
            raise TableError(
                f"{name} has no row for plate {_some(plates)}, but for {_some(listed)}:"
                " correct its plate column, or leave that column out"
            )
        platemap = of_plates
    keys = ["Metadata_Plate", "Metadata_Well"] if by_plate else ["Metadata_Well"]
    rows = _row_of_key(platemap, keys, name)
    wanted = [tuple(_text(value) for value in key) for key in frame.select(keys).iter_rows()]
    present = dict.fromkeys(wanted)
    unmatched = [key[-1] for key in rows if key not in present]
    unlisted = [key[-1] for key in present if key not in rows]
    if len(unmatched) == len(rows) and not frame.is_empty():
        raise TableError(
            f"{name} names no well of plate {_some(plates)}: it has {_some(unmatched)}, the plate"
            f" {_some(unlisted)}; correct its wells"
        )
    indices = pl.Series([rows.get(key) for key in wanted], dtype=pl.UInt32)
    joined = [column.gather(indices) for column in platemap.drop(keys)]
    fresh = {column.name for column in joined}
    features = feature_columns(frame)
    kept = [column for column in frame.columns if column not in fresh and column not in features]
    complaints = []
    if unmatched and not frame.is_empty():
        are = "1 well is" if len(unmatched) == 1 else f"{len(unmatched)} wells are"
        complaints.append(f"{name}: {are} not on the plate: {_some(unmatched)}")
    if unlisted:
        have = "1 well has" if len(unlisted) == 1 else f"{len(unlisted)} wells have"
        complaints.append(f"{name}: {have} no row: {_some(unlisted)}")
    return pl.DataFrame([*frame.select(kept), *joined, *frame.select(features)]), complaints


def _wells(file: str, table: pl.DataFrame, columns: list[str]) -> list[str]:
    """Well names of a well column, or of a row column and a column column."""
    found = []
    for cells in table.select(columns).iter_rows():
        texts = [_text(cell) or "" for cell in cells]
        position = parse_well(texts[0]) if len(texts) == 1 else _from_pair(*texts)
        if position is None:
            raise TableError(
                f"{file} holds the well {_shown(' '.join(texts))} in {' and '.join(columns)},"
                " which is none: write A01"
            )
        found.append(str(position))
    return found


def _row_of_key(
    platemap: pl.DataFrame, keys: list[str], name: str
) -> dict[tuple[str | None, ...], int]:
    rows: dict[tuple[str | None, ...], int] = {}
    for row, key in enumerate(platemap.select(keys).iter_rows()):
        if rows.setdefault(key, row) != row:
            raise TableError(f"{name} lists well {key[-1]} twice: keep one row")
    return rows


def _plain(name: str) -> str:
    """`well_position` and `Metadata_Well Position` are the same word."""
    return re.sub(r"[^a-z0-9]", "", name.removeprefix(METADATA_PREFIX).lower())


def _first(plain: dict[str, str], names: tuple[str, ...]) -> str | None:
    return next((plain[name] for name in names if name in plain), None)


def _prefixed(name: str) -> str:
    return name if name.startswith(METADATA_PREFIX) else f"{METADATA_PREFIX}{name}"


def _text(value: object) -> str | None:
    """A cell as text; pandas makes whole numbers floats where some are missing."""
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def _from_pair(row: str, column: str) -> WellName | None:
    """A well of row `A` (or 1) and column `1` (or `01`)."""
    if row.isascii() and row.isdecimal() and 1 <= int(row[:9]) <= _MOST_ROWS:
        return parse_well(f"{row_letters(int(row[:9]) - 1)}{column}")
    if row.isascii() and row.isalpha() and column.isascii() and column.isdecimal():
        return parse_well(f"{row}{column}")
    return None


def _shown(text: str) -> str:
    """A cell in a message: one line, not too long."""
    line = one_line(text)
    return line if 0 < len(line) <= _LONGEST_SHOWN else repr(line[:_LONGEST_SHOWN])


def _some(names: Sequence[str | None], most: int = 5) -> str:
    more = ", ..." if len(names) > most else ""
    return ", ".join(_shown(str(name)) for name in names[:most]) + more if names else "none"
