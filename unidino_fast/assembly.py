"""Finished wells -> the tables of a plate: fields, wells, profiles."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from unidino_fast.platemap import join_platemap
from unidino_fast.profiles import aggregate, describe_neutralised, normalize_with_report
from unidino_fast.qc import flag_wells, plate_qc, quality_series
from unidino_fast.results import fields_frame

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl

    from unidino_fast.output import OutputFolder
    from unidino_fast.platemap import Platemap
    from unidino_fast.qc import Thresholds
    from unidino_fast.results import WellResult


@dataclass(frozen=True, slots=True)
class Layout:
    """What the tables of a plate look like, whichever wells turn out to be there.

    Attributes:
        plate: plate name.
        wells: names of all wells to embed, in plate order.
        channels: labels in output order.
        dim: features a channel.
        has_time: whether there is a `Metadata_Time` column.
    """

    plate: str
    wells: tuple[str, ...]
    channels: tuple[str, ...]
    dim: int
    has_time: bool

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Layout:
        """Of what `to_dict` gave, through JSON."""
        return cls(
            plate=str(document["plate"]),
            wells=tuple(map(str, document["wells"])),
            channels=tuple(map(str, document["channels"])),
            dim=int(document["dim"]),
            has_time=bool(document["has_time"]),
        )

    def fields(
        self, results: Mapping[str, WellResult], qc: Thresholds | None = None
    ) -> pl.DataFrame:
        """The table of fields, of results by well; with columns of quality where it has limits."""
        wells = [results[name] for name in self.wells if name in results]
        found = [field for well in wells for field in well.fields]
        frame = fields_frame(
            wells,
            plate=self.plate,
            channels=self.channels,
            dim=self.dim,
            has_time=self.has_time,
            measures=() if qc is None else quality_series(found, self.channels),
        )
        return frame if qc is None else flag_wells(frame, qc)


def write_tables(
    folder: OutputFolder,
    layout: Layout,
    results: Mapping[str, WellResult],
    platemap: Platemap | None,
    qc: Thresholds | None,
) -> list[str]:
    """Writes fields, wells and profiles, and what quality control says of them.

    Args:
        folder: where to.
        layout: of the plate.
        results: by well.
        platemap: joined onto all tables.
        qc: limits of quality control; None for none.

    Returns:
        What a person should know about them, a line each.

    Raises:
        OutputError: a table cannot be written.
    """
    warnings: list[str] = []
    fields = layout.fields(results, qc)
    if platemap is not None:
        fields, warnings = join_platemap(fields, platemap.table, name=platemap.name)
    wells = aggregate(fields)
    profiles, neutralised = normalize_with_report(wells)
    folder.write_table("fields.parquet", fields)
    folder.write_table("wells.parquet", wells)
    folder.write_table("profiles.parquet", profiles)
    quality = None if qc is None else plate_qc(wells, profiles, qc)
    folder.write_quality(None if quality is None else quality.to_dict())
    said = [] if quality is None else quality.warnings
    return [*warnings, *(describe_neutralised(group) for group in neutralised), *said]
