"""Part files: one finished well each, written whole, checked when read.

Parquet with a row a field and channel. They are many, small, read once and only by us: so they are
written plain, by pyarrow, which opens and closes a small file faster than Polars.
"""

from __future__ import annotations

import hashlib
import json
import stat
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unidino_fast.errors import OutputError
from unidino_fast.files import write_atomic
from unidino_fast.qc.measures import MEASURED_AS
from unidino_fast.results import FieldResult, WellResult
from unidino_fast.stamps import difference
from unidino_fast.tables import PROVENANCE_KEY

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from unidino_fast.names import WellName
    from unidino_fast.planning import WellTask
    from unidino_fast.stamps import PixelStamp


_MOST_AT_ONCE = 2**24
"""Bytes of a part that is read whole."""


def part_path(parts: Path, position: WellName) -> Path:
    """Where the part of a well lies."""
    return parts / f"{position}.parquet"


def write_part(parts: Path, result: WellResult, stamp: PixelStamp | None, made_by: str) -> None:
    """Writes a finished well.

    Args:
        parts: folder of the part files.
        result: of the well.
        stamp: of the pixels that were read.
        made_by: digest of what decides the numbers; see `OutputFolder`.

    Raises:
        OutputError: it cannot be written.
    """
    metadata = {
        "well": str(result.position),
        "pixels": stamp,
        "made_by": made_by,
        "digest": _digest(result, stamp),
        "measures": list(MEASURED_AS) if _is_measured(result) else [],
    }
    table = _table(result).replace_schema_metadata(
        {PROVENANCE_KEY: json.dumps(metadata, sort_keys=True)}
    )
    content = pa.BufferOutputStream()
    pq.write_table(table, content, compression="none", use_dictionary=False, write_statistics=False)
    write_atomic(part_path(parts, result.position), memoryview(content.getvalue()))


def read_part(
    parts: Path,
    task: WellTask,
    stamp: PixelStamp | None,
    made_by: str,
    *,
    any_stamp: bool = False,
    remedy: str,
) -> WellResult | None:
    """The finished part of a well; None where it is missing, torn, altered or of another making.

    None too where the well has other fields by now, such as one that was left out for a fault.

    Args:
        parts: folder of the part files.
        task: the well as it is planned now.
        stamp: of its pixels as they are now.
        made_by: what decides the numbers now.
        any_stamp: the pixels themselves will be compared. That tells nothing of what they mean, so
            metadata are compared all the same.
        remedy: what else to do where something has changed, for the message.

    Raises:
        OutputError: the pixels or what the metadata say of them have changed since the part was
            written.
    """
    opened = _open(parts, task.well.position, made_by)
    if opened is None:
        return None
    found, pixels = opened
    held = [(field.site, field.time, field.labels) for field in found.fields]
    path = part_path(parts, task.well.position)
    meaning = _described_anew(found, task)
    if meaning is not None:
        raise OutputError(f"{meaning} since {path} was written: {anew(remedy)}")
    if held != [(field.field.site, field.time, field.labels) for field in task.fields]:
        return None
    changed = None if any_stamp else difference(pixels, stamp, task.name)
    if changed is not None:
        raise OutputError(
            f"{changed} since {path} was written: if only a copy changed that, add --verify, which"
            f" compares the pixels; else {anew(remedy)}"
        )
    return found


def read_stamp(parts: Path, position: WellName, made_by: str) -> PixelStamp | None:
    """The stamp of the pixels that a part was made of; None where `read_part` gives None."""
    opened = _open(parts, position, made_by)
    return None if opened is None else opened[1]


def anew(remedy: str) -> str:
    """How the well of a part that was just named is embedded again, and else all of them."""
    return f"remove that file and run the same command again, or {remedy}"


def _described_anew(found: WellResult, task: WellTask) -> str | None:
    """What the metadata say otherwise of a field that a part holds, in words before "since"."""
    by_place = {(field.field.site, field.time): field for field in task.fields}
    for field in found.fields:
        now = by_place.get((field.site, field.time))
        if now is None:
            continue
        if now.field.metadata_digest != field.metadata_digest:
            return f"the metadata of field {task.name}/{field.site} changed"
        if now.labels != field.labels:
            before, after = ", ".join(field.labels), ", ".join(now.labels)
            return (
                f"the channels of field {task.name}/{field.site} changed (they were: {before};"
                f" now: {after})"
            )
    return None


def read_whole_part(parts: Path, position: WellName, made_by: str) -> WellResult | None:
    """The finished part of a well, whatever fields it is of; None as in `read_part`."""
    opened = _open(parts, position, made_by)
    return None if opened is None else opened[0]


def _open(
    parts: Path, position: WellName, made_by: str
) -> tuple[WellResult, PixelStamp | None] | None:
    """A part and the stamp of its pixels; None where it is missing, torn, altered or foreign.

    A worker of a run that was ended can be late with the well that it had in hand, and leave it in
    the folder of the next run; and files are copied by hand, one over another.
    """
    well = str(position)
    try:
        with pq.ParquetFile(_source(part_path(parts, position))) as part:
            metadata = json.loads(part.metadata.metadata[PROVENANCE_KEY.encode()])
            if (metadata["made_by"], metadata.get("well", well)) != (made_by, well):
                return None
            found = _result_of(part.read(use_threads=False), position)
        if metadata["digest"] != _digest(found, metadata["pixels"]):
            return None
        if metadata.get("measures") != list(MEASURED_AS):  # none, or those of another version
            found = _without_measures(found)
        return found, metadata["pixels"]
    except (OSError, pa.ArrowException, LookupError, TypeError, ValueError, ArithmeticError):
        return None


def _source(path: Path) -> Any:
    """A file for Arrow: its bytes, if it is small; column by column, Arrow takes twice as long.

    Raises:
        ValueError: it is a folder, pipe or device.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is no file")
    return pa.py_buffer(path.read_bytes()) if status.st_size <= _MOST_AT_ONCE else path


def _digest(result: WellResult, stamp: PixelStamp | None) -> str:
    """Of everything that a part holds: a flipped bit on the disk must not become a profile."""
    digest = hashlib.sha256(json.dumps(stamp, sort_keys=True).encode())
    for field in result.fields:
        counts = (field.n_tiles, field.n_tiles_dropped, field.checksum, field.metadata_digest)
        digest.update(json.dumps((field.site, field.time, field.labels, *counts)).encode())
        digest.update(np.ascontiguousarray(field.features, "<f4").tobytes())
        if field.quality is not None:
            digest.update(np.ascontiguousarray(field.quality, "<f4").tobytes())
    return digest.hexdigest()


def _is_measured(result: WellResult) -> bool:
    return all(field.quality is not None for field in result.fields)


def _without_measures(result: WellResult) -> WellResult:
    fields = tuple(replace(field, quality=None) for field in result.fields)
    return WellResult(result.position, fields)


def _table(result: WellResult) -> pa.Table:
    """A part: one row a field and channel."""
    rows = [(field, channel) for field in result.fields for channel in field.labels]
    columns = {
        "site": pa.array([field.site for field, _ in rows], pa.string()),
        "time": pa.array([field.time for field, _ in rows], pa.int64()),
        "channel": pa.array([channel for _, channel in rows], pa.string()),
        "n_tiles": pa.array([field.n_tiles for field, _ in rows], pa.int64()),
        "n_tiles_dropped": pa.array([field.n_tiles_dropped for field, _ in rows], pa.int64()),
        "checksum": pa.array([field.checksum for field, _ in rows], pa.uint64()),
        "metadata_digest": pa.array([field.metadata_digest for field, _ in rows], pa.string()),
        "features": _vectors([field.features for field in result.fields]),
    }
    quality = [field.quality for field in result.fields if field.quality is not None]
    if len(quality) == len(result.fields):
        columns["quality"] = _vectors(quality)
    return pa.table(columns)


def _vectors(blocks: list[NDArray[np.float32]]) -> pa.FixedSizeListArray:
    """Rows of blocks (C, D)."""
    values = np.concatenate(blocks)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def _result_of(part: pa.Table, position: WellName) -> WellResult:
    """What `_table` was made of; the rows of a field follow one another."""
    site, time, labels, n_tiles, n_dropped, checksum, metadata_digest = (
        part[name].to_pylist()
        for name in (
            "site",
            "time",
            "channel",
            "n_tiles",
            "n_tiles_dropped",
            "checksum",
            "metadata_digest",
        )
    )
    features = _matrix(part["features"])
    quality = _matrix(part["quality"]) if "quality" in part.column_names else None
    fields = []
    for _, places in groupby(range(part.num_rows), lambda row: (site[row], time[row])):
        first, *others = places
        rows = slice(first, first + 1 + len(others))
        fields.append(
            FieldResult(
                site=site[first],
                time=time[first],
                labels=tuple(labels[rows]),
                n_tiles=n_tiles[first],
                n_tiles_dropped=n_dropped[first],
                checksum=checksum[first],
                metadata_digest=metadata_digest[first],
                features=features[rows],
                quality=None if quality is None else quality[rows],
            )
        )
    return WellResult(position, tuple(fields))


def _matrix(column: Any) -> NDArray[np.float32]:
    """Rows of a column of vectors (N, D).

    Raises:
        ValueError: it holds something else.
    """
    if not pa.types.is_fixed_size_list(column.type):
        raise ValueError(f"a column of {column.type} holds no vectors")
    values: NDArray[np.float32] = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(column), -1)
