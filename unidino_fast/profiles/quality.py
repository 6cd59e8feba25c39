"""Leaves out rows that quality control has flagged."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from unidino_fast.errors import TableError
from unidino_fast.results import QUALITY_PREFIX

if TYPE_CHECKING:
    from collections.abc import Sequence

FLAGGED = f"{QUALITY_PREFIX}Flagged"
_FLAGS = f"{QUALITY_PREFIX}Flags"
_NAMES = ("Metadata_Plate", "Metadata_Well", "Metadata_Time", "Metadata_Site")
TOLD_BY = (*_NAMES, FLAGGED, _FLAGS)
"""Columns that say which rows are flagged and why, where a table has them."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Rows that are left out.

    Attributes:
        n_rows: how many.
        of: rows that the table had.
        kinds: how many of them have each kind of flag.
        rows: their names, such as `plate1 A01`.
    """

    n_rows: int
    of: int
    kinds: dict[str, int]
    rows: tuple[str, ...]

    def line(self) -> str:
        """For people."""
        if not self.n_rows:
            return f"left out by quality control: none of {self.of} rows"
        why = ", ".join(f"{kind} {count}" for kind, count in self.kinds.items())
        return f"left out by quality control: {self.n_rows} of {self.of} rows ({why or 'flagged'})"

    def describe(self) -> dict[str, Any]:
        """JSON-ready, for the provenance."""
        return {"n_rows": self.n_rows, "of": self.of, "kinds": self.kinds, "rows": list(self.rows)}


def unflagged(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows that quality control does not flag; those that it did not judge stay.

    Raises:
        TableError: there is no such column, or it is no column of true and false.
    """
    _check(frame)
    return frame.filter(~pl.col(FLAGGED).fill_null(value=False))


def left_out(frame: pl.DataFrame) -> LeftOut:
    """The rows that `unflagged` leaves out, of the columns `TOLD_BY` of a table.

    Raises:
        TableError: as in `unflagged`, or no row is left.
    """
    _check(frame)
    gone = frame.filter(pl.col(FLAGGED).fill_null(value=False))
    if frame.height and gone.height == frame.height:
        raise TableError(
            f"all {frame.height} rows are flagged by quality control: leave --drop-qc out, or embed"
            " again with other limits (--qc-config), which takes no time"
        )
    flags: Sequence[str | None] = gone[_FLAGS].to_list() if _FLAGS in gone.columns else []
    kinds: Counter[str] = Counter()
    for text in flags:
        kinds.update({flag.partition(":")[0] for flag in (text or "").split(";") if flag})
    named = gone.select(name for name in _NAMES if name in gone.columns)
    rows = tuple(" ".join(str(value) for value in row) for row in named.iter_rows())
    return LeftOut(gone.height, frame.height, dict(sorted(kinds.items())), rows)


def _check(frame: pl.DataFrame) -> None:
    if FLAGGED not in frame.columns:
        raise TableError(
            f"the table has no column {FLAGGED}: embed the plate without --no-qc, or leave"
            " --drop-qc out"
        )
    if frame[FLAGGED].dtype not in (pl.Boolean, pl.Null):
        raise TableError(f"column {FLAGGED} is {frame[FLAGGED].dtype}: it must be true or false")
