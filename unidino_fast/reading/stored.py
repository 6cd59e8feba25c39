"""How much of a plate is stored: as it is listed, or as reading finds it."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, NamedTuple

from unidino_fast.names import natural_key

if TYPE_CHECKING:
    from collections.abc import Collection

    from unidino_fast.ngff import ArrayFacts
    from unidino_fast.plate_model import Plate

_CHUNK_KEY = re.compile(r"(c[/.])?[0-9]+([/.][0-9]+)*")


class Stored(NamedTuple):
    """How much of a plate is there; None is what the storage cannot tell.

    Attributes:
        n_bytes: on disk.
        n_absent: chunks (or shards) that are not there, of `n_chunks`.
        lacking: path of the first array that lacks any, or None.
    """

    n_bytes: int | None
    n_absent: int | None
    n_chunks: int
    lacking: str | None = None


class Absent(NamedTuple):
    """Chunks (or shards) that were looked for and are absent: how many, and the first key."""

    n: int = 0
    first: str | None = None

    @classmethod
    def of(cls, keys: Collection[str]) -> Absent:
        """What `Storage.absent_seen` has filled its set with."""
        return cls(len(keys), min(keys, default=None, key=natural_key))

    def with_those(self, other: Absent) -> Absent:
        """Both together."""
        firsts = [first for first in (self.first, other.first) if first is not None]
        return Absent(self.n + other.n, min(firsts, default=None, key=natural_key))


def stored_chunks(plate: Plate) -> Stored:
    """How much of a plate is there, as it is listed."""
    due = {field.array_path: _n_chunks(field.array) for field in plate.fields}
    n_chunks = sum(due.values())
    n_bytes, n_absent = 0, 0
    lacking = None
    for path, n_due in due.items():
        stamps = plate.storage.stamps(path)
        if stamps is None:
            return Stored(None, None, n_chunks)
        sizes = [size for key, size, _ in stamps if _CHUNK_KEY.fullmatch(key, len(path) + 1)]
        n_bytes += sum(sizes)
        if len(sizes) < n_due:
            n_absent += n_due - len(sizes)
            lacking = lacking or path
    return Stored(n_bytes, n_absent, n_chunks, lacking)


def _n_chunks(array: ArrayFacts) -> int:
    """Files of a whole array: its chunks, or shards."""
    grid = array.shards or array.chunks
    return math.prod(-(-length // size) for length, size in zip(array.shape, grid, strict=True))
