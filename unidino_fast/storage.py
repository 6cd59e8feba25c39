"""Where a plate's bytes lie: a folder, a `.zip`/`.ozx` file, or a URL. Read-only, never listed remotely.

`read_many` is the metadata path (concurrent on remote stores); `zarr_store` hands the same place to
zarr-python for pixels. A missing key is None; anything else that goes wrong is a `StorageFault`
value, so that one unreadable object does not hide the state of the others.
"""

from __future__ import annotations

import os
import stat
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from unidino_fast.errors import PlateError, UsageError, first_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zarr.abc.store import Store as ZarrStore

ZIP_SUFFIXES = (".zip", ".ozx")
_REMOTE_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}


@dataclass(frozen=True, slots=True)
class StorageFault:
    """Why an object could not be read, though it may well be there."""

    reason: str


ReadResult = bytes | StorageFault | None


class Storage(Protocol):
    """A read-only tree of objects addressed by keys with forward slashes."""

    location: str
    """As the user wrote it; for messages."""
    is_remote: bool

    def read_many(self, keys: Sequence[str]) -> list[ReadResult]:
        """The objects' bytes in order: None where absent, a fault where unreadable."""
        ...

    def children(self) -> list[str]:
        """Names of the folders in the root; empty on remote stores, which are never listed."""
        ...

    def stamps(self, prefix: str) -> list[tuple[str, int, int]] | None:
        """(key, bytes, modification time in ns) of every object under a prefix; None if unknown."""
        ...

    def zarr_store(self) -> ZarrStore:
        """The same place as a zarr-python store."""
        ...


def open_storage(location: str | os.PathLike[str]) -> Storage:
    """Opens a folder, a `.zip`/`.ozx` file or a URL (`https://`, `s3://`, `gs://`, `file://`).

    Raises:
        PlateError: nothing is there, or it is a file that is no zip.
        UsageError: the URL's protocol needs a package that is not installed, or is unknown.
    """
    text = os.fspath(location)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if "://" in text:
        return RemoteStorage(text)
    path = Path(text).expanduser()
    if path.is_dir():
        return FolderStorage(path, location=text)
    if not path.exists():
        raise PlateError(f"{text} does not exist: give the path or URL of an OME-Zarr plate")
    if path.suffix.lower() in ZIP_SUFFIXES or zipfile.is_zipfile(path):
        return ZipStorage(path, location=text)
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

    def read_many(self, keys: Sequence[str]) -> list[ReadResult]:
        """See `Storage`."""
        return [self._read(key) for key in keys]

    def _read(self, key: str) -> ReadResult:
        try:
            return (self.root / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            return StorageFault(error.strerror or first_line(error))

    def children(self) -> list[str]:
        """See `Storage`."""
        try:
            return sorted(entry.name for entry in os.scandir(self.root) if entry.is_dir())
        except OSError as error:
            raise PlateError(f"{self.location} cannot be read: {error.strerror}") from error

    def stamps(self, prefix: str) -> list[tuple[str, int, int]] | None:
        """See `Storage`."""
        found = []
        pending = [self.root / prefix]
        while pending:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    status = entry.stat()
                    if stat.S_ISDIR(status.st_mode):
                        pending.append(Path(entry.path))
                    else:
                        key = Path(entry.path).relative_to(self.root).as_posix()
                        found.append((key, status.st_size, status.st_mtime_ns))
        return sorted(found)

    def zarr_store(self) -> ZarrStore:
        """See `Storage`."""
        from zarr.storage import LocalStore

        return LocalStore(self.root, read_only=True)


class ZipStorage:
    """A single-file plate: a zip whose root, or one folder in it, is the plate."""

    is_remote = False

    def __init__(self, path: Path, *, location: str) -> None:
        self.path = path
        self.location = location
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise PlateError(
                f"{location} is no readable zip ({first_line(error)}): copy it again"
            ) from error

    def read_many(self, keys: Sequence[str]) -> list[ReadResult]:
        """See `Storage`."""
        return [self._read(key) for key in keys]

    def _read(self, key: str) -> ReadResult:
        try:
            return self._zip.read(key)
        except KeyError:
            return None
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError) as error:
            return StorageFault(first_line(error))

    def children(self) -> list[str]:
        """See `Storage`."""
        return sorted({name.split("/")[0] for name in self._zip.namelist() if "/" in name})

    def stamps(self, prefix: str) -> list[tuple[str, int, int]] | None:
        """See `Storage`; the checksum that the zip holds stands in for a time."""
        return sorted(
            (entry.filename, entry.file_size, entry.CRC)
            for entry in self._zip.infolist()
            if entry.filename.startswith(f"{prefix}/")
        )

    def zarr_store(self) -> ZarrStore:
        """See `Storage`."""
        from zarr.storage import ZipStore

        return ZipStore(self.path, mode="r", read_only=True)


class RemoteStorage:
    """Objects behind a URL, through fsspec; `.zip`/`.ozx` URLs are opened as zip files."""

    is_remote = True

    def __init__(self, url: str) -> None:
        import fsspec

        self.location = url
        protocol = url.split("://", 1)[0].lower()
        chained = f"zip::{url}" if url.split("?")[0].lower().endswith(ZIP_SUFFIXES) else url
        try:
            self._fs, self._root = fsspec.url_to_fs(chained, **_options(protocol, chained != url))
        except ImportError as error:
            extra = _REMOTE_EXTRAS.get(protocol)
            remedy = f"pip install 'unidino_fast[{extra}]'" if extra else first_line(error)
            raise UsageError(f"{protocol}:// needs a package that is not here: {remedy}") from error
        except ValueError as error:
            raise UsageError(
                f"{url} has an unknown protocol {protocol!r}: use https, s3 or gs"
            ) from error
        except OSError as error:
            raise PlateError(f"{url} cannot be opened: {first_line(error)}") from error
        self._root = self._root.rstrip("/")

    def _full(self, key: str) -> str:
        return f"{self._root}/{key}" if self._root else key

    def read_many(self, keys: Sequence[str]) -> list[ReadResult]:
        """See `Storage`; one concurrent batch where the file system can."""
        paths = {key: self._full(key) for key in keys}
        if not paths:
            return []
        found = self._fs.cat(list(paths.values()), on_error="return")
        if isinstance(found, bytes):  # fsspec unwraps a single path
            found = dict.fromkeys(paths.values(), found)
        # s3fs and others strip the protocol from the keys that they give back
        return [
            _as_result(found.get(path, found.get(self._fs._strip_protocol(path))))
            for path in paths.values()
        ]

    def children(self) -> list[str]:
        """See `Storage`."""
        return []

    def stamps(self, prefix: str) -> list[tuple[str, int, int]] | None:
        """See `Storage`: unknown here, since remote stores are not listed."""
        return None

    def zarr_store(self) -> ZarrStore:
        """See `Storage`."""
        from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
        from zarr.storage import FsspecStore

        # zarr drives the file system from its own event loop
        if self._fs.async_impl:
            options = self._fs.storage_options | {"asynchronous": True, "skip_instance_cache": True}
            return FsspecStore(type(self._fs)(**options), path=self._root, read_only=True)
        wrapped = AsyncFileSystemWrapper(self._fs, asynchronous=True)
        return FsspecStore(wrapped, path=self._root, read_only=True)


def _options(protocol: str, inside_zip: bool) -> dict[str, Any]:
    """Fsspec options: S3 without credentials is read anonymously."""
    if protocol not in ("s3", "s3a"):
        return {}
    try:
        from botocore.session import get_session
    except ImportError:
        return {}  # fsspec says what to install
    options = {"anon": get_session().get_credentials() is None}
    return {"s3": options} if inside_zip else options


def _as_result(found: object) -> ReadResult:
    if isinstance(found, bytes):
        return found
    if found is None or isinstance(found, FileNotFoundError | KeyError | IsADirectoryError):
        return None
    if isinstance(found, BaseException):
        return StorageFault(first_line(found))
    return StorageFault(f"unexpected answer of type {type(found).__name__}")
