"""Measures as columns of a table, and back.

Letters: N rows, C channels, M measures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from unidino_fast.errors import TableError
from unidino_fast.qc.measures import MEASURES
from unidino_fast.results import QUALITY_PREFIX

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from unidino_fast.results import FieldRecord, FieldResult

FLAGS = f"{QUALITY_PREFIX}Flags"
"""Text: what a well is flagged for, `kind:channel` with semicolons between."""
FLAGGED = f"{QUALITY_PREFIX}Flagged"
"""Whether one of them counts for `profile --drop-qc`."""
WELL_KEYS = ("Metadata_Plate", "Metadata_Well", "Metadata_Time")


def quality_columns(frame: pl.DataFrame) -> dict[tuple[str, str], str]:
    """Column of each measure and channel that a table holds, channel by channel as they stand."""
    found = {}
    for name in frame.columns:
        measure, _, channel = name.removeprefix(QUALITY_PREFIX).partition("_")
        if name.startswith(QUALITY_PREFIX) and measure in MEASURES and channel:
            found[measure, channel] = name
    return found


def quality_series(
    fields: Sequence[FieldResult | FieldRecord], channels: Sequence[str]
) -> list[pl.Series]:
    """Columns of measures, a row a field; null where a field lacks a channel or leaves one open."""
    values = np.full((len(fields), len(channels), len(MEASURES)), np.nan, np.float32)
    places = {channel: place for place, channel in enumerate(channels)}
    for row, field in enumerate(fields):
        values[row, [places[label] for label in field.labels]] = field.quality
    return [
        pl.Series(f"{QUALITY_PREFIX}{measure}_{channel}", values[:, c, m], nan_to_null=True)
        for c, channel in enumerate(channels)
        for m, measure in enumerate(MEASURES)
    ]


@dataclass(frozen=True, slots=True)
class Quality:
    """Measures of some rows.

    Attributes:
        channels: labels, C.
        values: (N, C, M) float64, NaN where null.
    """

    channels: tuple[str, ...]
    values: NDArray[np.float64]

    @classmethod
    def of(cls, frame: pl.DataFrame) -> Quality:
        """Those of a table.

        Raises:
            TableError: it has none, or a column of them is missing or no number.
        """
        columns = quality_columns(frame)
        channels = tuple(dict.fromkeys(channel for _, channel in columns))
        if not channels:
            raise TableError(
                f"the table has no columns {QUALITY_PREFIX}...: embed the plate without --no-qc"
            )
        values = np.empty((frame.height, len(channels), len(MEASURES)))
        for c, channel in enumerate(channels):
            for m, measure in enumerate(MEASURES):
                values[:, c, m] = _numbers(frame, columns, measure, channel)
        return cls(channels, values)

    def of_measure(self, name: str) -> NDArray[np.float64]:
        """One measure (N, C)."""
        found: NDArray[np.float64] = self.values[:, :, MEASURES.index(name)]
        return found

    def rows(self, rows: NDArray[Any]) -> Quality:
        """Some of the rows."""
        return Quality(self.channels, self.values[rows])


def _numbers(
    frame: pl.DataFrame, columns: Mapping[tuple[str, str], str], measure: str, channel: str
) -> NDArray[Any]:
    name = columns.get((measure, channel))
    if name is None:
        raise TableError(
            f"column {QUALITY_PREFIX}{measure}_{channel} is missing: give the table with all"
            f" columns {QUALITY_PREFIX}..."
        )
    column = frame[name]
    if not (column.dtype.is_numeric() or column.null_count() == len(column)):
        raise TableError(f"column {name} is {column.dtype}: it must hold numbers")
    return column.cast(pl.Float64).to_numpy()


def of_wells(frame: pl.DataFrame) -> pl.DataFrame:
    """One row a well and time point: keys, and the median of each measure over its fields.

    Raises:
        TableError: a plate or well is missing, or there are no measures.
    """
    for needed in WELL_KEYS[:2]:
        if needed not in frame.columns or frame[needed].null_count():
            raise TableError(f"column {needed} is missing or null: give a table of fields or wells")
    names = list(quality_columns(frame).values())
    Quality.of(frame)  # raises what is wrong with them
    keys = [name for name in WELL_KEYS if name in frame.columns]
    if frame.select(pl.struct(keys).n_unique()).item() == frame.height:  # and numbers are their own
        return frame.select(*keys, pl.col(names).cast(pl.Float32))
    numbers = (pl.col(name).cast(pl.Float32) for name in names)
    medians = [number.median().cast(pl.Float32) for number in numbers]  # as `aggregate` has them
    return frame.group_by(keys, maintain_order=True).agg(medians)
