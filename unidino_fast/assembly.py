"""Finished wells -> the tables of a plate: fields, wells, profiles."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from unidino_fast.platemap import join_platemap
from unidino_fast.profiles import aggregate, describe_neutralised, normalize_with_report
from unidino_fast.results import fields_frame

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl

    from unidino_fast.output import OutputFolder
    from unidino_fast.platemap import Platemap
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

    def fields(self, results: Mapping[str, WellResult]) -> pl.DataFrame:
        """The table of fields, of results by well."""
        return fields_frame(
            [results[name] for name in self.wells if name in results],
            plate=self.plate,
            channels=self.channels,
            dim=self.dim,
            has_time=self.has_time,
        )


def write_tables(
    folder: OutputFolder,
    layout: Layout,
    results: Mapping[str, WellResult],
    platemap: Platemap | None,
) -> list[str]:
    """Writes fields, wells and profiles.

    Args:
        folder: where to.
        layout: of the plate.
        results: by well.
        platemap: joined onto all tables.

    Returns:
        What a person should know about them, a line each.

    Raises:
        OutputError: a table cannot be written.
    """
    warnings: list[str] = []
    fields = layout.fields(results)
    if platemap is not None:
        fields, warnings = join_platemap(fields, platemap.table, name=platemap.name)
    wells = aggregate(fields)
    profiles, neutralised = normalize_with_report(wells)
    folder.write_table("fields.parquet", fields)
    folder.write_table("wells.parquet", wells)
    folder.write_table("profiles.parquet", profiles)
    return [*warnings, *(describe_neutralised(group) for group in neutralised)]
