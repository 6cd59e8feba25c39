"""The index: one row an image file, whatever named it. Layouts fill it, the writer reads it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import polars as pl

from unidino_fast.errors import ConvertError, UsageError
from unidino_fast.names import natural_key, parse_well

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SCHEMA = {
    "plate": pl.String,
    "well": pl.String,
    "site": pl.String,
    "channel": pl.String,
    "z": pl.String,
    "time": pl.String,
    "path": pl.String,
}
_WHOLE = re.compile(r"(\d{1,99})(?:\.0+)?")


class Row(NamedTuple):
    """One image file: where on the plate it belongs. `site`, `z`, `time` are numbers or words."""

    plate: str
    well: str
    site: str
    channel: str
    z: str
    time: str
    path: str


@dataclass(frozen=True)
class PlateFacts:
    """What a layout knows of a plate beside its files: channel labels and the pixel size."""

    labels: dict[str, str] = field(default_factory=dict)
    pixel_size_um: float | None = None


@dataclass(frozen=True)
class Index:
    """The files of one or more plates.

    Attributes:
        layout: which layout named them.
        table: the columns of `SCHEMA`, one row a file.
        facts: by plate.
        named: the plate names stand in the files or the table (and are not just a folder's name).
        skipped: image files that belong to no plate, such as thumbnails.
        warnings: what the user should know though it stops nothing.
    """

    layout: str
    table: pl.DataFrame
    facts: dict[str, PlateFacts]
    named: bool
    skipped: int = 0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class FieldFiles:
    """One field to write: `paths` by (time, channel, z), time slowest."""

    well: str
    name: str
    paths: tuple[str, ...]


@dataclass(frozen=True)
class FieldPlan:
    """All fields of one plate, each with the same times, channels and planes."""

    plate: str
    facts: PlateFacts
    times: tuple[str, ...]
    channels: tuple[str, ...]
    planes: tuple[str, ...]
    fields: tuple[FieldFiles, ...]

    @property
    def n_files(self) -> int:
        """Files that the plan reads."""
        return sum(len(one.paths) for one in self.fields)


def make_table(rows: Iterable[Row]) -> pl.DataFrame:
    """Rows as the index table, numbers freed of leading zeros and wells as `A01`."""
    clean = [
        row._replace(
            well=_well(row), site=_number(row.site), z=_number(row.z), time=_number(row.time)
        )
        for row in rows
    ]
    return pl.DataFrame(clean, schema=SCHEMA, orient="row")


def list_some(names: Sequence[str], limit: int = 3) -> str:
    """The first few names, then a count of the rest."""
    shown = ", ".join(names[:limit])
    rest = len(names) - limit
    return f"{shown} and {rest} more" if rest > 0 else shown


def several_plates(names: Sequence[str]) -> ConvertError:
    """The error for a source of several plates."""
    return ConvertError(
        f"the source holds {len(names)} plates ({list_some(names, 6)}): pick one with --plate NAME"
    )


def pick_plate(index: Index, plate: str | None) -> tuple[str, Index]:
    """The one plate to write and the index of its files alone.

    `plate` picks among several; a plate that only its folder named takes it as its name.

    Raises:
        ConvertError: several plates and no choice.
        UsageError: a choice that the source does not hold.
    """
    names = sorted(index.table["plate"].unique().to_list(), key=natural_key)
    if plate is None and len(names) > 1:
        raise several_plates(names)
    if plate is not None and plate not in names:
        if len(names) > 1 or index.named:
            raise UsageError(f"the source holds no plate {plate!r}: it has {list_some(names, 6)}")
        return plate, replace(index, facts={plate: index.facts.get(names[0], PlateFacts())})
    chosen = names[0] if plate is None else plate
    return chosen, replace(index, table=index.table.filter(pl.col("plate") == chosen))


def plan_fields(index: Index, plate: str) -> FieldPlan:
    """Orders the files of one plate into fields of equal make-up.

    A field is named after its site where all sites of the plate are numbers, else by its rank in
    the well: NGFF paths hold letters and digits alone.

    Raises:
        ConvertError: two files for one place, or a field that lacks what others have.
    """
    table = index.table
    _refuse_doubles(table)
    times, channels, planes = (
        sorted(table[column].unique().to_list(), key=natural_key)
        for column in ("time", "channel", "z")
    )
    wanted = [(time, channel, z) for time in times for channel in channels for z in planes]
    by_field: dict[tuple[str, str], dict[tuple[str, str, str], str]] = {}
    for row in table.iter_rows():
        one = Row(*row)
        by_field.setdefault((one.well, one.site), {})[one.time, one.channel, one.z] = one.path
    _refuse_gaps(by_field, wanted)
    numbered = all(site.isdecimal() for _, site in by_field)
    fields = []
    n_in_well: dict[str, int] = {}
    for well, site in sorted(by_field, key=_plate_order):
        rank = n_in_well.setdefault(well, 0)
        n_in_well[well] += 1
        files = by_field[well, site]
        name = site if numbered else str(rank)
        fields.append(FieldFiles(well, name, tuple(files[place] for place in wanted)))
    return FieldPlan(
        plate=plate,
        facts=index.facts.get(plate, PlateFacts()),
        times=tuple(times),
        channels=tuple(channels),
        planes=tuple(planes),
        fields=tuple(fields),
    )


def _plate_order(key: tuple[str, str]) -> tuple[int, int, list[tuple[int, int, str]]]:
    position = parse_well(key[0])
    row, column = (position.row, position.column) if position else (0, 0)
    return row, column, natural_key(key[1])


def _refuse_doubles(table: pl.DataFrame) -> None:
    place = ["well", "site", "channel", "z", "time"]
    double = (
        table.group_by(place, maintain_order=True)
        .agg(pl.col("path"))
        .filter(pl.col("path").list.len() > 1)
    )
    if double.height:
        first = double.row(0, named=True)
        more = f" (and {double.height - 1} more such places)" if double.height > 1 else ""
        raise ConvertError(
            f"{first['well']} site {first['site']} channel {first['channel']} has "
            f"{len(first['path'])} files{more}: {list_some(sorted(first['path']))}; "
            "give a folder or --pattern that tells them apart"
        )


def _refuse_gaps(
    by_field: dict[tuple[str, str], dict[tuple[str, str, str], str]],
    wanted: Sequence[tuple[str, str, str]],
) -> None:
    short = [key for key, files in by_field.items() if len(files) < len(wanted)]
    if not short:
        return
    short.sort(key=_plate_order)
    files = by_field[short[0]]
    time, channel, z = next(place for place in wanted if place not in files)
    several_z = len({place[2] for place in wanted}) > 1
    several_t = len({place[0] for place in wanted}) > 1
    what = f"channel {channel}"
    what += f" plane {z}" if several_z else ""
    what += f" time {time}" if several_t else ""
    names = [f"{well} site {site}" for well, site in short]
    raise ConvertError(
        f"{list_some(names)} {'lack' if len(short) > 1 else 'lacks'} files that other fields have: "
        f"{names[0]} has no {what} beside {sorted(files.values())[0]}; "
        "add the file or take the field out of the source"
    )


def _well(row: Row) -> str:
    position = parse_well(row.well)
    if position is None:
        raise ConvertError(f"{row.path} gives well {row.well!r}, which is no well name such as A01")
    return str(position)


def _number(text: str) -> str:
    """A whole number in one form: `07`, and the `7.0` that pandas makes of it, are `7`."""
    text = text.strip()
    match = _WHOLE.fullmatch(text)
    return str(int(match[1])) if match else text
