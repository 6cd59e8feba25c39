"""Fetches and decodes chunks.

Letters: a chunk as a block is (T, C, Z, Y, X), whatever axes the image has.
"""

from __future__ import annotations

from operator import floordiv, itemgetter, mod
from typing import TYPE_CHECKING, Any

import numpy as np

from unidino_fast.reading.codecs import checked
from unidino_fast.reading.faults import chunk_error
from unidino_fast.reading.plan import AXES, chunk
from unidino_fast.reading.shards import Indices, parse_index, span_of
from unidino_fast.storage import StorageFault

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from unidino_fast.plate_model import Field
    from unidino_fast.reading.buffers import Scratch
    from unidino_fast.reading.codecs import Bytes
    from unidino_fast.reading.formats import ArrayFormat, ShardFormat
    from unidino_fast.reading.shards import Index
    from unidino_fast.storage import Storage

    Pixels = NDArray[Any]

EMPTY = "it is empty: its writing was interrupted"


class ChunkReader:
    """Reads the chunks of one array; safe to use from several threads, each with its scratch.

    Args:
        storage: where the array lies.
        field: one of the array's fields.
        form: how the array is stored.
        indices: of the shards in use.
    """

    def __init__(self, storage: Storage, field: Field, form: ArrayFormat, indices: Indices) -> None:
        self._storage = storage
        self._form = form
        self._indices = indices
        self._prefix = f"{field.array_path}/{form.prefix}"
        self._own = itemgetter(*(AXES.index(axis) for axis in field.axes))
        self._to_block = [field.axes.index(axis) for axis in AXES if axis in field.axes]
        self._is_plain = form.order == "C" and self._to_block == sorted(self._to_block)
        self.block_shape = tuple(chunk(field, axis) for axis in AXES)
        self._absent = np.broadcast_to(form.fill, self.block_shape)
        self._is_raw = form.encoding.decompress is None and not form.encoding.has_crc
        self._most = form.encoding.most
        self._index_bytes = 0 if form.shard is None else form.shard.n_bytes
        self.n_bytes = form.encoding.n_bytes
        """Of a decoded chunk."""

    @property
    def fits_planes(self) -> bool:
        """Whether a chunk's bytes, decoded, are native planes (C, Y, X) in their order."""
        n_times, _, depth, _, _ = self.block_shape
        return self._form.dtype.isnative and self._form.order == "C" and n_times == depth == 1

    def block(self, index: tuple[int, ...], scratch: Scratch) -> Pixels:
        """The pixels (T, C, Z, Y, X) of a chunk, the fill value where it is absent.

        Args:
            index: in the grid of chunks, as (t, c, z, y, x).
            scratch: whose buffer `pixels` holds the block.

        Raises:
            PixelError: it cannot be read or decoded (names it).
        """
        form = self._form
        out = scratch.bytes("pixels", self.n_bytes)
        if not self._filled(index, out, scratch):
            return self._absent
        if self._is_plain:
            return out.view(form.dtype).reshape(self.block_shape)
        return form.pixels(out).transpose(self._to_block).reshape(self.block_shape)

    def put(self, index: tuple[int, ...], scratch: Scratch, out: Bytes) -> None:
        """As `block`, where `fits_planes`, into memory of `n_bytes` for the pixels (C, Y, X)."""
        if not self._filled(index, out, scratch):
            out.view(self._form.dtype)[...] = self._form.fill

    def _filled(self, index: tuple[int, ...], out: Bytes, scratch: Scratch) -> bool:
        """Fills `out` with a decoded chunk; False where the chunk is absent."""
        own = self._own(index)
        form = self._form
        shard = form.shard
        stored = own if shard is None else map(floordiv, own, shard.grid)
        key = self._prefix + form.separator.join(map(str, stored))
        try:
            if shard is None:
                return self._decode(key, None, None, out, scratch)
            return self._decode_inner(key, own, shard, out, scratch)
        except MemoryError:
            raise
        except Exception as error:  # codecs raise whatever they like
            raise chunk_error(key, error) from error

    def _decode_inner(
        self, key: str, own: tuple[int, ...], shard: ShardFormat, out: Bytes, scratch: Scratch
    ) -> bool:
        """As `_decode`, of a chunk in a shard."""
        table = self._indices.get(key, lambda: self._index(key, shard), self._index_bytes)
        if table is None:
            return False
        inner = tuple(map(mod, own, shard.grid))
        span = span_of(table, inner, self._most)
        return span is not None and self._decode(key, *span, out, scratch)

    def _decode(
        self, key: str, start: int | None, stop: int | None, out: Bytes, scratch: Scratch
    ) -> bool:
        """Fills `out` with a decoded chunk; False where the chunk is absent."""
        encoding = self._form.encoding
        target = out.data

        def room(n_bytes: int) -> memoryview:
            if n_bytes > self._most:
                raise ValueError(f"its {n_bytes} bytes are too many for {out.size} of pixels")
            if self._is_raw and n_bytes == out.size:
                return target
            return scratch.bytes("stored", n_bytes).data

        found = self._storage.fetch(key, room, start, stop)
        if found is None:
            return False
        if isinstance(found, StorageFault):
            raise found.error()
        if len(found) == 0:
            raise ValueError(EMPTY)
        if start is not None and stop is not None and len(found) != stop - start:
            raise ValueError(f"it ends before byte {stop}: it is truncated")
        if encoding.has_crc:
            found = checked(found)
        if encoding.decompress is not None:
            encoding.decompress(found, out)
        elif len(found) != out.size:
            raise ValueError(f"it holds {len(found)} bytes of pixels, not {out.size}")
        elif found.obj is not target.obj:
            out[:] = np.frombuffer(found, np.uint8)
        return True

    def _index(self, key: str, shard: ShardFormat) -> Index | None:
        """The index of a shard; None where the shard is absent."""
        start, stop = (-shard.n_bytes, None) if shard.at_end else (0, shard.n_bytes)
        found = self._storage.fetch(key, lambda n: memoryview(bytearray(n)), start, stop)
        if isinstance(found, StorageFault):
            raise found.error()
        if found is not None and len(found) == 0:
            raise ValueError(EMPTY)
        return None if found is None else parse_index(found, shard)
