"""Text that a spreadsheet would run: marked when a CSV is written, and as it was when it is read.

A cell of a CSV that begins with `=`, `+`, `-`, `@`, a tab or a line break is a formula to most
spreadsheets, and may start programs or send cells elsewhere (CWE-1236). Names of compounds come
from foreign platemaps, and a `'` before the first character is what makes them text there (OWASP,
CSV injection). Numbers are left alone.
"""

from __future__ import annotations

import polars as pl

_STARTS = r"[=+\-@\t\r\n\x{ff1d}\x{ff0b}\x{ff0d}\x{ff20}]"  # the last four are = + - @, full-width
_FORMULA = f"^'*{_STARTS}"
_MARKED = f"^'+{_STARTS}"
_TEXT = (pl.String, pl.Categorical, pl.Enum)
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"


def as_text(frame: pl.DataFrame) -> pl.DataFrame:
    """The table with a `'` before each text cell and column name that could be a formula.

    Text that already begins with `'` and goes on as a formula gets one more, so that
    `as_written` gives back the very same table.
    """
    names = [name for name, dtype in frame.schema.items() if dtype in _TEXT]
    marked = frame.with_columns(_marked(frame[name].cast(pl.String)) for name in names)
    return marked.rename({name: f"'{name}" for name in _fitting(frame.columns, _FORMULA)})


def as_written(frame: pl.DataFrame) -> pl.DataFrame:
    """The table without the marks of `as_text`."""
    names = [name for name, dtype in frame.schema.items() if dtype == pl.String]
    plain = frame.with_columns(_plain(frame[name]) for name in names)
    return plain.rename({name: name[1:] for name in _fitting(frame.columns, _MARKED)})


def _marked(cells: pl.Series) -> pl.Series:
    is_formula = cells.str.contains(_FORMULA) & ~cells.str.contains(_NUMBER)
    return ("'" + cells).zip_with(is_formula.fill_null(False), cells).alias(cells.name)


def _plain(cells: pl.Series) -> pl.Series:
    is_marked = cells.str.contains(_MARKED).fill_null(False)
    return cells.str.slice(1).zip_with(is_marked, cells)


def _fitting(names: list[str], pattern: str) -> list[str]:
    column = pl.Series(names, dtype=pl.String)
    return column.filter(column.str.contains(pattern)).to_list()
