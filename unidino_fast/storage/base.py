"""What every storage is: the protocol, and what a read gives."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from zarr.abc.store import Store as ZarrStore


@dataclass(frozen=True, slots=True)
class StorageFault:
    """Why an object could not be read, though it may well be there.

    Attributes:
        reason: to follow "metadata at A/1: " in a message.
        is_forbidden: the store refused. Many answer so where an object does not exist.
        is_of_server: not the object but the way to it is at fault, which may be well again later.
    """

    reason: str
    is_forbidden: bool = False
    is_of_server: bool = False

    def error(self) -> OSError:
        """The same to be raised: a `ServerError` or `PermissionError` where it is one."""
        if self.is_of_server:
            return ServerError(self.reason)
        return PermissionError(self.reason) if self.is_forbidden else OSError(self.reason)


class ServerError(OSError):
    """An object that its server did not give, though it may be whole."""


class DocumentTooLargeError(ValueError):
    """A metadata document that cannot be meant."""


ReadResult = bytes | StorageFault | None
FetchResult = memoryview | StorageFault | None
Room: TypeAlias = "Callable[[int], memoryview]"
"""Gives a writable buffer for so many bytes, or raises what the caller of `fetch` shall see.

Asked once; again for more while an object comes whose size was not known before.
"""
Grab: TypeAlias = "tuple[int, Sequence[memoryview]]"
"""A first byte, and buffers that are filled one after another from there on."""
Stamp = tuple[str, int, int]

DOCUMENT_BYTES = 2**26
"""The most of a metadata document; consolidated ones of thousands of fields have some 10 MB."""


def bounds(size: int, start: int | None, stop: int | None) -> tuple[int, int]:
    """The span `[start:stop]` of an object of this size, as of a sequence."""
    first, last, _ = slice(start, stop).indices(size)
    return first, max(first, last)


def check_document(n_bytes: int) -> None:
    """Raises DocumentTooLargeError for a size that no metadata document has."""
    if n_bytes > DOCUMENT_BYTES:
        raise DocumentTooLargeError(
            f"{n_bytes / 2**20:.0f} MiB are no metadata: at most {DOCUMENT_BYTES // 2**20} are read"
        )


def document_room(n_bytes: int) -> memoryview:
    """Room for a metadata document; raises DocumentTooLargeError."""
    check_document(n_bytes)
    return memoryview(bytearray(n_bytes))


class AbsentKeys:
    """Tells those who watch at which keys there was no object; for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watchers: list[set[str]] = []

    def __reduce__(self) -> tuple[type[AbsentKeys], tuple[()]]:
        """In another process, nobody watches yet."""
        return AbsentKeys, ()

    def add(self, key: str) -> None:
        """There is no object at this key."""
        with self._lock:
            for watcher in self._watchers:
                watcher.add(key)

    @contextmanager
    def seen(self) -> Iterator[set[str]]:
        """A set of the keys that are added meanwhile."""
        seen: set[str] = set()
        with self._lock:
            self._watchers.append(seen)
        try:
            yield seen
        finally:
            with self._lock:
                self._watchers = [other for other in self._watchers if other is not seen]


class Storage(Protocol):
    """A read-only tree of objects addressed by keys with forward slashes."""

    location: str
    """As the user wrote it; for messages."""
    is_remote: bool
    """Whether each read costs a trip."""
    files: str | None
    """What makes a key the path of a file, if it stands before it; None: keys are no files."""

    def read(self, key: str, start: int | None = None, stop: int | None = None) -> ReadResult:
        """One document, or the span `[start:stop]` of its bytes as of a sequence.

        A negative start counts from the end. None where it is absent, a fault where it is
        unreadable or absurdly large. Safe to call from several threads.
        """
        ...

    def fetch(
        self, key: str, room: Room, start: int | None = None, stop: int | None = None
    ) -> FetchResult:
        """One object's bytes, or a span of them as `read` has it, for chunks.

        Args:
            key: of the object.
            room: asked for a buffer of the object's size before anything is read, where the size
                is known before. The bytes are in that buffer, or in one of the storage's own.
            start: first byte; negative from the end.
            stop: byte after the last.

        Raises:
            Exception: whatever `room` raises.
        """
        ...

    def grab(self, key: str, grabs: Sequence[Grab]) -> int | None:
        """Parts of one object into ready buffers, for small chunks: nothing is asked or checked.

        What has the bytes at hand does it in as few steps as can be. The caller judges what came:
        by `fetch` it learns what is wrong with an object.

        Returns:
            Bytes read in all, fewer than there is room for where the object ends before (a
            directory or device may give any); None where the storage cannot, or has no such object.
        """
        ...

    def read_many(self, keys: Sequence[str]) -> list[ReadResult]:
        """Documents in order: None where absent, a fault where unreadable or absurdly large."""
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

    def sizes_and_times(self, keys: Sequence[str]) -> list[tuple[int, int] | None] | None:
        """Bytes and modification time in ns of objects that are not read; None if unknown.

        None for an object that is absent. What is there but cannot be looked at has -1 bytes, and
        the number of its error as a time: reading it says more.
        """
        ...

    def absent_seen(self) -> AbstractContextManager[set[str]]:
        """A set of the keys that chunks are looked for at meanwhile, and that are absent."""
        ...

    def zarr_store(self) -> ZarrStore:
        """The same place as a zarr-python store; holds nothing that needs closing."""
        ...


def read_document(
    storage: Storage, key: str, start: int | None = None, stop: int | None = None
) -> ReadResult:
    """One document or a span of it, by `fetch`; a fault where it is absurdly large."""
    try:
        found = storage.fetch(key, document_room, start, stop)
    except DocumentTooLargeError as error:
        return StorageFault(str(error))
    return bytes(found) if isinstance(found, memoryview) else found
