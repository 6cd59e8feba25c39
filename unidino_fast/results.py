"""What embedding a well gives, and the table of fields that it becomes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from unidino_fast.names import WellName

METADATA_PREFIX = "Metadata_"


@dataclass(frozen=True, slots=True)
class FieldResult:
    """One embedded field at one time point.

    Attributes:
        labels: channel names, C.
        features: (C, D) float32, the mean over the kept tiles.
        n_tiles: tiles kept, of each channel.
        n_tiles_dropped: tiles left out as empty, of each channel.
    """

    site: str
    time: int
    labels: tuple[str, ...]
    n_tiles: int
    n_tiles_dropped: int
    features: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class WellResult:
    """One embedded well."""

    position: WellName
    fields: tuple[FieldResult, ...]


def feature_columns(frame: pl.DataFrame) -> list[str]:
    """The feature columns of a profile table: every column without the `Metadata_` prefix."""
    return [name for name in frame.columns if not name.startswith(METADATA_PREFIX)]


def fields_frame(
    wells: Sequence[WellResult],
    *,
    plate: str,
    channels: Sequence[str],
    dim: int,
    has_time: bool,
) -> pl.DataFrame:
    """The table of fields: one row a field, features channel by channel.

    Args:
        wells: results in plate order.
        plate: plate name.
        channels: all channels, in output order; one that a field lacks is null there.
        dim: features a channel, D.
        has_time: whether there is a `Metadata_Time` column.
    """
    rows = [(well.position, field) for well in wells for field in well.fields]
    metadata: dict[str, list[object]] = {
        "Metadata_Plate": [plate] * len(rows),
        "Metadata_Well": [str(position) for position, _ in rows],
        "Metadata_Row": [position.row_letters for position, _ in rows],
        "Metadata_Column": [position.column for position, _ in rows],
        "Metadata_Site": [field.site for _, field in rows],
        "Metadata_Time": [field.time for _, field in rows],
        "Metadata_n_fields": [1] * len(rows),
        "Metadata_n_tiles": [field.n_tiles for _, field in rows],
        "Metadata_n_tiles_dropped": [field.n_tiles_dropped for _, field in rows],
    }
    if not has_time:
        del metadata["Metadata_Time"]
    text = ("Metadata_Plate", "Metadata_Well", "Metadata_Row", "Metadata_Site")
    columns = [
        pl.Series(name, values, dtype=pl.String if name in text else pl.Int64)
        for name, values in metadata.items()
    ]
    for channel in channels:
        columns += _channel_columns(channel, [field for _, field in rows], dim)
    return pl.DataFrame(columns)


def _channel_columns(channel: str, fields: list[FieldResult], dim: int) -> list[pl.Series]:
    """The D columns of one channel, null where a field lacks it."""
    values = np.zeros((len(fields), dim), np.float32)
    present = np.zeros(len(fields), bool)
    for row, field in enumerate(fields):
        if channel in field.labels:
            values[row] = field.features[field.labels.index(channel)]
            present[row] = True
    absent = pl.Series(~present)
    series = []
    for index in range(dim):
        column = pl.Series(f"{channel}_{index:03d}", values[:, index])
        series.append(column if present.all() else column.set(absent, None))
    return series
