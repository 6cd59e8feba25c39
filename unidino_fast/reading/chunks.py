"""Fetches and decodes chunks.

Letters: a chunk as a block is (T, C, Z, Y, X), whatever axes the image has.
"""

from __future__ import annotations

from operator import floordiv, itemgetter, mod
from typing import TYPE_CHECKING, Any

import numpy as np

from unidino_fast.reading.codecs import checked
from unidino_fast.reading.faults import chunk_error, refuse_page
from unidino_fast.reading.plan import AXES, chunk
from unidino_fast.reading.shards import Indices, cut, grabs, is_meant, parse_index, span_of
from unidino_fast.storage import StorageFault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from unidino_fast.plate_model import Field
    from unidino_fast.reading.buffers import Scratch
    from unidino_fast.reading.codecs import Bytes
    from unidino_fast.reading.formats import ArrayFormat, ShardFormat
    from unidino_fast.reading.shards import Index
    from unidino_fast.storage import Storage

    Pixels = NDArray[Any]
    Decode = Callable[[memoryview, Any], None]
    """Takes the stored bytes of a chunk, and what it is decoded to."""

EMPTY = "it is empty: its writing was interrupted"
_BEYOND = memoryview(bytearray(1))
"""Takes a byte that should not be there; nobody looks at it."""


class ChunkReader:
    """Reads the chunks of arrays that are alike; for several threads, each with its scratch.

    Its methods take the path of the array in the storage first.

    Args:
        storage: where the arrays lie.
        field: of one of them.
        form: how they are stored.
        indices: of the shards in use.
    """

    def __init__(self, storage: Storage, field: Field, form: ArrayFormat, indices: Indices) -> None:
        self._storage = storage
        self._form = form
        self._indices = indices
        self._prefix = f"/{form.prefix}"
        self._own = itemgetter(*(AXES.index(axis) for axis in field.axes))
        self._to_block = [field.axes.index(axis) for axis in AXES if axis in field.axes]
        self._is_plain = form.order == "C" and self._to_block == sorted(self._to_block)
        self.block_shape = tuple(chunk(field, axis) for axis in AXES)
        self._absent = np.broadcast_to(form.fill, self.block_shape)
        encoding = form.encoding
        self._is_raw = encoding.decompress is None and not encoding.has_crc
        self._decode_all = None if encoding.has_crc else encoding.decompress
        self._most = form.encoding.most
        self._index_bytes = 0 if form.shard is None else form.shard.n_bytes
        self.n_bytes = form.encoding.n_bytes
        """Of a decoded chunk."""

    @property
    def fits_planes(self) -> bool:
        """Whether a chunk's bytes, decoded, are native planes (C, Y, X) in their order."""
        n_times, _, depth, _, _ = self.block_shape
        return self._form.dtype.isnative and self._form.order == "C" and n_times == depth == 1

    def block(self, array: str, index: tuple[int, ...], scratch: Scratch) -> Pixels:
        """The pixels (T, C, Z, Y, X) of a chunk, the fill value where it is absent.

        Args:
            array: where it lies.
            index: in the grid of chunks, as (t, c, z, y, x).
            scratch: whose buffer `pixels` holds the block.

        Raises:
            PixelError: it cannot be read or decoded (names it).
        """
        form = self._form
        out = scratch.bytes("pixels", self.n_bytes)
        if self._missed(array, self._own(index), (out,), scratch) and not self._filled(
            array, self._own(index), out, scratch
        ):
            return self._absent
        if self._is_plain:
            return out.view(form.dtype).reshape(self.block_shape)
        return form.pixels(out).transpose(self._to_block).reshape(self.block_shape)

    def put(
        self, array: str, first: tuple[int, ...], scratch: Scratch, outs: Sequence[Bytes]
    ) -> None:
        """As `block`, where `fits_planes`, for chunks side by side along x from `first` on.

        Args:
            array: where they lie.
            first: index of the first.
            scratch: of this thread.
            outs: `n_bytes` for the pixels (C, Y, X) of each.
        """
        own = self._own(first)
        for number in self._missed(array, own, outs, scratch):
            if not self._filled(array, along(own, number), outs[number], scratch):
                outs[number].view(self._form.dtype)[...] = self._form.fill

    def _missed(
        self,
        array: str,
        own: tuple[int, ...],
        outs: Sequence[Any],
        scratch: Scratch,
        decode: Decode | None = None,
    ) -> list[int]:
        """Decodes the sound ones of some chunks, each to one of `outs`; which of them are not."""
        shard = self._form.shard
        if shard is not None:
            return self._missed_in_shards(array, own, shard, outs, scratch, decode)
        start = self._key(array, (*own[:-1], ""))
        keys = [f"{start}{number}" for number in range(own[-1], own[-1] + len(outs))]
        return self._missed_of(keys, outs, scratch, decode)

    def _missed_in_shards(
        self,
        array: str,
        own: tuple[int, ...],
        shard: ShardFormat,
        outs: Sequence[Any],
        scratch: Scratch,
        decode: Decode | None,
    ) -> list[int]:
        """As `_missed`, for chunks of shards."""
        missed: list[int] = []
        start = 0
        for first, number in shard.rows(own, len(outs)):
            part = outs[start : start + number]
            if not self._grab_inner(array, first, shard, part, scratch, decode):
                missed += range(start, start + number)
            start += number
        return missed

    def _key(self, array: str, stored: Iterable[int | str]) -> str:
        """Of an object, by its place in the grid of objects."""
        return array + self._prefix + self._form.separator.join(map(str, stored))

    def _filled(
        self,
        array: str,
        own: tuple[int, ...],
        out: Any,
        scratch: Scratch,
        decode: Decode | None = None,
    ) -> bool:
        """Decodes a chunk to `out`, or says what is wrong; False where it is absent."""
        shard = self._form.shard
        key = self._key(array, own if shard is None else map(floordiv, own, shard.grid))
        try:
            if shard is not None:
                return self._decode_inner(key, own, shard, out, scratch, decode)
            return self._decode(key, None, None, out, scratch, decode)
        except MemoryError:
            raise
        except Exception as error:  # codecs raise whatever they like
            raise chunk_error(key, error) from error

    def _missed_of(
        self,
        keys: Sequence[str],
        outs: Sequence[Any],
        scratch: Scratch,
        decode: Decode | None,
    ) -> list[int]:
        """Fills each of `outs` from an object that is a chunk, in the fewest steps, if it is sound.

        A chunk that is cut short, if only while it is read, is no sound one in any encoding.

        Returns:
            Which are not filled. For small chunks this loop is what reading costs in Python, and
            what other threads wait for: it calls no more than it must.
        """
        grab, most = self._storage.grab, self._most
        is_direct = self._is_raw and decode is None
        decode = decode or self._decode_all or self._unpack
        missed = []
        if is_direct:
            for number, (key, out) in enumerate(zip(keys, outs, strict=True)):
                if grab(key, ((0, (out.data, _BEYOND)),)) != out.size:
                    missed.append(number)
            return missed
        buffer = scratch.view("stored", most + 1)
        all_of_it = ((0, (buffer,)),)
        for number, (key, out) in enumerate(zip(keys, outs, strict=True)):
            n_bytes = grab(key, all_of_it) or 0
            try:
                if 0 < n_bytes <= most:
                    decode(buffer[:n_bytes], out)
                    continue
            except MemoryError:
                raise
            except Exception:  # fetched once more, the chunk says why
                pass
            missed.append(number)
        return missed

    def _grab_inner(
        self,
        array: str,
        own: tuple[int, ...],
        shard: ShardFormat,
        outs: Sequence[Any],
        scratch: Scratch,
        decode: Decode | None,
    ) -> bool:
        """Fills all of `outs` from chunks of one row of a shard, likewise, if all are sound."""
        key = self._key(array, map(floordiv, own, shard.grid))
        inner = tuple(map(mod, own, shard.grid))
        table = self._table_of(key, shard)
        if table is None:
            return False
        row = table[(*inner[:-1], slice(inner[-1], inner[-1] + len(outs)))].tolist()
        n_bytes = sum(length for _, length in row)
        if not all(is_meant(offset, length, self._most) for offset, length in row):
            return False
        is_direct = self._is_raw and decode is None
        if is_direct:
            if any(length != out.size for (_, length), out in zip(row, outs, strict=True)):
                return False
            views = [out.data for out in outs]
        else:
            views = cut(scratch.bytes("stored", n_bytes).data, [length for _, length in row])
        if self._storage.grab(key, grabs([offset for offset, _ in row], views)) != n_bytes:
            return False
        if not is_direct:
            decode = decode or self._decode_all or self._unpack
            try:
                for view, out in zip(views, outs, strict=True):
                    decode(view, out)
            except MemoryError:
                raise
            except Exception:
                return False  # fetched once more, the chunk says why
        return True

    def _decode_inner(
        self,
        key: str,
        own: tuple[int, ...],
        shard: ShardFormat,
        out: Any,
        scratch: Scratch,
        decode: Decode | None,
    ) -> bool:
        """As `_decode`, of a chunk in a shard."""
        table = self._table(key, shard)
        if table is None:
            return False
        inner = tuple(map(mod, own, shard.grid))
        span = span_of(table, inner, self._most)
        return span is not None and self._decode(key, *span, out, scratch, decode)

    def _decode(
        self,
        key: str,
        start: int | None,
        stop: int | None,
        out: Any,
        scratch: Scratch,
        decode: Decode | None,
    ) -> bool:
        """Decodes a chunk to `out`; False where the chunk is absent."""

        def room(n_bytes: int) -> memoryview:
            if n_bytes > self._most:
                raise ValueError(f"its {n_bytes} bytes are too many for {self.n_bytes} of pixels")
            if self._is_raw and decode is None and n_bytes == self.n_bytes:
                return memoryview(out)
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
        try:
            (decode or self._unpack)(found, out)
        except Exception:  # codecs raise whatever they like
            refuse_page(found, is_remote=self._storage.is_remote)
            raise
        return True

    def _unpack(self, found: memoryview, out: Bytes) -> None:
        """Decodes the stored bytes of a chunk."""
        encoding = self._form.encoding
        if encoding.has_crc:
            found = checked(found)
        if encoding.decompress is not None:
            encoding.decompress(found, out)
        elif len(found) != out.size:
            raise ValueError(f"it holds {len(found)} bytes of pixels, not {out.size}")
        elif found.obj is not out.data.obj:
            out[:] = np.frombuffer(found, np.uint8)

    def _table_of(self, key: str, shard: ShardFormat) -> Index | None:
        """As `_table`, whose fault is that of the chunk."""
        try:
            return self._table(key, shard)
        except MemoryError:
            raise
        except Exception as error:
            raise chunk_error(key, error) from error

    def _table(self, key: str, shard: ShardFormat) -> Index | None:
        """The index of a shard, fetched where it is not at hand."""
        return self._indices.get(key, lambda: self._index(key, shard), self._index_bytes)

    def _index(self, key: str, shard: ShardFormat) -> Index | None:
        """The index of a shard; None where the shard is absent."""
        start, stop = (-shard.n_bytes, None) if shard.at_end else (0, shard.n_bytes)
        found = self._storage.fetch(key, lambda n: memoryview(bytearray(n)), start, stop)
        if isinstance(found, StorageFault):
            raise found.error()
        if found is None:
            return None
        if len(found) == 0:
            raise ValueError(EMPTY)
        try:
            return parse_index(found, shard)
        except ValueError:
            refuse_page(found, is_remote=self._storage.is_remote)
            raise


def along(own: tuple[int, ...], number: int) -> tuple[int, ...]:
    """So many chunks further along the last axis."""
    return (*own[:-1], own[-1] + number)
