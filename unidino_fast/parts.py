"""Part files: one finished well each, written whole, checked when read."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from unidino_fast.errors import OutputError
from unidino_fast.qc.measures import MEASURES
from unidino_fast.results import FieldResult, WellResult
from unidino_fast.stamps import difference
from unidino_fast.tables import PROVENANCE_KEY, write_part_table

if TYPE_CHECKING:
    from pathlib import Path

    from unidino_fast.names import WellName
    from unidino_fast.planning import WellTask
    from unidino_fast.stamps import PixelStamp


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
        "pixels": stamp,
        "made_by": made_by,
        "digest": _digest(result),
        "measures": list(MEASURES) if _is_measured(result) else [],
    }
    write_part_table(_frame(result), part_path(parts, result.position), metadata)


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

    Args:
        parts: folder of the part files.
        task: the well as it is planned now.
        stamp: of its pixels as they are now.
        made_by: what decides the numbers now.
        any_stamp: the pixels themselves will be compared.
        remedy: what to do where they have changed, for the message.

    Raises:
        OutputError: the pixels have changed since the part was written.
    """
    opened = _open(parts, task.well.position, made_by)
    if opened is None:
        return None
    found, pixels = opened
    held = [(field.site, field.time, field.labels) for field in found.fields]
    if held != [(field.field.site, field.time, field.labels) for field in task.fields]:
        return None
    changed = None if any_stamp else difference(pixels, stamp, task.name)
    if changed is not None:
        path = part_path(parts, task.well.position)
        raise OutputError(
            f"{changed} since {path} was written: if only a copy changed that, add --verify, which"
            f" compares the pixels; else {remedy}"
        )
    return found


def read_whole_part(parts: Path, position: WellName, made_by: str) -> WellResult | None:
    """The finished part of a well, whatever fields it is of; None as in `read_part`."""
    opened = _open(parts, position, made_by)
    return None if opened is None else opened[0]


def _open(
    parts: Path, position: WellName, made_by: str
) -> tuple[WellResult, PixelStamp | None] | None:
    """A part and the stamp of its pixels; None where it is missing, torn, altered or foreign.

    A worker of a run that was ended can be late with the well that it had in hand, and leave it in
    the folder of the next run.
    """
    path = part_path(parts, position)
    try:
        metadata = json.loads(pl.read_parquet_metadata(path)[PROVENANCE_KEY])
        if metadata["made_by"] != made_by:
            return None
        found = _result_of(pl.read_parquet(path), position)
        if metadata["digest"] != _digest(found):
            return None
        if metadata.get("measures") != list(MEASURES):  # none, or those of another version
            found = _without_measures(found)
        return found, metadata["pixels"]
    except (OSError, pl.exceptions.PolarsError, KeyError, TypeError, ValueError):
        return None


def _digest(result: WellResult) -> str:
    """Of everything that a part holds: a flipped bit on the disk must not become a profile."""
    digest = hashlib.sha256()
    for field in result.fields:
        counts = (field.n_tiles, field.n_tiles_dropped, field.checksum)
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


def _frame(result: WellResult) -> pl.DataFrame:
    """A part: one row a field and channel."""
    rows = [
        (field, channel, features)
        for field in result.fields
        for channel, features in zip(field.labels, field.features, strict=True)
    ]
    features = np.stack([features for *_, features in rows])
    quality = [field.quality for field in result.fields if field.quality is not None]
    measured = []
    if len(quality) == len(result.fields):
        values = np.concatenate(quality)
        measured = [pl.Series("quality", values, pl.Array(pl.Float32, values.shape[1]))]
    return pl.DataFrame(
        [
            pl.Series("site", [field.site for field, *_ in rows], pl.String),
            pl.Series("time", [field.time for field, *_ in rows], pl.Int64),
            pl.Series("channel", [channel for _, channel, _ in rows], pl.String),
            pl.Series("n_tiles", [field.n_tiles for field, *_ in rows], pl.Int64),
            pl.Series("n_tiles_dropped", [field.n_tiles_dropped for field, *_ in rows], pl.Int64),
            pl.Series("checksum", [field.checksum for field, *_ in rows], pl.UInt64),
            pl.Series("features", features, pl.Array(pl.Float32, features.shape[1])),
            *measured,
        ]
    )


def _result_of(part: pl.DataFrame, position: WellName) -> WellResult:
    groups = part.partition_by("site", "time", maintain_order=True)
    fields = tuple(
        FieldResult(
            site=group["site"][0],
            time=group["time"][0],
            labels=tuple(group["channel"]),
            n_tiles=group["n_tiles"][0],
            n_tiles_dropped=group["n_tiles_dropped"][0],
            checksum=group["checksum"][0],
            features=group["features"].to_numpy(),
            quality=group["quality"].to_numpy() if "quality" in part.columns else None,
        )
        for group in groups
    )
    return WellResult(position, fields)
