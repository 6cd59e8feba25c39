"""Storages as zarr-python stores, in which an empty object is an error.

zarr takes an empty shard, which an interrupted write leaves, for an absent one, and gives fill
values. Its own stores for zips and fsspec keep a second zip handle or network session, which they
never close: here pixels go the way of the metadata.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.storage import LocalStore

from unidino_fast.storage.base import StorageFault
from unidino_fast.storage.local import BROKEN_LINK, has_broken_link

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

    from unidino_fast.storage.base import Storage


_EMPTY = "it is empty: its writing was interrupted"


class FolderStore(LocalStore):
    """A folder; read-only.

    Raises:
        OSError: on reading an object that is empty, or behind a link that leads to nothing.
    """

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Bytes of an object; None where it is absent."""
        place = self.root / key
        if place.exists() and not (place.is_file() or place.is_dir()):
            raise OSError("it is a device, pipe or socket, not a file")
        found = await super().get(key, prototype, byte_range)
        if found is None and has_broken_link(self.root, key):
            raise OSError(BROKEN_LINK)
        if found is not None and len(found) == 0:
            raise OSError(_EMPTY)
        return found


class StorageStore(Store):
    """Read-only; lists only where the storage can.

    Args:
        storage: where the objects lie.
        most: bytes of an object that can be meant.

    Raises:
        OSError: on reading an object that is empty or too large, or there but unreadable.
    """

    supports_writes = False
    supports_deletes = False
    supports_listing = True

    def __init__(self, storage: Storage, *, most: int = 2**62) -> None:
        super().__init__(read_only=True)
        self._storage = storage
        self._most = most

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StorageStore) and self._storage is other._storage

    def __hash__(self) -> int:
        return id(self._storage)

    def __str__(self) -> str:
        return self._storage.location

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Bytes of an object, read in a thread; None where it is absent."""
        found = await asyncio.to_thread(self._storage.fetch, key, self._room, *_span(byte_range))
        if isinstance(found, StorageFault):
            raise found.error()
        if found is None:
            return None
        if len(found) == 0:
            raise OSError(_EMPTY)
        return prototype.buffer.from_bytes(found)

    def _room(self, n_bytes: int) -> memoryview:
        if n_bytes > self._most:
            raise OSError(f"its {n_bytes} bytes are too many")
        return memoryview(bytearray(n_bytes))

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Spans of objects."""
        reads = [self.get(key, prototype, byte_range) for key, byte_range in key_ranges]
        return await asyncio.gather(*reads)

    async def exists(self, key: str) -> bool:
        """Whether an object can be read."""
        found = await asyncio.to_thread(self._storage.fetch, key, self._room, 0, 1)
        return isinstance(found, memoryview)

    async def set(self, key: str, value: Buffer) -> None:
        """Refused."""
        raise PermissionError(f"{self} is read-only")

    async def delete(self, key: str) -> None:
        """Refused."""
        raise PermissionError(f"{self} is read-only")

    async def list(self) -> AsyncIterator[str]:
        """Every key."""
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Every key under a prefix."""
        for key, *_ in self._storage.stamps(prefix.rstrip("/")) or ():
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names directly under a prefix; none where the storage cannot list."""
        stem = f"{prefix.rstrip('/')}/" if prefix else ""
        for name in sorted({k[len(stem) :].split("/")[0] async for k in self.list_prefix(prefix)}):
            yield name


def _span(byte_range: ByteRequest | None) -> tuple[int | None, int | None]:
    if isinstance(byte_range, RangeByteRequest):
        return byte_range.start, byte_range.end
    if isinstance(byte_range, OffsetByteRequest):
        return byte_range.offset, None
    if isinstance(byte_range, SuffixByteRequest):
        return -byte_range.suffix, None
    return None, None
