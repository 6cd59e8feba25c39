"""Where a plate's bytes lie: a folder, a `.zip`/`.ozx` file, or a URL. Read-only, never listed remotely.

`read_many` is the metadata path (concurrent on remote stores); `zarr_store` hands the same place to
zarr-python for pixels. A missing key is None; anything else that goes wrong is a `StorageFault`
value, so that one unreadable object does not hide the state of the others.
"""

from __future__ import annotations

import bisect
import lzma
import os
import stat
import urllib.parse
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from unidino_fast.errors import PlateError, first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zarr.abc.store import Store as ZarrStore

ZIP_SUFFIXES = (".zip", ".ozx")
_BROKEN_ZIP = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, NotImplementedError,
    OSError, ValueError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class StorageFault:
    """Why an object could not be read, though it may well be there.

    Attributes:
        reason: to follow "metadata at A/1: " in a message.
        is_forbidden: the store refused. Many answer so where an object does not exist.
    """

    reason: str
    is_forbidden: bool = False


ReadResult = bytes | StorageFault | None
Stamp = tuple[str, int, int]


class Storage(Protocol):
    """A read-only tree of objects addressed by keys with forward slashes; can be pickled."""

    location: str
    """As the user wrote it; for messages."""
    is_remote: bool
    """Whether each read costs a trip."""

    def read(self, key: str, start: int | None = None, stop: int | None = None) -> ReadResult:
        """One object's bytes, or the span `[start:stop]` of them as of a sequence.

        A negative start counts from the end. Safe to call from several threads.
        """
        ...

    def read_many(self, keys: Sequence[str]) -> list[ReadResult]:
        """The objects' bytes in order: None where absent, a fault where unreadable."""
        ...

    def children(self) -> list[str]:
        """Names of the folders in the root; empty on remote stores, which are never listed."""
        ...

    def stamps(self, prefix: str) -> list[Stamp] | None:
        """(key, bytes, modification time in ns) of every object under a prefix; None if unknown.

        Raises:
            PlateError: the folder cannot be listed, or changes at this moment.
        """
        ...

    def zarr_store(self) -> ZarrStore:
        """The same place as a zarr-python store; holds nothing that needs closing."""
        ...


def open_storage(location: str | os.PathLike[str]) -> Storage:
    """Opens a folder, a `.zip`/`.ozx` file or a URL (`https://`, `s3://`, `gs://`, `file://`).

    Raises:
        PlateError: nothing is there, or it is a file that is no zip.
        UsageError: the URL's protocol needs a package that is not installed, or is unknown.
    """
    text = os.fspath(location)
    if text.lower().startswith("file://"):
        text = urllib.parse.unquote(urllib.parse.urlsplit(text).path)
    if "://" in text:
        from unidino_fast.remote_storage import open_url

        return open_url(text)
    try:
        path = Path(text).expanduser()
        is_folder, is_there = path.is_dir(), path.exists()
    except (OSError, RuntimeError) as error:  # expanduser raises the latter for `~nobody`
        raise PlateError(f"{text} cannot be read: {first_line(error)}") from error
    if not text or not is_there:
        raise PlateError(f"{text or '(nothing)'} does not exist: give a plate's path or URL")
    if is_folder:
        return FolderStorage(path, location=text)
    if path.suffix.lower() in ZIP_SUFFIXES or zipfile.is_zipfile(path):
        return ZipStorage(lambda: path.open("rb"), location=text)
    raise PlateError(
        f"{text} is a file, not a plate: give a .zarr folder, a .zip or .ozx file or a URL"
        " (image files become a plate by `unidino-fast convert`)"
    )


class FolderStorage:
    """A folder on a local or mounted disk."""

    is_remote = False

    def __init__(self, root: Path, *, location: str) -> None:
        self.root = root
        self.location = location

    def read(self, key: str, start: int | None = None, stop: int | None = None) -> ReadResult:
        """See `Storage`."""
        try:
            with open(f"{self.root}/{key}", "rb") as file:  # noqa: PTH123 (a Path costs as much)
                return file.read() if start is None else _span(file, start, stop)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            return StorageFault(error.strerror or first_line(error))

    def read_many(self, keys: Sequence[str]) -> list[ReadResult]:
        """See `Storage`."""
        return [self.read(key) for key in keys]

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
                        status = entry.stat()
                        if stat.S_ISDIR(status.st_mode):
                            pending.append(key)
                        else:
                            found.append((key, status.st_size, status.st_mtime_ns))
        except OSError as error:
            raise PlateError(
                f"{self.location}: {prefix} cannot be listed ({error.strerror}): is the plate being"
                " moved or written?"
            ) from error
        return sorted(found)

    def zarr_store(self) -> ZarrStore:
        """See `Storage`."""
        from zarr.storage import LocalStore

        return LocalStore(self.root, read_only=True)


class ZipStorage:
    """A single-file plate: a zip whose root, or one folder in it, is the plate.

    Args:
        opener: opens the file, seekable; the zip's own reads from it are locked.
        location: as the user wrote it.
        is_remote: the file lies behind a URL.
    """

    def __init__(
        self, opener: Callable[[], IO[bytes]], *, location: str, is_remote: bool = False
    ) -> None:
        self.location = location
        self.is_remote = is_remote
        try:
            file = opener()
        except OSError as error:
            reason = error.strerror or first_line(error)
            raise PlateError(f"{location} cannot be opened: {reason}") from error
        try:
            self._zip = zipfile.ZipFile(file)
        except _BROKEN_ZIP as error:
            file.close()
            raise PlateError(
                f"{location} is no readable zip ({first_line(error)}): copy it again"
            ) from error
        self._file = file
        self._entries = {e.filename: e for e in self._zip.infolist() if not e.is_dir()}
        self._names = sorted(self._entries)

    def __reduce__(self) -> tuple[object, ...]:
        return open_storage, (self.location,)

    def __del__(self) -> None:
        if file := getattr(self, "_file", None):
            file.close()

    def read(self, key: str, start: int | None = None, stop: int | None = None) -> ReadResult:
        """See `Storage`."""
        if key not in self._entries:
            return None
        try:
            with self._zip.open(self._entries[key]) as file:
                return file.read() if start is None else _span(file, start, stop)
        except _BROKEN_ZIP as error:
            return StorageFault(first_line(error))

    def read_many(self, keys: Sequence[str]) -> list[ReadResult]:
        """See `Storage`."""
        return [self.read(key) for key in keys]

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

    def zarr_store(self) -> ZarrStore:
        """See `Storage`."""
        from unidino_fast.zarr_store import StorageStore

        return StorageStore(self)


def _span(file: IO[bytes], start: int, stop: int | None) -> bytes:
    if start < 0:
        start = max(file.seek(0, os.SEEK_END) + start, 0)
    file.seek(start)
    return file.read() if stop is None else file.read(stop - start)
