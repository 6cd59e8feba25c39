"""One remote object as a file that is read by ranges: a zipped plate behind a URL."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

from unidino_fast.errors import PlateError
from unidino_fast.names import one_line
from unidino_fast.storage.base import StorageFault

if TYPE_CHECKING:
    from unidino_fast.storage.remote import RemoteStorage
    from unidino_fast.storage.transports import Answer

_BLOCK = 2**16


def open_file(storage: RemoteStorage) -> io.BufferedReader:
    """The object at a storage's root, seekable; reads are retried as those of chunks are.

    Raises:
        PlateError: it is not there, cannot be read, or its server knows no ranges.
    """
    found = storage.answer("", _room, 0, 1)
    if found is None or isinstance(found, StorageFault):
        reason = "it does not exist" if found is None else one_line(found.reason)
        raise PlateError(f"{storage.location} cannot be opened ({reason}): check its address")
    if not found.is_span or found.size is None:
        raise PlateError(
            f"{storage.location} cannot be read in place, since its server knows no ranges:"
            " download it first"
        )
    return io.BufferedReader(_RangedFile(storage, found, found.size), _BLOCK)


class _RangedFile(io.RawIOBase):
    """Reads of it are requests; `BufferedReader` makes them large enough."""

    def __init__(self, storage: RemoteStorage, first: Answer, size: int) -> None:
        self._storage, self._tag, self._size = storage, first.tag, size
        self._place = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Goes elsewhere; nothing is asked for."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = max(start + offset, 0)
        return self._place

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fills a buffer as far as the object reaches.

        Raises:
            OSError: it cannot be read, or is no longer what it was when it was opened.
        """
        view = memoryview(buffer).cast("B")
        n_bytes = min(len(view), self._size - self._place)
        if n_bytes <= 0:
            return 0
        found = self._storage.answer("", lambda n: view[:n], self._place, self._place + n_bytes)
        if isinstance(found, StorageFault):
            raise found.error()
        if found is None or found.tag != self._tag:
            raise OSError("it was replaced while it was being read")
        self._place += len(found.content)
        return len(found.content)


def _room(n_bytes: int) -> memoryview:
    return memoryview(bytearray(n_bytes))
