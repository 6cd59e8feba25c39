"""What every storage is: the protocol, and what a read gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zarr.abc.store import Store as ZarrStore


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
    """A read-only tree of objects addressed by keys with forward slashes."""

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
