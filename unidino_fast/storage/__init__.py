"""Where a plate's bytes lie: a folder, a `.zip`/`.ozx` file, or a URL, which is never listed.

`read_many` is the metadata path (concurrent on remote stores), `fetch` that of chunks; `zarr_store`
hands the same place to zarr-python. A missing key is None; anything else that goes wrong is a
`StorageFault` value, so that one unreadable object does not hide the state of the others.
"""

from __future__ import annotations

import os
import urllib.parse
import zipfile
from pathlib import Path

from unidino_fast.errors import PlateError, first_line
from unidino_fast.storage.base import (
    FetchResult,
    Grab,
    ReadResult,
    Room,
    ServerError,
    Stamp,
    Storage,
    StorageFault,
)
from unidino_fast.storage.local import FolderStorage, ZipStorage

__all__ = [
    "FetchResult",
    "FolderStorage",
    "Grab",
    "ReadResult",
    "Room",
    "ServerError",
    "Stamp",
    "Storage",
    "StorageFault",
    "ZipStorage",
    "open_storage",
]

ZIP_SUFFIXES = (".zip", ".ozx")


def open_storage(location: str | os.PathLike[str]) -> Storage:
    """Opens a folder, a `.zip`/`.ozx` file or a URL (`https://`, `s3://`, `gs://`, `file://`).

    Raises:
        PlateError: nothing is there, or it is a file that is no zip.
        UsageError: the URL's protocol needs a package that is not installed, or is unknown.
    """
    text = os.fspath(location)
    if text.lower().startswith("file://"):
        return _open_path(urllib.parse.unquote(urllib.parse.urlsplit(text).path), text)
    if "://" in text:
        return _open_url(text)
    return _open_path(text, text)


def _open_path(text: str, location: str) -> Storage:
    try:
        path = Path(text).expanduser()
        is_folder, is_there = path.is_dir(), path.exists()
    except (OSError, RuntimeError) as error:  # expanduser raises the latter for `~nobody`
        raise PlateError(f"{location} cannot be read: {first_line(error)}") from error
    if not text or not is_there:
        raise PlateError(f"{location or '(nothing)'} does not exist: give a plate's path or URL")
    if is_folder:
        return FolderStorage(path, location=location)
    try:
        if path.suffix.lower() in ZIP_SUFFIXES or zipfile.is_zipfile(path):
            return ZipStorage(path.open("rb"), location=location)
    except OSError as error:
        raise PlateError(f"{location} cannot be read: {error.strerror}") from error
    raise PlateError(
        f"{location} is a file, not a plate: give a .zarr folder, a .zip or .ozx file or a URL"
        " (image files become a plate by `unidino-fast convert`)"
    )


def _open_url(url: str) -> Storage:
    from unidino_fast.storage.remote import RemoteStorage, file_system_of
    from unidino_fast.storage.remote_file import open_file

    file_system, path = file_system_of(url)
    storage = RemoteStorage(file_system, path, location=url)
    if url.split("?")[0].lower().endswith(ZIP_SUFFIXES):
        return ZipStorage(open_file(storage), location=url, is_remote=True)
    return storage
