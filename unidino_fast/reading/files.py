"""Where chunks stand in files, as `decoders.fetch` takes it.

Letters: N chunks of one field.
"""

from __future__ import annotations

import os
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from unidino_fast.reading.shards import is_meant

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from unidino_fast.reading.shards import Index


class FileParts(NamedTuple):
    """Paths, each closed by a zero, and the part (N, 3) of a file that each chunk is."""

    paths: bytes
    parts: NDArray[np.int64]


class WholeFiles:
    """Chunks that are files, but for where their arrays lie.

    Args:
        ends: of their paths, behind that.
        most: bytes that each may have.
    """

    def __init__(self, ends: Sequence[str], most: int) -> None:
        self._ends = [_path(end) for end in ends]
        self._parts = np.zeros((len(ends), 3), np.int64)
        self._parts[:, 0] = list(accumulate((len(end) + 1 for end in self._ends[:-1]), initial=0))
        self._parts[:, 2] = -(most + 1)
        self._numbers = np.arange(len(ends))

    def of(self, start: str) -> FileParts:
        """Those whose paths begin so.

        Raises:
            ValueError: no file has such a name.
        """
        name = _path(start)
        parts = self._parts.copy()
        parts[:, 0] += len(name) * self._numbers
        return FileParts(name + (b"\0" + name).join(self._ends) + b"\0", parts)


class ShardRow(NamedTuple):
    """Chunks of a shard.

    Attributes:
        path: of the shard.
        table: its index; None where the shard is absent.
        row: which of them, in the table.
        n_chunks: how many.
    """

    path: str
    table: Index | None
    row: tuple[int | slice, ...]
    n_chunks: int


def parts_of_shards(rows: Iterable[ShardRow], most: int) -> FileParts:
    """Chunks of at most so many bytes in shards; an absent one has none.

    Raises:
        ValueError: no file has such a name.
    """
    paths = b""
    found: list[tuple[int, int, int]] = []
    for path, table, row, n_chunks in rows:
        begin = len(paths)
        paths += _path(path) + b"\0"
        if table is None:
            found += [(begin, 0, 0)] * n_chunks
            continue
        for offset, length in table[row].tolist():
            is_there = is_meant(offset, length, most)
            found.append((begin, offset, length) if is_there else (begin, 0, 0))
    return FileParts(paths, np.array(found, np.int64))


def _path(path: str) -> bytes:
    name = os.fsencode(path)
    if b"\0" in name:
        raise ValueError("a zero ends the name of a file")
    return name
