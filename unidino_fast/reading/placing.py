"""Chunks decoded to where their pixels belong, in one step where there is a way that does both."""

from __future__ import annotations

import threading
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from unidino_fast.compiled import Compiled
from unidino_fast.reading.codecs import blosc_into, zstd_into

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from unidino_fast.reading.buffers import Scratch
    from unidino_fast.reading.codecs import Bytes, Decompress
    from unidino_fast.reading.formats import ArrayFormat

    Pixels = NDArray[Any]
    Place = Callable[..., int]
    """One of `decoders`."""
    Decode = Callable[[memoryview, Any], None]
    """Takes the stored bytes of a chunk, and what it is decoded to."""

_WORD_BYTES = 8
_BYTES_WITHOUT = 32 << 20
"""Of pixels, before compiled code is taken: as `qc.passes.PIXELS_BY_NUMPY`."""


class Windows(NamedTuple):
    """Where the pixels of chunks that lie side by side go: the first rows and columns of each.

    Attributes:
        memory: of a field, one row behind another.
        starts: where the first pixel of each chunk goes.
        pitch: from row to row, in pixels.
        rows: of each chunk.
        columns: of each chunk.
    """

    memory: Pixels
    starts: Sequence[int]
    pitch: int
    rows: int
    columns: int

    def fill(self, start: int, pixels: Pixels) -> None:
        """Puts the pixels (Y, X) of a whole chunk, or one for all, where one begins."""
        y, x = divmod(start, self.pitch)
        lines = self.memory.reshape(-1, self.pitch)
        wanted = pixels[: self.rows, : self.columns] if pixels.ndim else pixels
        lines[y : y + self.rows, x : x + self.columns] = wanted


def is_placed(form: ArrayFormat) -> bool:
    """Whether chunks whose bytes are planes as they are wanted may be decoded into place."""
    encoding = form.encoding
    return encoding.decompress in _COMPILED and not encoding.has_crc and form.dtype.itemsize == 2


class Placer(NamedTuple):
    """Decodes chunks that lie side by side, and puts their pixels where they go.

    Attributes:
        put: decodes a chunk; takes memory that begins with its stored bytes and can be written
            (to numba, other memory is of another type), their number, and where its first pixel
            goes.
        put_row: decodes chunks that are stored one behind another; takes their bytes, the length
            of each, and where the first pixel of each goes. It is one step, where all are sound:
            between two a thread may have to wait for the interpreter.
    """

    put: Callable[[Bytes, int, int], None]
    put_row: Callable[[Bytes, Sequence[int], Sequence[int]], None]


def placing(
    decompress: Decompress | None,
    windows: Windows,
    n_pixels: int,
    width: int,
    scratch: Scratch,
    otherwise: Decode,
) -> Placer | None:
    """What decodes chunks, and puts their pixels where they go.

    Args:
        decompress: what decodes them otherwise.
        windows: where.
        n_pixels: of each chunk.
        width: of each chunk.
        scratch: of this thread.
        otherwise: takes a chunk that is damaged, or of a kind that compiled code does not know,
            and where its first pixel goes: it raises, or does the same.

    Returns:
        None: there is nothing yet that does it.
    """
    place = _COMPILED[decompress].for_more(2 * n_pixels * len(windows.starts))
    if place is None:
        return None
    memory = windows.memory.view(np.uint16)
    _, _, pitch, rows, columns = windows
    n_words = -(-2 * n_pixels // _WORD_BYTES)
    unshuffled = scratch.bytes("unshuffled", n_words * _WORD_BYTES).view(np.uint64)
    work = scratch.bytes("staged", 2 * n_pixels), unshuffled, _zstd_of_thread()

    whole = np.zeros(2, np.int64)

    def put(stored: Bytes, n_bytes: int, start: int) -> None:
        whole[1] = n_bytes
        if not place(stored, whole, n_pixels, width, (memory, start, pitch, rows, columns), work):
            otherwise(stored[:n_bytes].data, start)

    def put_row(stored: Bytes, lengths: Sequence[int], starts: Sequence[int]) -> None:
        bounds = np.array((0, *accumulate(lengths)), np.int64)
        done = 0
        while done < len(starts):
            to = memory, starts[done], pitch, rows, columns
            done += place(stored, bounds[done:], n_pixels, width, to, work)
            if done < len(starts):
                otherwise(stored[bounds[done] : bounds[done + 1]].data, starts[done])
                done += 1

    return Placer(put, put_row)


def _tried(place: Place, *encoded: tuple[str, Callable[[Pixels], bytes]]) -> Place:
    """Compiled code, once it has decoded what others encoded."""
    pixels = np.arange(_TRIED, dtype=np.uint16)
    staged, words = np.zeros(2 * _TRIED, np.uint8), np.zeros(_TRIED // 4, np.uint64)
    for codec, encode in encoded:
        stored = np.frombuffer(bytearray(encode(pixels)), np.uint8)
        found = np.zeros_like(pixels)
        bounds, to = np.array([0, stored.size]), (found, 0, _TRIED, 1, _TRIED)
        work = staged, words, _zstd_of_thread()
        n_sound = place(stored, bounds, _TRIED, _TRIED, to, work)
        if n_sound != 1 or not np.array_equal(found, pixels):
            raise RuntimeError(f"{codec} as compiled does not decode a chunk")
    return place


def _blosc() -> Place:
    from numcodecs import Blosc

    from unidino_fast.reading.decoders import place_blosc

    lz4, zstd = Blosc("lz4", 5, Blosc.SHUFFLE), Blosc("zstd", 5, Blosc.BITSHUFFLE)
    return _tried(place_blosc, ("lz4", lz4.encode), ("zstd", zstd.encode))


def _zstd() -> Place:
    from numcodecs import Zstd

    from unidino_fast.reading.decoders import place_zstd

    return _tried(place_zstd, ("zstd", Zstd(1).encode))


_LACK = "chunks of {} are decoded and then put into place, which is slower"
_COMPILED: dict[Decompress | None, Compiled[Place]] = {
    blosc_into: Compiled(_blosc, after=_BYTES_WITHOUT, lack=_LACK.format("blosc")),
    zstd_into: Compiled(_zstd, after=_BYTES_WITHOUT, lack=_LACK.format("zstd")),
}
_TRIED = 4096
"""Pixels that compiled code is tried with."""
_OF_THREAD = threading.local()


def _zstd_of_thread() -> int:
    """The address of this thread's decoder of zstd."""
    try:
        decoder = _OF_THREAD.zstd
    except AttributeError:
        from unidino_fast.reading.decoders import ZstdDecoder

        decoder = _OF_THREAD.zstd = ZstdDecoder()
    address: int = decoder.address
    return address
