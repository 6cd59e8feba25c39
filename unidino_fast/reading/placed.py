"""Chunks that are read to where their pixels belong, all those of a lot in one step."""

from __future__ import annotations

from operator import floordiv, mod
from typing import TYPE_CHECKING, Any

import numpy as np

from unidino_fast.reading.chunks import ChunkReader, along
from unidino_fast.reading.files import ChunkFiles
from unidino_fast.reading.placing import Windows, is_placed, placing
from unidino_fast.reading.watcher import NOTHING, Known

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from unidino_fast.plate_model import Field
    from unidino_fast.reading.buffers import Scratch
    from unidino_fast.reading.chunks import Decode
    from unidino_fast.reading.formats import ArrayFormat
    from unidino_fast.reading.lots import Chunks, Rows
    from unidino_fast.reading.placing import Placer
    from unidino_fast.reading.shards import Index, Indices
    from unidino_fast.reading.watcher import Watching
    from unidino_fast.storage import Storage

    Pixels = NDArray[Any]


class PlacedReader(ChunkReader):
    """A `ChunkReader` that puts chunks into place where it can."""

    def __init__(self, storage: Storage, field: Field, form: ArrayFormat, indices: Indices) -> None:
        super().__init__(storage, field, form, indices)
        is_direct = form.encoding.decompress is None and self.block_shape[-1] >= field.length("x")
        is_direct = is_direct and storage.files is None
        self.is_placed = self.fits_planes and is_placed(form) and not is_direct
        """Whether `place` may do something: pixels that are stored as they are, by whole rows, come
        to where they belong without it, which is a copy less where they stand in no file."""

    def files(self, rows: Rows) -> ChunkFiles | None:
        """Where the chunks of some rows stand in files; None where there are none."""
        if self._storage.files is None:
            return None
        places, shard = self._places(rows), self._form.shard
        if shard is None:
            return ChunkFiles([self._key("", place) for place in places], None, self._most)
        ends = [self._key("", map(floordiv, place, shard.grid)) for place in places]
        inner = [tuple(map(mod, place, shard.grid)) for place in places]
        numbers = [int(np.ravel_multi_index(place, shard.grid)) for place in inner]
        return ChunkFiles(ends, numbers, self._most)

    def _places(self, rows: Rows) -> list[tuple[int, ...]]:
        """Of each chunk of some rows, in the grid of chunks."""
        return [
            along(self._own(first), number)
            for first, n_chunks in rows
            for number in range(n_chunks)
        ]

    def place(
        self,
        array: str,
        chunks: Chunks,
        planes: Pixels,
        scratch: Scratch,
        *,
        watching: Watching | None,
    ) -> list[Known] | None:
        """As `put`, where `is_placed`, to where they belong.

        Args:
            array: where they lie.
            chunks: which ones.
            planes: (C, Y, X) of the field.
            scratch: of this thread.
            watching: says what is told of planes; None: not even checksums are asked for.

        Returns:
            What is known of each plane, or of none; None: no way yet.
        """
        form, width = self._form, self.block_shape[-1]
        is_told = watching is not None and chunks.are_planes
        watcher = watching(planes.shape[1:], planes.dtype) if watching and is_told else None
        windows = Windows(planes.reshape(-1), chunks.pitch, chunks.windows, is_told, watcher)
        placer = placing(form.encoding, windows, width, scratch)
        if placer is None:
            return None

        def decode(found: memoryview, number: int) -> None:
            if not (self.is_placed and placer.put(found, number)):
                out = scratch.bytes("pixels", self.n_bytes)
                self._unpack(found, out)  # says so where it is damaged
                windows.fill(number, out.view(form.dtype).reshape(-1, width))
                placer.checksums[number] = 0
                self.is_placed = False  # as it is, so are the others

        if chunks.files is None:
            missed = self._missed_of_rows(array, chunks.rows, scratch, decode)
        else:
            missed = self._missed_in_files(array, chunks.files, placer)
        if missed:
            places = self._places(chunks.rows)
            for number in missed:
                if not self._filled(array, places[number], number, scratch, decode):
                    windows.fill(number, form.fill)
                    placer.checksums[number] = 0
        if not is_told:
            return []
        found = [None] * len(placer.found) if watcher is None else placer.found
        return list(map(_known, placer.checksums.tolist(), found))

    def _missed_in_files(self, array: str, files: ChunkFiles, placer: Placer) -> list[int]:
        """Places the sound ones of some chunks in one step; which of them are not."""

        def index(end: str) -> Index | None:
            shard = self._form.shard
            return None if shard is None else self._table_of(f"{array}{end}", shard)

        try:
            parts = files.of(f"{self._storage.files}{array}", index)
        except ValueError:  # no file has such a name
            return list(range(len(placer.checksums)))
        return placer.fetch(parts)

    def _missed_of_rows(
        self, array: str, rows: Rows, scratch: Scratch, decode: Decode
    ) -> list[int]:
        """As `_missed`, of rows of chunks; each is decoded to its number."""
        missed: list[int] = []
        start = 0
        for first, n_chunks in rows:
            numbers = range(start, start + n_chunks)
            found = self._missed(array, self._own(first), numbers, scratch, decode)
            missed += [start + number for number in found]
            start += n_chunks
        return missed


def _known(checksum: int, found: NDArray[np.int64] | None) -> Known:
    if not checksum:
        return NOTHING
    return Known(checksum, None if found is None or found[0] < 0 else found)
