"""Plates on a disk: a folder, or a single `.zip`/`.ozx` file (which may lie behind a URL)."""

from __future__ import annotations

import bisect
import lzma
import os
import stat
import weakref
import zipfile
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING

from unidino_fast.errors import PlateError, first_line
from unidino_fast.storage.base import (
    AbsentKeys,
    ServerError,
    StorageFault,
    bounds,
    read_document,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from zarr.abc.store import Store as ZarrStore

    from unidino_fast.storage.base import FetchResult, Grab, ReadResult, Room, Stamp

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
"""A pipe without a writer would have a plain open wait for ever."""
BROKEN_LINK = "a link on the way to it leads to nothing: was the file not fetched?"
_BROKEN_ZIP = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, NotImplementedError,
    OSError, ValueError,
)  # fmt: skip


class FolderStorage:
    """A folder on a local or mounted disk."""

    is_remote = False

    def __init__(self, root: Path, *, location: str) -> None:
        self.root = root
        self.location = location
        self._prefix = f"{root}/"  # for keys by the thousand
        self.files: str | None = self._prefix
        self._absent = AbsentKeys()

    def read(self, key: str, start: int | None = None, stop: int | None = None) -> ReadResult:
        """See `Storage`."""
        return read_document(self, key, start, stop)

    def fetch(
        self, key: str, room: Room, start: int | None = None, stop: int | None = None
    ) -> FetchResult:
        """See `Storage`."""
        try:
            file = os.open(self._prefix + key, _FLAGS)
        except (FileNotFoundError, NotADirectoryError):
            return StorageFault(BROKEN_LINK) if self._is_linked(key) else None
        except (OSError, ValueError) as error:
            return _fault(error)
        try:
            status = os.fstat(file)
            if stat.S_ISDIR(status.st_mode):
                self._absent.add(key)
                return None
            if not stat.S_ISREG(status.st_mode):
                return StorageFault("it is a device, pipe or socket, not a file")
            first, last = 0, status.st_size
            if start is not None or stop is not None:
                first, last = bounds(status.st_size, start, stop)
            view = room(last - first)
            n_read = 0
            while n_read < last - first:
                n = os.preadv(file, [view[n_read:]], first + n_read)
                if n == 0:
                    break  # it has become shorter
                n_read += n
            return view[:n_read]
        except OSError as error:
            return _fault(error)
        finally:
            os.close(file)

    def grab(self, key: str, grabs: Sequence[Grab]) -> int | None:
        """See `Storage`."""
        try:
            file = os.open(self._prefix + key, _FLAGS)
        except (OSError, ValueError):
            return None
        try:
            n_read = 0
            for start, buffers in grabs:
                n_read += os.preadv(file, buffers, start)
        except OSError:
            return None
        finally:
            os.close(file)
        return n_read

    def read_many(self, keys: Sequence[str]) -> list[ReadResult]:
        """See `Storage`."""
        return [read_document(self, key) for key in keys]

    def children(self) -> list[str]:
        """See `Storage`."""
        try:
            with os.scandir(self.root) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir())
        except OSError as error:
            raise PlateError(f"{self.location} cannot be read: {error.strerror}") from error

    def stamps(self, prefix: str) -> list[Stamp] | None:
        """See `Storage`."""
        found: list[Stamp] = []
        pending = [prefix]
        try:
            while pending:
                folder = pending.pop()
                with os.scandir(f"{self.root}/{folder}") as entries:
                    for entry in entries:
                        key = f"{folder}/{entry.name}" if folder else entry.name
                        if entry.is_symlink() and _leads_nowhere(Path(entry.path)):
                            found.append((key, 0, 0))  # a fault of the well that needs it
                        elif entry.is_dir():
                            pending.append(key)
                        else:
                            status = entry.stat()
                            found.append((key, status.st_size, status.st_mtime_ns))
        except OSError as error:
            raise PlateError(
                f"{self.location}: {prefix} cannot be listed ({error.strerror}): is the plate being"
                " moved or written?"
            ) from error
        return sorted(found)

    def sizes_and_times(self, keys: Sequence[str]) -> list[tuple[int, int] | None]:
        """See `Storage`."""
        found: list[tuple[int, int] | None] = []
        linked: dict[str, bool] = {}  # folders on the way to what is absent
        for key in keys:
            try:
                status = os.stat(self._prefix + key)
            except (FileNotFoundError, NotADirectoryError):
                found.append((-1, 0) if self._is_linked(key, linked) else None)
            except (OSError, ValueError) as error:
                found.append((-1, getattr(error, "errno", None) or 0))
            else:
                if stat.S_ISDIR(status.st_mode):
                    self._absent.add(key)
                    found.append(None)
                else:
                    found.append((status.st_size, status.st_mtime_ns))
        return found

    def absent_seen(self) -> AbstractContextManager[set[str]]:
        """See `Storage`."""
        return self._absent.seen()

    def _is_linked(self, key: str, known: dict[str, bool] | None = None) -> bool:
        """Whether a link stands where there is no object; else it is absent.

        Args:
            key: of the object.
            known: of folders, whether one stands on the way to them; more are added.
        """
        folder, _, _ = key.rpartition("/")
        known = {} if known is None else known
        if folder not in known:
            known[folder] = has_broken_link(self.root, folder)
        if known[folder] or Path(self._prefix + key).is_symlink():
            return True
        self._absent.add(key)
        return False

    def zarr_store(self) -> ZarrStore:
        """See `Storage`."""
        from unidino_fast.storage.zarr_store import FolderStore

        return FolderStore(self.root, read_only=True)


class ZipStorage:
    """A single-file plate: a zip whose root, or one folder in it, is the plate.

    Args:
        file: seekable; it is closed with the storage. `zipfile` locks its reads.
        location: as the user wrote it.
        is_remote: the file lies behind a URL.
    """

    files: str | None = None

    def __init__(self, file: IO[bytes], *, location: str, is_remote: bool = False) -> None:
        self.location = location
        self.is_remote = is_remote
        self._file = file
        weakref.finalize(self, file.close)
        try:
            self._zip = zipfile.ZipFile(file)
        except _BROKEN_ZIP as error:
            raise PlateError(
                f"{location} is no readable zip ({first_line(error)}): copy it again"
            ) from error
        self._entries = {e.filename: e for e in self._zip.infolist() if not e.is_dir()}
        self._names = sorted(self._entries)
        self._absent = AbsentKeys()

    def read(self, key: str, start: int | None = None, stop: int | None = None) -> ReadResult:
        """See `Storage`."""
        return read_document(self, key, start, stop)

    def fetch(
        self, key: str, room: Room, start: int | None = None, stop: int | None = None
    ) -> FetchResult:
        """See `Storage`."""
        if key not in self._entries:
            self._absent.add(key)
            return None
        entry = self._entries[key]
        first, last = bounds(entry.file_size, start, stop)
        room(last - first)
        try:
            with self._zip.open(entry) as file:
                file.seek(first)
                return memoryview(file.read(last - first))
        except ServerError as error:
            return StorageFault(first_line(error), is_of_server=True)
        except _BROKEN_ZIP as error:
            return StorageFault(first_line(error))

    def grab(self, key: str, grabs: Sequence[Grab]) -> int | None:
        """See `Storage`."""
        return None

    def read_many(self, keys: Sequence[str]) -> list[ReadResult]:
        """See `Storage`."""
        return [read_document(self, key) for key in keys]

    def children(self) -> list[str]:
        """See `Storage`."""
        return sorted({name.split("/")[0] for name in self._names if "/" in name})

    def stamps(self, prefix: str) -> list[Stamp] | None:
        """See `Storage`; the checksum that the zip holds stands in for a time."""
        names = self._names
        if prefix:  # "0" is the character after "/"
            first, last = (bisect.bisect_left(names, prefix + end) for end in ("/", "0"))
            names = names[first:last]
        found = (self._entries[name] for name in names)
        return [(entry.filename, entry.file_size, entry.CRC) for entry in found]

    def sizes_and_times(self, keys: Sequence[str]) -> list[tuple[int, int] | None]:
        """See `Storage`; checksums as in `stamps`."""
        found: list[tuple[int, int] | None] = []
        for key in keys:
            entry = self._entries.get(key)
            if entry is None:
                self._absent.add(key)
            found.append(None if entry is None else (entry.file_size, entry.CRC))
        return found

    def absent_seen(self) -> AbstractContextManager[set[str]]:
        """See `Storage`."""
        return self._absent.seen()

    def zarr_store(self) -> ZarrStore:
        """See `Storage`."""
        from unidino_fast.storage.zarr_store import StorageStore

        return StorageStore(self)


def has_broken_link(root: Path, key: str) -> bool:
    """Whether a link on the way to an object leads to nothing: it is absent, but not meant so.

    Copies by git-annex have such links until their files are fetched.
    """
    place = root / key
    while place != root and not os.path.lexists(place):
        place = place.parent
    return _leads_nowhere(place)


def _leads_nowhere(place: Path) -> bool:
    """Whether it is a link to nothing, or back to itself."""
    return place.is_symlink() and not place.exists()


def _fault(error: Exception) -> StorageFault:
    return StorageFault(getattr(error, "strerror", None) or first_line(error))
