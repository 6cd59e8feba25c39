"""The output folder of one plate: part files, manifest, resuming, final tables.

`DIR/<plate>/parts/A01.parquet` holds one well; when all wells are there they become
`fields.parquet`, `wells.parquet` and `profiles.parquet`. `manifest.json` says what made them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from unidino_fast.errors import OutputError
from unidino_fast.files import TEMPORARY, reason_of, write_json
from unidino_fast.results import FieldResult, WellResult
from unidino_fast.tables import PROVENANCE_KEY, write_parquet

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from unidino_fast.names import WellName
    from unidino_fast.planning import WellTask
    from unidino_fast.storage import Storage

TABLES = ("fields.parquet", "wells.parquet", "profiles.parquet")
_FORMAT = 1
_DECIDING = ("plate", "model", "options")
"""Groups of the provenance that results in one folder must share."""
_UNSAFE = re.compile(r"[^\w .()+-]|^\.+")
_LONGEST_NAME = 200
"""Bytes; file systems take 255."""


def folder_name(plate: str) -> str:
    """A plate's name as a folder's: characters that could lead elsewhere become `_`.

    A name that no file system would take keeps its beginning and gets a digest as its end.
    """
    safe = _UNSAFE.sub("_", plate).strip() or "plate"
    if len(safe.encode()) <= _LONGEST_NAME:
        return safe
    digest = hashlib.sha256(plate.encode(errors="surrogatepass")).hexdigest()[:12]
    return f"{safe.encode()[:_LONGEST_NAME].decode(errors='ignore')}_{digest}"


class OutputFolder:
    """One plate's results on disk.

    Args:
        out: the run's output folder.
        plate: plate name.
        provenance: everything that decides the numbers, JSON-ready.
    """

    def __init__(self, out: Path, plate: str, provenance: Mapping[str, Any]) -> None:
        self.out = out
        self.path = out / folder_name(plate)
        self.parts = self.path / "parts"
        self.manifest = self.path / "manifest.json"
        self.provenance = provenance
        self._created: list[Path] = []
        self._replacing = False

    def check(self, *, overwrite: bool) -> None:
        """Checks that what the folder holds was made in the same way; changes nothing.

        Raises:
            OutputError: it holds results of other weights, options or plate.
        """
        with self._refusing():
            if overwrite:
                return
            if self.manifest.exists():
                self._check_same()
            elif self._has_results():
                raise OutputError(
                    f"{self.path} holds results without a manifest:"
                    " use --overwrite or another --out"
                )

    def open(self, *, overwrite: bool) -> None:
        """Makes the folder, or checks that what it holds was made in the same way.

        With `overwrite`, old results stay until the first new well is there: a run that fails
        before has removed nothing.

        Raises:
            OutputError: it cannot be written, or holds results of other weights, options or plate.
        """
        self.check(overwrite=overwrite)
        with self._refusing():
            self._replacing = overwrite and self._has_results()
            self._make_folders()
            if not self._replacing:
                self._begin(overwrite=overwrite)

    def discard_if_empty(self) -> None:
        """Removes what this run made if no well was finished, so that a failure leaves nothing."""
        if not self._has_results():
            with contextlib.suppress(OSError):
                self.manifest.unlink(missing_ok=True)
            self._remove_created()

    def read_part(self, task: WellTask, stamp: str | None) -> WellResult | None:
        """The finished part of a well; None where it is missing, torn or of other fields.

        Raises:
            OutputError: the pixels have changed since the part was written.
        """
        if self._replacing:
            return None
        path = self._part(task.well.position)
        try:
            pixels = json.loads(pl.read_parquet_metadata(path)[PROVENANCE_KEY])["pixels"]
            found = _result_of(pl.read_parquet(path), task.well.position)
        except (OSError, pl.exceptions.PolarsError, KeyError, TypeError, ValueError):
            return None
        held = [(field.site, field.time, field.labels) for field in found.fields]
        if held != [(field.field.site, field.time, field.labels) for field in task.fields]:
            return None
        if pixels is not None and stamp is not None and pixels != stamp:
            raise OutputError(
                f"sizes or times of the chunks of well {task.name} changed since {path} was"
                " written: if only a copy changed the times, copy with cp -a or rsync -a, else use"
                " --overwrite or another --out"
            )
        return found

    def write_part(self, result: WellResult, stamp: str | None) -> None:
        """Writes a finished well."""
        if self._replacing:
            with self._refusing():
                self._begin(overwrite=True)
            self._replacing = False
        write_parquet(_part_frame(result), self._part(result.position), {"pixels": stamp})

    def write_table(self, name: str, frame: pl.DataFrame) -> None:
        """Writes one of the final tables, with the provenance in its metadata."""
        write_parquet(frame, self.path / name, self.provenance)

    def finish(self, run: Mapping[str, Any]) -> None:
        """Writes the manifest of a run that has ended."""
        self._write_manifest(run)

    def _begin(self, *, overwrite: bool) -> None:
        if overwrite:
            self._remove_results()
        self._write_manifest({"status": "running"})

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        """Removes what was made when the folder turns out to be unfit, and names it."""
        try:
            yield
        except OutputError:
            self._remove_created()
            raise
        except OSError as error:
            self._remove_created()
            raise OutputError(
                f"{self.path} cannot be written ({reason_of(error)}): choose another --out"
            ) from error

    def _part(self, position: WellName) -> Path:
        return self.parts / f"{position}.parquet"

    def _write_manifest(self, run: Mapping[str, Any]) -> None:
        document = {"format": _FORMAT, "provenance": dict(self.provenance), "run": dict(run)}
        write_json(document, self.manifest)

    def _has_results(self) -> bool:
        """Whether any well is finished."""
        tables = any((self.path / name).exists() for name in TABLES)
        return tables or any(self.parts.glob("*.parquet"))

    def _check_same(self) -> None:
        try:
            document = json.loads(self.manifest.read_bytes())
            made_by = document["format"]
            held = {group: dict(document["provenance"][group]) for group in _DECIDING}
            labels = document["provenance"].get("platemap") or {}
            platemap = labels.get("name")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise OutputError(
                f"{self.manifest} cannot be read: use --overwrite or another --out"
            ) from None
        if made_by != _FORMAT:
            raise OutputError(
                f"{self.path} holds results of format {_short(made_by)}, this version writes"
                f" {_FORMAT}: use --overwrite or another --out"
            )
        now = json.loads(json.dumps({group: self.provenance[group] for group in _DECIDING}))
        for group in _DECIDING:
            for name in dict.fromkeys([*now[group], *held[group]]):
                before, value = (made[group].get(name) for made in (held, now))
                if (group, name) == ("model", "weights") and (
                    held["model"].get("weights_digest") == now["model"]["weights_digest"]
                ):
                    continue  # the same weights under another name
                if before != value:
                    raise OutputError(
                        f"{self.path} holds results made with {group} {name} {_short(before)}, now"
                        f" {_short(value)}: use --overwrite or another --out"
                    )

        if platemap and not self.provenance.get("platemap") and self._has_results():
            raise OutputError(
                f"{self.path} holds results with the labels of {_short(platemap)}: give it again"
                " by --metadata, or use --overwrite to do without labels"
            )

    def _make_folders(self) -> None:
        for folder in (*reversed(self.path.parents), self.path, self.parts):
            if not folder.is_dir():
                folder.mkdir(exist_ok=True)
                self._created.append(folder)

    def _remove_results(self) -> None:
        """Removes this package's files and nothing else."""
        ours = [self.manifest, *(self.path / name for name in TABLES)]
        if self.parts.is_dir():
            ours += [*self.parts.glob("*.parquet"), *self.parts.glob(TEMPORARY)]
        for path in ours:
            path.unlink(missing_ok=True)

    def _remove_created(self) -> None:
        for folder in reversed(self._created):
            with contextlib.suppress(OSError):
                folder.rmdir()


def pixel_stamp(storage: Storage, task: WellTask) -> str | None:
    """Digest of the sizes and times of a well's chunks; None where the storage cannot tell."""
    digest = hashlib.sha256()
    for path in sorted({field.field.array_path for field in task.fields}):
        stamps = storage.stamps(path)
        if stamps is None:
            return None
        digest.update(json.dumps(stamps).encode())
    return digest.hexdigest()


def _part_frame(result: WellResult) -> pl.DataFrame:
    """A part: one row a field and channel."""
    rows = [
        (field, channel, features)
        for field in result.fields
        for channel, features in zip(field.labels, field.features, strict=True)
    ]
    features = np.stack([features for *_, features in rows])
    return pl.DataFrame(
        [
            pl.Series("site", [field.site for field, *_ in rows], pl.String),
            pl.Series("time", [field.time for field, *_ in rows], pl.Int64),
            pl.Series("channel", [channel for _, channel, _ in rows], pl.String),
            pl.Series("n_tiles", [field.n_tiles for field, *_ in rows], pl.Int64),
            pl.Series("n_tiles_dropped", [field.n_tiles_dropped for field, *_ in rows], pl.Int64),
            pl.Series("features", features, pl.Array(pl.Float32, features.shape[1])),
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
            features=group["features"].to_numpy(),
        )
        for group in groups
    )
    return WellResult(position, fields)


def _short(value: object) -> str:
    """A value of the provenance in a message: digests cut, one line."""
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value):
        return f"{value[:12]}..."
    return value if isinstance(value, str) and value.isprintable() else repr(value)
