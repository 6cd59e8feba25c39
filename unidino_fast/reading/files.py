"""Where chunks stand in files, as `decoders.fetch` takes it.

Letters: N chunks of one field.
"""

from __future__ import annotations

import os
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from unidino_fast.reading.shards import spans_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from unidino_fast.reading.shards import Index


class FileParts(NamedTuple):
    """Paths, each closed by a zero, and the part (N, 3) of a file that each chunk is."""

    paths: bytes
    parts: NDArray[np.int64]


class ChunkFiles:
    """Where chunks stand in files, but for where their arrays lie: worked out once.

    Args:
        ends: behind that, of the path of the file that each chunk stands in.
        inner: the number of each in the index of its shard; None: each is a file.
        most: bytes that a chunk may have.
    """

    def __init__(self, ends: Sequence[str], inner: Sequence[int] | None, most: int) -> None:
        names = list(dict.fromkeys(ends))
        self._ends = [(end, _path(end)) for end in names]
        begins = list(accumulate((len(name) + 1 for _, name in self._ends), initial=0))
        numbers = dict(zip(names, range(len(names)), strict=True))
        self._file_of = np.array([numbers[end] for end in ends], np.int64)
        self._parts = np.zeros((len(ends), 3), np.int64)
        self._parts[:, 0] = np.array(begins)[self._file_of]
        self._parts[:, 2] = -(most + 1)
        self._most = most
        self._inner: list[tuple[str, NDArray[np.int64], NDArray[np.int64]]] = []
        if inner is not None:
            of_file = np.argsort(self._file_of, kind="stable")
            ends_of = np.cumsum(np.bincount(self._file_of))[:-1]
            places = np.array(inner, np.int64)
            for end, own in zip(names, np.split(of_file, ends_of), strict=True):
                self._inner.append((end, own, places[own]))

    def of(self, start: str, index: Callable[[str], Index | None]) -> FileParts:
        """Those of an array.

        Args:
            start: what the paths of its files begin with.
            index: of a shard, by the end of its path; None where the shard is absent, and with it
                its chunks, which have no bytes then.

        Raises:
            ValueError: no file has such a name.
        """
        name = _path(start)
        parts = self._parts.copy()
        parts[:, 0] += len(name) * self._file_of
        for end, own, places in self._inner:
            table = index(end)
            parts[own, 1:] = 0 if table is None else spans_of(table, places, self._most)
        return FileParts(b"".join([b"%b%b\0" % (name, end) for _, end in self._ends]), parts)


def _path(path: str) -> bytes:
    name = os.fsencode(path)
    if b"\0" in name:
        raise ValueError("a zero ends the name of a file")
    return name
