"""The layout of tables: Cell Painting Gallery `load_data.csv`, BBBC021's image table.

Tables come from elsewhere and hold another machine's paths, so none is trusted: a path is looked up
by its ending among the files under the source folder, and nothing outside is ever opened.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

import polars as pl

from unidino_fast.convert.images import is_image, is_url
from unidino_fast.convert.index import Index, Row, list_some, make_table, several_plates
from unidino_fast.errors import ConvertError, first_line

if TYPE_CHECKING:
    from pathlib import Path

    from unidino_fast.convert.layouts import Source

TABLE_SUFFIXES = (".csv", ".csv.gz", ".parquet")
_COLUMN = re.compile(r"(?:Image_)?(FileName|PathName|URL)_(?P<orig>Orig)?(?P<channel>.+)")
_META = {
    "plate": r"Plate(?:ID|_?Name)?|Barcode",
    "well": r"Well(?:ID|_?Name)?|CPD_WELL_POSITION",
    "row": r"Row",
    "column": r"Col(?:umn)?",
    "site": r"Site|Field(?:ID)?",
    "z": r"Z|Plane(?:ID)?",
    "time": r"Time(?:point)?(?:ID)?|T",
}
_RENAMED = re.compile(r"(.+)_duplicated_\d+")
"""What Polars makes of a column's name that came before."""
_SITE_IN_NAME = re.compile(r"_s(\d+)(?=[_.-])|r\d+c\d+f(\d+)p\d+-", re.IGNORECASE)


@dataclass(frozen=True)
class _Columns:
    """Which columns mean what: `meta` by our name, `files` by channel."""

    meta: dict[str, str]
    files: dict[str, dict[str, str]]  # channel -> {"FileName" | "PathName" | "URL": column}


def is_table(path: Path) -> bool:
    """Whether the file name ends as a table's does."""
    return path.name.lower().endswith(TABLE_SUFFIXES)


def find_table(folder: Path) -> Path | None:
    """A `load_data` table in the folder itself (that with illumination columns only if alone)."""
    names = (f"load_data{extra}{end}" for extra in ("", "_with_illum") for end in TABLE_SUFFIXES)
    return next((folder / name for name in names if (folder / name).is_file()), None)


def table_index(source: Source, table: Path, plate: str | None = None) -> Index:
    """Index of a table's rows; with `plate`, of that plate's alone.

    Raises:
        ConvertError: the table cannot be read, lacks columns, or names files that are not there.
    """
    frame = _read(table)
    columns = _columns(frame, table)
    if plate is None:
        _refuse_several(frame, columns)
    files = _Files(source)
    rows: list[Row] = []
    missing: list[str] = []
    counts: dict[tuple[str, str], int] = {}
    for record in frame.iter_rows(named=True):
        place = _place(record, columns, source)
        if plate is not None and "plate" in columns.meta and place["plate"] not in ("", plate):
            continue
        number = counts.setdefault((place["plate"], place["well"]), 0)
        counts[place["plate"], place["well"]] += 1
        for channel, cells in columns.files.items():
            text = {kind: (record[column] or "").strip() for kind, column in cells.items()}
            if not any(text.get(kind) for kind in ("FileName", "URL")):
                continue
            path = files.find(text)
            if path is None:
                missing.append(text.get("FileName") or text.get("URL", ""))
                continue
            site = place["site"] or _site_of(path) or str(number)
            rows.append(
                Row(
                    plate=place["plate"],
                    well=place["well"],
                    site=site,
                    channel=channel,
                    z=place["z"] or "0",
                    time=place["time"] or "0",
                    path=path,
                )
            )
    _refuse_missing(missing, rows, source, table)
    if not rows:
        wanted = f" of plate {plate!r}" if plate else ""
        raise ConvertError(f"{table} names no image{wanted}: check the table and --plate")
    used = {row.path for row in rows}
    skipped = sum(source.path(name) not in used for name in source.files)
    return Index("cpg", make_table(rows), {}, "plate" in columns.meta, skipped)


def _read(path: Path) -> pl.DataFrame:
    """All columns as text: nothing is guessed, so `01` stays `01`."""
    try:
        if path.name.lower().endswith(".parquet"):
            return pl.read_parquet(path).select(pl.all().cast(pl.String, strict=False))
        frame = pl.read_csv(path, infer_schema=False)
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise ConvertError(f"{path} cannot be read as a table: {first_line(error)}") from error
    for name in frame.columns:
        match = _RENAMED.fullmatch(name)
        if match is not None and match[1] in frame.columns:
            raise ConvertError(f"{path} has two columns of one name ({match[1]}): rename one")
    return frame


def _columns(frame: pl.DataFrame, table: Path) -> _Columns:
    meta = {}
    for key, words in _META.items():
        named = re.compile(rf"(?:Image_)?Metadata_(?:{words})(?:_.+)?", re.IGNORECASE)
        found = sorted((name for name in frame.columns if named.fullmatch(name)), key=len)
        if found:
            meta[key] = found[0]
    matches = [match for name in frame.columns if (match := _COLUMN.fullmatch(name))]
    if any(match["orig"] for match in matches):
        matches = [match for match in matches if match["orig"]]
    files: dict[str, dict[str, str]] = {}
    for match in matches:
        if not match["channel"].startswith("Illum"):
            files.setdefault(match["channel"], {})[match[1]] = match[0]
    files = {name: cells for name, cells in files.items() if {"FileName", "URL"} & set(cells)}
    if not files or not ("well" in meta or {"row", "column"} <= set(meta)):
        raise ConvertError(
            f"{table} is no image table: it needs Metadata_Well and FileName_Orig<Channel> (with "
            f"PathName_Orig<Channel>) or URL_Orig<Channel>; it has {list_some(frame.columns, 6)}"
        )
    return _Columns(meta, files)


def _place(record: dict[str, str | None], columns: _Columns, source: Source) -> dict[str, str]:
    place = {key: (record.get(columns.meta.get(key, "")) or "").strip() for key in _META}
    place["plate"] = place["plate"] or source.name
    place["well"] = place["well"] or f"{place['row']}{place['column']}"
    return place


def _refuse_several(frame: pl.DataFrame, columns: _Columns) -> None:
    """Before any file is looked up: plates of a screen often bear the same file names."""
    if "plate" in columns.meta:
        names = frame[columns.meta["plate"]].drop_nulls().unique().sort().to_list()
        if len(names) > 1:
            raise several_plates(names)


def _site_of(path: str) -> str | None:
    match = _SITE_IN_NAME.search(path.replace("\\", "/").rpartition("/")[2])
    return (match[1] or match[2]) if match else None


def _refuse_missing(missing: list[str], rows: list[Row], source: Source, table: Path) -> None:
    if missing:
        raise ConvertError(
            f"{len(missing)} of {len(missing) + len(rows)} images that {table} names are not under "
            f"{source.folder}: {list_some(missing)}; give the folder of the images as SRC and the "
            "table as --metadata"
        )


class _Files:
    """Looks up a table's paths among the files under the source folder."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._root = source.folder.resolve()
        self._known = set(source.files)

    def find(self, text: dict[str, str]) -> str | None:
        """Path of the local file, else the URL, else None."""
        url = text.get("URL", "")
        name = text.get("FileName", "")
        if name:
            local = self._local(f"{text.get('PathName', '')}/{name}")
        else:
            local = self._local(unquote(re.sub(r"^\w+://?[^/]*", "", url)))
        if local is not None:
            return local
        return url if is_url(url) and is_image(url) else None

    def _local(self, path: str) -> str | None:
        """The file whose path under the source is the longest ending of `path`."""
        parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]
        if ".." in parts:
            parts = parts[len(parts) - parts[::-1].index("..") :]
        for start in range(len(parts)):
            relative = "/".join(parts[start:])
            if relative in self._known:
                place = self._source.folder / relative
                return str(place) if place.resolve().is_relative_to(self._root) else None
        return None
