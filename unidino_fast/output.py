"""The output folder of one plate: part files, manifest, resuming, final tables.

`DIR/<plate>/parts/A01.parquet` holds one well; when all wells are there they become
`fields.parquet`, `wells.parquet` and `profiles.parquet`. `manifest.json` says what made them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any

from unidino_fast.errors import OutputError
from unidino_fast.files import TEMPORARY, reason_of, write_json
from unidino_fast.lock import FolderLock
from unidino_fast.manifest import (
    FORMAT,
    deciding,
    difference,
    read_manifest,
    short,
    write_manifest,
)
from unidino_fast.names import QUALITY, REPORT, folder_name
from unidino_fast.parts import part_path, read_part, read_stamp, read_whole_part, write_part
from unidino_fast.profiles.appending import RowGroups
from unidino_fast.tables import atomic_table, write_parquet

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import polars as pl

    from unidino_fast.names import WellName
    from unidino_fast.planning import WellTask
    from unidino_fast.results import WellResult
    from unidino_fast.stamps import PixelStamp

TABLES = ("fields.parquet", "wells.parquet", "profiles.parquet")
_LOCK = ".lock"
_SHARDS = f"{_LOCK}-*"
"""Locks of shards, which hold `_LOCK` together and do not sign it."""


class OutputFolder:
    """One plate's results on disk.

    Args:
        out: the run's output folder.
        plate: plate name.
        provenance: everything that decides the numbers, JSON-ready.
        wells: of the plate, all of them.
        job_tiles: of the job that the folder was begun with.
        sharded: others write into it at the same time, so that none may replace what is there.
    """

    def __init__(
        self,
        out: Path,
        plate: str,
        provenance: Mapping[str, Any],
        wells: Sequence[WellName] = (),
        job_tiles: int | None = None,
        *,
        sharded: bool = False,
    ) -> None:
        self.path = out / folder_name(plate)
        self.provenance = provenance
        self.wells = wells
        self.job_tiles = job_tiles
        self.remedy = (
            "remove that folder, or choose another --out for all shards"
            if sharded
            else "use --overwrite or another --out"
        )
        self._created: list[Path] = []
        self._locks: list[FolderLock] = []
        self._replacing = self._goes_on = False
        self._making_room = threading.Lock()

    @classmethod
    def at(cls, path: Path, provenance: Mapping[str, Any]) -> OutputFolder:
        """The folder of this path, whatever plate it is of."""
        folder = cls(path.parent, "", provenance)
        folder.path = path
        return folder

    @cached_property
    def made_by(self) -> str:
        """Digest of what decides the numbers: every part carries that of its own making.

        Not of the channels, which a part names itself: of others, a well may bring more.
        """
        held = deciding(self.provenance)
        held["options"].pop("channels", None)
        return hashlib.sha256(json.dumps(held).encode()).hexdigest()

    def begun_with(self) -> int | None:
        """Tiles of the job that the folder was begun with, by which an engine may be chosen."""
        found = read_manifest(self.manifest)
        return None if found is None else found.job_tiles

    def left_over(self) -> list[str]:
        """Names of wells whose parts lie here though the plate does not hold them now."""
        ours = {str(well) for well in self.wells}
        return sorted(part.stem for part in self.parts.glob("*.parquet") if part.stem not in ours)

    @property
    def parts(self) -> Path:
        """Folder of the part files."""
        return self.path / "parts"

    @property
    def shards(self) -> Path:
        """Folder of the records of finished shards."""
        return self.path / "shards"

    @property
    def manifest(self) -> Path:
        """What made the results."""
        return self.path / "manifest.json"

    def check(self, *, overwrite: bool) -> None:
        """Checks that what the folder holds was made in the same way; changes nothing.

        Raises:
            OutputError: it holds results of other weights, options or plate, or its place is none
                to be written to.
        """
        with self._refusing():
            place = next(place for place in (self.path, *self.path.parents) if place.exists())
            if not place.is_dir():
                raise OutputError(
                    f"{self.path} cannot be written ({place} is no folder): choose another --out"
                )
            if not os.access(place, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            if overwrite:
                return
            if self.manifest.exists():
                self._check_same()
            elif self._has_results():
                raise OutputError(f"{self.path} holds results without a manifest: {self.remedy}")

    def open(self, *, overwrite: bool, shard: str | None = None) -> None:
        """Makes and locks the folder, or checks that what it holds was made in the same way.

        With `overwrite`, old results stay until the first new well is there: a run that fails
        before has removed nothing. A shard shares the folder with others of other names.

        Raises:
            OutputError: it cannot be written, holds results of other weights, options or plate, or
                is in use by another run.
        """
        self.check(overwrite=overwrite)
        with self._refusing():
            self._make_folders(*((self.shards,) if shard else ()))
            self._lock(shard)
            self.check(overwrite=overwrite)  # another run may have ended in between
            self._replacing = overwrite and self._has_results()
            if shard is None:
                self._remove_temporaries()
            elif self.manifest.exists():
                return  # that of another shard, or of a merge
            self._goes_on = self.manifest.exists() and not overwrite
            if not self._replacing and not self._goes_on:
                self._begin(overwrite=overwrite)

    def go_on(self) -> None:
        """Says that this run goes on, once all that it takes over was found fit.

        A run that is refused before leaves the manifest of the finished one as it is.
        """
        if self._goes_on:
            self._begin(overwrite=False)

    def close(self) -> None:
        """Gives the folder free for other runs."""
        while self._locks:
            self._locks.pop().release()

    def held_by(self, shard: str | None = None) -> str | None:
        """Who writes into the folder, so that `open` would refuse it, as far as locks are signed.

        Args:
            shard: that would be opened, beside which others may be written.
        """
        own = (f"{_LOCK}-{shard}",) if shard else sorted(p.name for p in self.path.glob(_SHARDS))
        holders = (FolderLock(self.path / name).held_by() for name in (_LOCK, *own))
        return next(filter(None, holders), None)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other runs out for a while.

        Raises:
            OutputError: the folder is in use by another run, or cannot be written.
        """
        with self._refusing():
            self._lock(None)
            self._remove_temporaries()
        try:
            yield
        finally:
            self.close()

    def discard_if_empty(self) -> None:
        """Removes what this run made if no well was finished, so that a failure leaves nothing."""
        if not self._has_results() and not self.shards.exists():
            with contextlib.suppress(OSError):
                self.manifest.unlink(missing_ok=True)
            self._remove_created()

    def has_part(self, task: WellTask) -> bool:
        """Whether a well was finished before, as far as the name of a file tells."""
        return not self._replacing and part_path(self.parts, task.well.position).exists()

    def read_part(
        self, task: WellTask, stamp: PixelStamp | None, *, any_stamp: bool = False
    ) -> WellResult | None:
        """The finished part of a well, if there is one to keep; see `parts.read_part`."""
        if self._replacing:
            return None
        return read_part(
            self.parts, task, stamp, self.made_by, any_stamp=any_stamp, remedy=self.remedy
        )

    def held_stamp(self, task: WellTask) -> PixelStamp | None:
        """The stamp of the pixels that a finished well was made of."""
        return read_stamp(self.parts, task.well.position, self.made_by)

    def read_whole_part(self, position: WellName) -> WellResult:
        """A part that was there a moment ago.

        Raises:
            OutputError: it is there no more, or no longer what was written.
        """
        found = read_whole_part(self.parts, position, self.made_by)
        if found is None:
            raise OutputError(
                f"{part_path(self.parts, position)} was removed or changed during the run: run the"
                " same command again, which embeds that well"
            )
        return found

    def write_part(self, result: WellResult, stamp: PixelStamp | None) -> None:
        """Writes a finished well."""
        self.make_room()
        write_part(self.parts, result, stamp, self.made_by)

    def make_room(self) -> None:
        """Removes the old results that are to be replaced, if they are still there."""
        with self._making_room:  # wells are written by several threads
            if self._replacing:
                with self._refusing():
                    self._begin(overwrite=True)
                self._replacing = False

    def write_table(self, name: str, frame: pl.DataFrame) -> None:
        """Writes one of the final tables, with the provenance in its metadata."""
        write_parquet(frame, self.path / name, self.provenance)

    @contextlib.contextmanager
    def appending(self, name: str) -> Iterator[RowGroups]:
        """Writes one of the final tables in portions; it is there when all are written."""
        with (
            atomic_table(self.path / name) as temporary,
            RowGroups(temporary, self.provenance, plain=True) as table,
        ):
            yield table

    def write_quality(self, report: Mapping[str, Any] | None) -> None:
        """Writes what quality control says; removes what it said before where it says nothing."""
        if report is None:
            (self.path / QUALITY).unlink(missing_ok=True)
        else:
            write_json(report, self.path / QUALITY)

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

    def _write_manifest(self, run: Mapping[str, Any]) -> None:
        write_manifest(self.manifest, self.provenance, self.job_tiles, run)

    def _has_results(self) -> bool:
        """Whether any well is finished."""
        tables = any((self.path / name).exists() for name in TABLES)
        return tables or any(self.parts.glob("*.parquet"))

    def _check_same(self) -> None:
        manifest = read_manifest(self.manifest)
        if manifest is None:
            raise OutputError(f"{self.manifest} cannot be read: {self.remedy}")
        if manifest.format != FORMAT:
            raise OutputError(
                f"{self.path} holds results of format {short(manifest.format)}, this version writes"
                f" {FORMAT}: {self.remedy}"
            )
        held = manifest.deciding
        # all channels are those of all wells, so that a well that was mended may bring another
        is_mended = held["plate"].get("digest") != self.provenance["plate"].get("digest")
        found = difference(held, self.provenance, but=("channels",) if is_mended else ())
        if found is not None:
            name, before, now = found
            raise OutputError(
                f"{self.path} holds results made with {name} {before}, now {now}: {self.remedy}"
            )
        if is_mended:
            self._check_wells()
        labels = manifest.platemap
        if labels and not self.provenance.get("platemap") and self._has_results():
            raise OutputError(
                f"{self.path} holds results with the labels of {short(labels)}: give it again"
                f" by --metadata, or {self.remedy} to do without labels"
            )

    def _check_wells(self) -> None:
        """Two plates of one name without a well in common do not go into one folder."""
        ours = (part_path(self.parts, well) for well in self.wells)
        if self._has_results() and not any(path.exists() for path in ours):
            raise OutputError(
                f"{self.path} holds results of another plate of this name, with other wells:"
                f" {self.remedy}"
            )

    def _lock(self, shard: str | None) -> None:
        """Alone, or beside other shards."""
        whole = FolderLock(self.path / _LOCK, shared=shard is not None)
        own = [] if shard is None else [FolderLock(self.path / f"{_LOCK}-{shard}")]
        for lock in (whole, *own):
            self._locks.append(lock)
            lock.acquire()

    def _make_folders(self, *more: Path) -> None:
        for folder in (*reversed(self.path.parents), self.path, self.parts, *more):
            if not folder.is_dir():
                folder.mkdir(exist_ok=True)
                self._created.append(folder)

    def _remove_results(self) -> None:
        """Removes this package's files and nothing else."""
        ours = [self.manifest, *(self.path / name for name in (*TABLES, QUALITY, REPORT))]
        for path in (*ours, *self.parts.glob("*.parquet"), *self.shards.glob("*-of-*.json")):
            path.unlink(missing_ok=True)

    def _remove_temporaries(self) -> None:
        """What a killed run has left half written."""
        for folder in (self.path, self.parts, self.shards):
            for path in folder.glob(TEMPORARY):
                path.unlink(missing_ok=True)

    def _remove_created(self) -> None:
        self.close()
        for folder in reversed(self._created):
            with contextlib.suppress(OSError):
                folder.rmdir()
