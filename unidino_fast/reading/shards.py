"""Where a shard's chunks stand: its index, fetched once while the shard is in use."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from unidino_fast.reading.codecs import checked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from unidino_fast.reading.formats import ShardFormat
    from unidino_fast.storage import Grab

    Index = NDArray[np.uint64]

_ABSENT = 2**64 - 1
_FARTHEST = 2**62
"""Bytes that a file has in front of a chunk at most."""
_INDEX_BYTES = 2**26
"""Of indices that are kept."""
_MOST_VIEWS = 256
"""That a system fills in one step; Linux takes 1,024."""


class Span(NamedTuple):
    """Bytes `[start:stop]` of a shard."""

    start: int
    stop: int


def parse_index(found: memoryview, shard: ShardFormat) -> Index:
    """Offset and length of each chunk, (*grid, 2), of an index as stored.

    Raises:
        ValueError: it is truncated or damaged.
    """
    if len(found) != shard.n_bytes:
        raise ValueError(f"{len(found)} bytes are less than the index of its chunks")
    content = checked(found) if shard.has_crc else found
    return np.frombuffer(content, f"{shard.byte_order}u8").reshape(*shard.grid, 2)


def span_of(index: Index, inner: tuple[int, ...], most: int) -> Span | None:
    """Where a chunk stands; None where it is absent.

    Raises:
        ValueError: the place or the size cannot be meant.
    """
    offset, length = index[inner].tolist()
    if offset == length == _ABSENT:
        return None
    if not is_meant(offset, length, most):
        raise ValueError(f"its index claims {length} bytes at {offset} for chunk {inner}")
    return Span(offset, offset + length)


def spans_of(index: Index, places: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Offset and length (N, 2) of chunks at these places in an index, one row behind another.

    Zeros where a chunk is absent, or `is_meant` says no.
    """
    found = index.reshape(-1, 2)[places]
    offset, length = found[:, 0], found[:, 1]
    are_meant = (length > 0) & (length <= most) & (offset < _FARTHEST)
    return np.where(are_meant[:, None], found, np.uint64(0)).astype(np.int64)


def is_meant(offset: int, length: int, most: int) -> bool:
    """Whether a chunk of at most so many bytes can stand there."""
    return 0 < length <= most and offset < _FARTHEST


def cut(buffer: memoryview, lengths: Sequence[int]) -> list[memoryview]:
    """Parts of a buffer, one after another."""
    found, start = [], 0
    for length in lengths:
        found.append(buffer[start : start + length])
        start += length
    return found


def grabs(offsets: Sequence[int], views: Sequence[memoryview]) -> list[Grab]:
    """What to read for each view; what stands side by side is read in one step."""
    found: list[tuple[int, list[memoryview]]] = []
    end = -1
    for offset, view in zip(offsets, views, strict=True):
        if offset == end and len(found[-1][1]) < _MOST_VIEWS:
            found[-1][1].append(view)
        else:
            found.append((offset, [view]))
        end = offset + len(view)
    return list(found)


class Indices:
    """Indices of the shards in use, each fetched once; for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: OrderedDict[str, _Once] = OrderedDict()

    def get(self, key: str, fetch: Callable[[], Index | None], n_bytes: int) -> Index | None:
        """The index of a shard of which others of `n_bytes` are kept; None where it is absent."""
        with self._lock:
            once = self._held.get(key)
            if once is None:
                once = self._held[key] = _Once()
                if len(self._held) > max(64, _INDEX_BYTES // n_bytes):
                    self._held.popitem(last=False)
            else:
                self._held.move_to_end(key)
        return once.get(fetch)


class _Once:
    """A value, or the error in its place, found by whoever comes first; the others wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_found = False
        self._value: Index | None = None

    def get(self, fetch: Callable[[], Index | None]) -> Index | None:
        if self._is_found:  # set last, and for good
            return self._value
        with self._lock:
            if not self._is_found:
                self._value = fetch()  # an error is found again by the next
                self._is_found = True
            return self._value
