"""Finished wells -> the tables of a plate: fields, wells, profiles."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from unidino_fast.heap import HeapTrimmer, trim_heap
from unidino_fast.platemap import join_platemap
from unidino_fast.profiles import describe_neutralised, normalize_with_report
from unidino_fast.profiles.aggregate import aggregate_profiles
from unidino_fast.profiles.table import Profiles, joined
from unidino_fast.qc import flag_wells, plate_qc, quality_series
from unidino_fast.results import fields_features, fields_metadata

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, MutableMapping, Sequence

    import polars as pl

    from unidino_fast.output import OutputFolder
    from unidino_fast.platemap import Platemap
    from unidino_fast.qc import Thresholds
    from unidino_fast.results import WellRecord, WellResult

_PORTION_BYTES = 6 << 20
"""Features that are held at a time while tables are written: a row group of `fields.parquet`."""


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
        return self.profiles(wells, self.metadata(wells, qc)).frame()

    def profiles(self, wells: Sequence[WellResult], metadata: pl.DataFrame) -> Profiles:
        """The rows of some wells in the table of fields, taken apart."""
        return Profiles(metadata, *fields_features(wells, self.channels, self.dim))

    def metadata(
        self, wells: Sequence[WellResult | WellRecord], qc: Thresholds | None = None
    ) -> pl.DataFrame:
        """The columns of the table of fields before the features, of wells in plate order."""
        frame = fields_metadata(wells, plate=self.plate, has_time=self.has_time)
        if qc is None:
            return frame
        fields = [field for well in wells for field in well.fields]
        return flag_wells(frame.hstack(quality_series(fields, self.channels)), qc)


def write_tables(
    folder: OutputFolder,
    layout: Layout,
    records: Mapping[str, WellRecord],
    platemap: Platemap | None,
    qc: Thresholds | None,
    *,
    held: MutableMapping[str, WellResult] | None = None,
) -> list[str]:
    """Writes fields, wells and profiles, and what quality control says of them.

    Features that are not at hand are read back from the parts, some wells at a time: what is held
    does not grow with the number of fields.

    Args:
        folder: where to.
        layout: of the plate.
        records: of finished wells, by name.
        platemap: joined onto all tables.
        qc: limits of quality control; None for none.
        held: those of which the features are at hand; it is emptied.

    Returns:
        What a person should know about them, a line each.

    Raises:
        OutputError: a table cannot be written.
    """
    trim_heap()  # of fields that were read ahead
    warnings: list[str] = []
    wanted = [records[name] for name in layout.wells if name in records]
    metadata = layout.metadata(wanted, qc)
    if platemap is not None:
        metadata, warnings = join_platemap(metadata, platemap.table, name=platemap.name)
    wells = joined(_write_fields(folder, layout, wanted, metadata, held or {})).frame()
    trim_heap()
    with ThreadPoolExecutor(2, "table") as threads:  # each is written while the next is computed
        written = [threads.submit(folder.write_table, "wells.parquet", wells)]
        profiles, neutralised = normalize_with_report(wells)
        written.append(threads.submit(folder.write_table, "profiles.parquet", profiles))
        quality = None if qc is None else plate_qc(wells, profiles, qc)
    for table in written:
        table.result()
    trim_heap()
    folder.write_quality(None if quality is None else quality.to_dict())
    said = [] if quality is None else quality.warnings
    return [*warnings, *(describe_neutralised(group) for group in neutralised), *said]


def _write_fields(
    folder: OutputFolder,
    layout: Layout,
    records: Sequence[WellRecord],
    metadata: pl.DataFrame,
    held: MutableMapping[str, WellResult],
) -> Iterator[Profiles]:
    """Writes the table of fields, a row group for some wells; yields their rows of wells.

    These stay taken apart: a table of a few wells takes several times as much memory.
    """
    most = max(1, _PORTION_BYTES // (4 * len(layout.channels) * layout.dim))
    heap = HeapTrimmer()
    start = 0
    with folder.appending("fields.parquet") as table:
        for portion in _portions(records, most):
            named = [(str(record.position), record.position) for record in portion]
            wells = [
                held.pop(name) if name in held else folder.read_whole_part(position)
                for name, position in named
            ]
            n_fields = sum(len(well.fields) for well in wells)
            fields = layout.profiles(wells, metadata.slice(start, n_fields))
            start += n_fields
            table.write(fields.to_arrow())
            yield aggregate_profiles(fields)
            heap.trim()


def _portions(records: Sequence[WellRecord], most: int) -> Iterator[list[WellRecord]]:
    """Wells that together have no more than so many fields, or one well."""
    portion: list[WellRecord] = []
    n_fields = 0
    for record in records:
        if portion and n_fields + len(record.fields) > most:
            yield portion
            portion, n_fields = [], 0
        portion.append(record)
        n_fields += len(record.fields)
    if portion:
        yield portion
