"""What embedding a well gives, and what of it stands in the table of fields."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from unidino_fast.names import WellName

METADATA_PREFIX = "Metadata_"
QUALITY_PREFIX = "Metadata_QC_"
"""Of the columns of `qc`: what is wrong with the pixels of a well, not what is in it."""


_QUALITY = re.compile(rf"{QUALITY_PREFIX}(Flags|Flagged|[A-Z][A-Za-z]*_.+)", re.DOTALL)


def is_quality_column(name: str) -> bool:
    """Whether a column's name is one that quality control uses, or may use."""
    return _QUALITY.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class FieldResult:
    """One embedded field at one time point.

    Attributes:
        labels: channel names, C.
        features: (C, D) float32, the mean over the kept tiles.
        n_tiles: tiles kept, of each channel.
        n_tiles_dropped: tiles left out as empty, of each channel.
        checksum: XXH3 (64 bits) of those of the planes that were read.
        metadata_digest: of the field, as the plate's metadata described it then.
        quality: (C, M) float32, what `qc` measured of the pixels, NaN where that is open; None
            where it was not asked to.
    """

    site: str
    time: int
    labels: tuple[str, ...]
    n_tiles: int
    n_tiles_dropped: int
    features: NDArray[np.float32]
    checksum: int
    metadata_digest: str
    quality: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class WellResult:
    """One embedded well."""

    position: WellName
    fields: tuple[FieldResult, ...]

    def record(self) -> WellRecord:
        """All but the features."""
        names = list(FieldRecord.__dataclass_fields__)
        return WellRecord(
            self.position,
            tuple(
                FieldRecord(**{name: getattr(field, name) for name in names})
                for field in self.fields
            ),
        )


@dataclass(frozen=True, slots=True)
class FieldRecord:
    """A `FieldResult` whose features lie in a part file."""

    site: str
    time: int
    labels: tuple[str, ...]
    n_tiles: int
    n_tiles_dropped: int
    checksum: int
    quality: NDArray[np.float32] | None


@dataclass(frozen=True, slots=True)
class WellRecord:
    """What is remembered of a well whose part is written: a plate's features need not fit."""

    position: WellName
    fields: tuple[FieldRecord, ...]


def feature_columns(frame: pl.DataFrame) -> list[str]:
    """The feature columns of a profile table: every column without the `Metadata_` prefix."""
    return [name for name in frame.columns if not name.startswith(METADATA_PREFIX)]


def fields_metadata(
    wells: Sequence[WellResult | WellRecord], *, plate: str, has_time: bool
) -> pl.DataFrame:
    """The columns of the table of fields before the features.

    Args:
        wells: results in the order of the table.
        plate: plate name.
        has_time: whether there is a `Metadata_Time` column.
    """
    rows = [(well.position, field) for well in wells for field in well.fields]
    fields = [field for _, field in rows]
    metadata = [
        pl.Series("Metadata_Plate", [plate] * len(rows), pl.String),
        pl.Series("Metadata_Well", [str(position) for position, _ in rows], pl.String),
        pl.Series("Metadata_Row", [position.row_letters for position, _ in rows], pl.String),
        pl.Series("Metadata_Column", [position.column for position, _ in rows], pl.Int64),
        pl.Series("Metadata_Site", [field.site for field in fields], pl.String),
        pl.Series("Metadata_Time", [field.time for field in fields], pl.Int64),
        pl.Series("Metadata_n_fields", [1] * len(rows), pl.Int64),
        pl.Series("Metadata_n_tiles", [field.n_tiles for field in fields], pl.Int64),
        pl.Series(
            "Metadata_n_tiles_dropped", [field.n_tiles_dropped for field in fields], pl.Int64
        ),
    ]
    if not has_time:
        metadata = [column for column in metadata if column.name != "Metadata_Time"]
    return pl.DataFrame(metadata)


def fields_features(
    wells: Sequence[WellResult], channels: Sequence[str], dim: int
) -> tuple[tuple[str, ...], NDArray[np.float32]]:
    """The features of the table of fields: names, and values (C * D, fields).

    Args:
        wells: results in the order of the table.
        channels: all channels, in output order; one that a field lacks is NaN there.
        dim: features a channel, D.
    """
    fields = [field for well in wells for field in well.fields]
    names = tuple(f"{channel}_{index:03d}" for channel in channels for index in range(dim))
    values = np.full((len(fields), len(channels), dim), np.nan, np.float32)
    places = {channel: place for place, channel in enumerate(channels)}
    for row, field in enumerate(fields):
        values[row, [places[label] for label in field.labels]] = field.features
    return names, np.ascontiguousarray(values.reshape(len(fields), len(names)).T)
