"""Layouts that read file names: Opera / Harmony, ImageXpress, and any regular expression."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from unidino_fast.convert.harmony import find_index, read_index
from unidino_fast.convert.images import is_image
from unidino_fast.convert.index import Index, PlateFacts, Row, list_some, make_table
from unidino_fast.errors import ConvertError, UsageError
from unidino_fast.names import row_letters

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

_OPERA = re.compile(
    r"r(?P<row>\d+)c(?P<column>\d+)f(?P<site>\d+)p(?P<z>\d+)-ch(?P<channel>\d+)"
    r"(?:sk(?P<slow>\d+))?(?:fk(?P<fast>\d+))?(?:fl\d+)?\.(?:tiff?|png)",
    re.IGNORECASE,
)
_GUID = r"[0-9A-F]{8}-(?:[0-9A-F]{4}-){3}[0-9A-F]{12}"
_IMAGEXPRESS = re.compile(
    rf"(?:(?P<name>.+?)_)??(?P<well>[A-Z]{{1,2}}\d{{1,2}})(?:_s(?P<site>\d+))?"
    rf"(?:_w(?P<channel>\d+?))?(?:_z(?P<z>\d+))?(?:_t(?P<time>\d+))?(?P<guid>{_GUID})?"
    r"\.(?:tiff?|png)",
    re.IGNORECASE,
)
_THUMB = re.compile(rf"_thumb(?:{_GUID})?\.\w+$", re.IGNORECASE)
_TIME_FOLDER = re.compile(r"time_?point_?(\d+)", re.IGNORECASE)
_Z_FOLDER = re.compile(r"z_?step_?(\d+)", re.IGNORECASE)
_MEASUREMENT = re.compile(r"(?:__\d{4}-\d\d-\d\d.*|[-_ ]+Measurement ?\d+)$", re.IGNORECASE)
_NO_NAME = re.compile(r"\d{4}-\d\d-\d\d|\d+|images?", re.IGNORECASE)
_GROUPS = ("plate", "well", "row", "column", "site", "channel", "z", "time")


@dataclass(frozen=True)
class Source:
    """A folder and the image files under it, as paths relative to it with forward slashes.

    `name` is the plate's where neither files nor folders below tell one.
    """

    folder: Path
    files: tuple[str, ...]
    name: str

    def path(self, relative: str) -> str:
        """Full path of one of the files."""
        return str(self.folder / relative)


def list_source(folder: Path, name: str) -> Source:
    """All image files under the folder, sorted; hidden files and Zarr stores are passed over."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [below for below in folders if below[0] != "." and not below.endswith(".zarr")]
        relative = Path(place).relative_to(folder)
        found += [(relative / file).as_posix() for file in names if is_image(file)]
    for file in found:
        if any("\ud800" <= letter <= "\udfff" for letter in file):  # bytes that are no UTF-8
            raise ConvertError(f"file name {file!a} is not UTF-8: rename it")
    return Source(folder, tuple(sorted(found)), name)


def plain_name(folder: str) -> str:
    """A plate's name from its folder's: Harmony's date and `Measurement 1` taken off."""
    return _MEASUREMENT.sub("", folder) or folder


def opera_index(source: Source) -> Index | None:
    """Harmony names such as `r01c02f03p01-ch1sk1fk1fl1.tiff`; None where no file has one.

    Each folder of images with an index file takes plate name, channel names and pixel size of it.
    """
    matches = [(name, match) for name in source.files
               if (match := _OPERA.fullmatch(PurePosixPath(name).name))]  # fmt: skip
    if not matches:
        return None
    plates: dict[str, tuple[str, PlateFacts, bool]] = {}
    rows = []
    for name, match in matches:
        folder = str(PurePosixPath(name).parent)
        if folder not in plates:
            plates[folder] = _opera_plate(source, folder)
        fast = int(match["fast"] or 1)
        rows.append(
            Row(
                plate=plates[folder][0],
                well=f"{row_letters(int(match['row']) - 1)}{match['column']}",
                site=match["site"],
                channel=f"ch{int(match['channel'])}",
                z=match["z"],
                time=(match["slow"] or "1") + (f".{fast}" if fast > 1 else ""),
                path=source.path(name),
            )
        )
    facts: dict[str, PlateFacts] = {}
    for plate, fact, _ in plates.values():
        facts.setdefault(plate, fact)
    named = any(told for _, _, told in plates.values())
    return _index("opera", rows, facts, source, named=named)


def _opera_plate(source: Source, folder: str) -> tuple[str, PlateFacts, bool]:
    """Plate name, facts, and whether an index file told the name."""
    parts = [part for part in PurePosixPath(folder).parts if not _NO_NAME.fullmatch(part)]
    name = plain_name(parts[-1]) if parts else source.name
    place = find_index(source.folder.resolve() / folder)
    if place is None:
        return name, PlateFacts(), False
    told, facts = read_index(place)
    return told or name, facts, told is not None


def imagexpress_index(source: Source) -> Index | None:
    """MetaXpress names such as `NAME_E07_s1_w1<GUID>.tif`; None where no file has one.

    GUID, name, site and wavelength may each be missing (not all). `TimePoint_N` and `ZStep_N`
    folders are time and z; thumbnails are skipped, and so are the projections that stand outside
    the `ZStep_N` folders of a stack.
    """
    rows, left_out = [], set()
    for name in source.files:
        if _THUMB.search(name):
            left_out.add(source.path(name))
            continue
        match = _IMAGEXPRESS.fullmatch(PurePosixPath(name).name)
        if match and (match["site"] or match["channel"] or match["guid"]):
            rows.append(_imagexpress_row(source, name, match))
    if not rows:
        return None
    stacks = {row[:4] + row[5:6] for row in rows if row.z}
    planes = [row for row in rows if row.z or row[:4] + row[5:6] not in stacks]
    projections = {row.path for row in rows} - {row.path for row in planes}
    warnings = []
    if projections:
        warnings.append(f"{len(projections)} projections beside ZStep folders were left out")
    planes = [row._replace(z=row.z or "0") for row in planes]
    left_out |= projections
    return _index("imagexpress", planes, {}, source, left_out=left_out, warnings=warnings)


def _imagexpress_row(source: Source, name: str, match: re.Match[str]) -> Row:
    time, z, plate = match["time"], match["z"], ""
    for part in PurePosixPath(name).parts[:-1]:
        if found := _TIME_FOLDER.fullmatch(part):
            time = found[1]
        elif found := _Z_FOLDER.fullmatch(part):
            z = found[1]
        elif not _NO_NAME.fullmatch(part):
            plate = part
    return Row(
        plate=plate or match["name"] or source.name,
        well=match["well"],
        site=match["site"] or "0",
        channel=f"w{int(match['channel'] or 1)}",
        z=z or "",
        time=time or "0",
        path=source.path(name),
    )


def regex_index(source: Source, pattern: str) -> Index:
    """Any naming: `pattern` is searched in each path relative to the source.

    Named groups: well, or row (letters or a number) and column; optional plate, site, channel, z,
    time. Without a site each well has one field; without a channel there is one, `ch0`.

    Raises:
        UsageError: the pattern is broken or lacks the well.
        ConvertError: no file matches, or a match gives no well.
    """
    compiled = _compile(pattern)
    rows = []
    for name in source.files:
        match = compiled.search(name)
        if match is not None:
            rows.append(_regex_row(source, name, match.groupdict()))
    if not rows:
        raise ConvertError(
            f"none of {len(source.files)} image files under {source.folder} matches "
            f"--pattern {pattern!r}: the first is {source.files[0]}"
        )
    return _index("regex", rows, {}, source, named="plate" in compiled.groupindex)


def _compile(pattern: str) -> re.Pattern[str]:
    known = "groups are plate, well (or row and column), site, channel, z, time"
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(f"--pattern {pattern!r} is no regular expression: {error}") from error
    groups = set(compiled.groupindex)
    if unknown := sorted(groups - set(_GROUPS)):
        raise UsageError(f"--pattern has a group {list_some(unknown)} without a meaning: {known}")
    if groups & {"well", "row", "column"} not in ({"well"}, {"row", "column"}):
        raise UsageError(
            f"--pattern {pattern!r} needs the group well, or row and column, as in "
            rf"(?P<well>[A-P]\d\d): {known}"
        )
    return compiled


def _regex_row(source: Source, name: str, groups: dict[str, str | None]) -> Row:
    well = groups.get("well")
    if well is None:
        row, column = groups.get("row") or "", groups.get("column") or ""
        well = f"{row_letters(int(row) - 1) if row.isdecimal() else row}{column}"
    channel = groups.get("channel") or "ch0"
    return Row(
        plate=groups.get("plate") or source.name,
        well=well,
        site=groups.get("site") or "0",
        channel=f"ch{int(channel)}" if channel.isdecimal() else channel,
        z=groups.get("z") or "0",
        time=groups.get("time") or "0",
        path=source.path(name),
    )


def _index(
    layout: str,
    rows: Sequence[Row],
    facts: dict[str, PlateFacts],
    source: Source,
    *,
    named: bool = False,
    left_out: Collection[str] = (),
    warnings: Sequence[str] = (),
) -> Index:
    """The index of the rows; files that the layout does not know are counted and warned of."""
    used = {row.path for row in rows}
    others = [name for name in source.files if source.path(name) not in used]
    strange = [name for name in others if source.path(name) not in left_out]
    notes = list(warnings)
    if strange:
        notes.append(
            f"{len(strange)} image files do not fit the layout {layout} and were left out: "
            f"{list_some(strange)}"
        )
    return Index(layout, make_table(rows), facts, named, len(others), tuple(notes))
