"""The output folder of one plate: part files, manifest, resuming, final tables.

`DIR/<plate>/parts/A01.parquet` holds one well; when all wells are there they become
`fields.parquet`, `wells.parquet` and `profiles.parquet`. `manifest.json` says what made them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from unidino_fast.errors import OutputError
from unidino_fast.files import PROVENANCE_KEY, write_json, write_parquet
from unidino_fast.results import FieldResult, WellResult

if TYPE_CHECKING:
    from collections.abc import Mapping

    from unidino_fast.names import WellName
    from unidino_fast.planning import WellTask
    from unidino_fast.storage import Storage

TABLES = ("fields.parquet", "wells.parquet", "profiles.parquet")
_UNSAFE = re.compile(r"[^\w .()+-]|^\.+", re.ASCII)


def folder_name(plate: str) -> str:
    """A plate's name as a folder's: characters that could lead elsewhere become `_`."""
    return _UNSAFE.sub("_", plate).strip() or "plate"


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

    def open(self, *, overwrite: bool) -> None:
        """Makes the folder, or checks that what it holds was made in the same way.

        Raises:
            OutputError: it cannot be written, or holds results of other weights, options or plate.
        """
        if overwrite:
            self._remove_results()
        elif self.manifest.exists():
            self._check_same()
        elif self.path.is_dir() and any((self.path / name).exists() for name in TABLES):
            raise OutputError(
                f"{self.path} holds tables without a manifest: choose another --out or --overwrite"
            )
        try:
            for folder in (*reversed(self.path.parents), self.path, self.parts):
                if not folder.exists():
                    folder.mkdir()
                    self._created.append(folder)
            self._write_manifest({"status": "running"})
        except OSError as error:
            self._remove_created()
            raise OutputError(
                f"{self.path} cannot be written ({error.strerror or error}): choose another --out"
            ) from error

    def discard_if_empty(self) -> None:
        """Removes what this run made if no well was finished, so that a failure leaves nothing."""
        if self.parts.is_dir() and not any(self.parts.iterdir()):
            if self.parts in self._created:
                self.manifest.unlink(missing_ok=True)
            self._remove_created()

    def read_part(self, task: WellTask, stamp: str | None) -> WellResult | None:
        """The finished part of a well; None where there is none or where it is torn.

        Raises:
            OutputError: the pixels have changed since the part was written.
        """
        path = self._part(task.well.position)
        try:
            facts = json.loads(pl.read_parquet_metadata(path)[PROVENANCE_KEY])
            frame = pl.read_parquet(path)
        except (OSError, pl.exceptions.PolarsError, KeyError, ValueError):
            return None
        if facts["pixels"] is not None and stamp is not None and facts["pixels"] != stamp:
            raise OutputError(
                f"the pixels of well {task.name} changed since {path} was written:"
                " use --overwrite or another --out"
            )
        return _result_of(frame, task.well.position)

    def write_part(self, result: WellResult, stamp: str | None) -> None:
        """Writes a finished well."""
        write_parquet(_part_frame(result), self._part(result.position), {"pixels": stamp})

    def write_table(self, name: str, frame: pl.DataFrame) -> None:
        """Writes one of the final tables, with the provenance in its metadata."""
        write_parquet(frame, self.path / name, self.provenance)

    def finish(self, run: Mapping[str, Any]) -> None:
        """Writes the manifest of a run that has ended."""
        self._write_manifest(run)

    def _part(self, position: WellName) -> Path:
        return self.parts / f"{position}.parquet"

    def _write_manifest(self, run: Mapping[str, Any]) -> None:
        document = {"format": 1, "provenance": dict(self.provenance), "run": dict(run)}
        write_json(document, self.manifest)

    def _check_same(self) -> None:
        try:
            held = json.loads(self.manifest.read_text())["provenance"]
        except (OSError, ValueError, KeyError, TypeError):
            raise OutputError(
                f"{self.manifest} cannot be read: use --overwrite or another --out"
            ) from None
        for group in ("plate", "model", "options"):
            for name, value in self.provenance[group].items():
                before = held.get(group, {}).get(name)
                if before != value:
                    raise OutputError(
                        f"{self.path} holds results made with {group} {name} {_short(before)}, now"
                        f" {_short(value)}: use --overwrite or another --out"
                    )

    def _remove_results(self) -> None:
        """Removes this package's files and nothing else."""
        try:
            for path in (self.manifest, *(self.path / name for name in TABLES)):
                path.unlink(missing_ok=True)
            if self.parts.is_dir():
                for path in self.parts.glob("*.parquet"):
                    path.unlink()
        except OSError as error:
            raise OutputError(f"{self.path} cannot be overwritten: {error.strerror}") from error

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
    text = str(value)
    return f"{text[:12]}..." if re.fullmatch(r"[0-9a-f]{64}", text) else text
