"""Chunks that are read to where their pixels belong, all those of a lot in one step."""

from __future__ import annotations

from operator import floordiv, mod
from typing import TYPE_CHECKING, Any

from unidino_fast.reading.chunks import ChunkReader, along
from unidino_fast.reading.files import ShardRow, WholeFiles, parts_of_shards
from unidino_fast.reading.placing import Windows, is_placed, placing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from unidino_fast.plate_model import Field
    from unidino_fast.reading.buffers import Scratch
    from unidino_fast.reading.chunks import Decode
    from unidino_fast.reading.formats import ArrayFormat
    from unidino_fast.reading.lots import Chunks, Rows
    from unidino_fast.reading.placing import Placer
    from unidino_fast.reading.shards import Indices
    from unidino_fast.storage import Storage

    Pixels = NDArray[Any]


class PlacedReader(ChunkReader):
    """A `ChunkReader` that puts chunks into place where it can."""

    def __init__(self, storage: Storage, field: Field, form: ArrayFormat, indices: Indices) -> None:
        super().__init__(storage, field, form, indices)
        self.is_placed = self.fits_planes and is_placed(form)
        """Whether `place` may do something."""

    def files(self, rows: Rows) -> WholeFiles | None:
        """The files that the chunks of some rows are; None where they are none."""
        if self._form.shard is not None or self._storage.files is None:
            return None
        keys = [
            self._key("", along(self._own(first), number))
            for first, n_chunks in rows
            for number in range(n_chunks)
        ]
        return WholeFiles(keys, self._most)

    def place(
        self, array: str, chunks: Chunks, planes: Pixels, scratch: Scratch, *, sums: bool
    ) -> list[int] | None:
        """As `put`, where `is_placed`, to where they belong.

        Args:
            array: where they lie.
            chunks: which ones.
            planes: (C, Y, X) of the field.
            scratch: of this thread.
            sums: whether checksums are asked for.

        Returns:
            The checksum of each plane, 0 where it is not known, or of none; None: no way yet.
        """
        form, width = self._form, self.block_shape[-1]
        sums = sums and chunks.are_planes
        windows = Windows(planes.reshape(-1), chunks.pitch, chunks.windows, sums)
        placer = placing(form.encoding, windows, width, scratch)
        if placer is None:
            return None

        def decode(found: memoryview, number: int) -> None:
            if not (self.is_placed and placer.put(found, number)):
                out = scratch.bytes("pixels", self.n_bytes)
                self._unpack(found, out)  # says so where it is damaged
                windows.fill(number, out.view(form.dtype).reshape(-1, width))
                self.is_placed = False  # as it is, so are the others

        if self._storage.files is None:
            missed = self._missed_of_rows(array, chunks.rows, scratch, decode)
        else:
            missed = self._missed_in_files(array, chunks, placer)
        if missed:
            places = [
                along(self._own(first), number)
                for first, n_chunks in chunks.rows
                for number in range(n_chunks)
            ]
            for number in missed:
                if not self._filled(array, places[number], number, scratch, decode):
                    windows.fill(number, form.fill)
        return placer.checksums.tolist() if sums else []

    def _missed_in_files(self, array: str, chunks: Chunks, placer: Placer) -> list[int]:
        """Places the sound ones of some chunks in one step; which of them are not."""
        try:
            if chunks.files is not None:
                parts = chunks.files.of(f"{self._storage.files}{array}")
            else:
                parts = parts_of_shards(self._shard_rows(array, chunks.rows), self._most)
        except ValueError:  # no file has such a name
            return list(range(len(chunks.windows)))
        return placer.fetch(parts)

    def _shard_rows(self, array: str, rows: Rows) -> Iterator[ShardRow]:
        """Chunks of rows, shard by shard."""
        shard = self._form.shard
        if shard is None:
            return
        for first, n_chunks in rows:
            for begin, number in shard.rows(self._own(first), n_chunks):
                key = self._key(array, map(floordiv, begin, shard.grid))
                inner = tuple(map(mod, begin, shard.grid))
                row = (*inner[:-1], slice(inner[-1], inner[-1] + number))
                path = f"{self._storage.files}{key}"
                yield ShardRow(path, self._table_of(key, shard), row, number)

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
