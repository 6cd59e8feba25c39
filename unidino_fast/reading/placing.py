"""Chunks decoded to where their pixels belong, in one step where there is a way that does both."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from unidino_fast.compiled import Compiled
from unidino_fast.reading.codecs import blosc_into, zstd_into

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from unidino_fast.reading.buffers import Scratch
    from unidino_fast.reading.codecs import Decompress
    from unidino_fast.reading.formats import ArrayFormat

    Pixels = NDArray[Any]
    Place = Callable[..., bool]
    """One of `decoders`."""
    Put = Callable[[memoryview, int], bool]

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


def placing(
    decompress: Decompress | None, windows: Windows, n_pixels: int, width: int, scratch: Scratch
) -> Put | None:
    """What decodes one of the chunks, and puts its pixels where they go.

    Args:
        decompress: what decodes it otherwise.
        windows: where.
        n_pixels: of each chunk.
        width: of each chunk.
        scratch: of this thread.

    Returns:
        Takes the stored bytes and the start; gives False where a chunk is damaged, or of a kind
        that it does not know. None: there is nothing yet that does it.
    """
    place = _COMPILED[decompress].for_more(2 * n_pixels * len(windows.starts))
    if place is None:
        return None
    memory = windows.memory.view(np.uint16)
    _, _, pitch, rows, columns = windows
    staged = scratch.bytes("staged", 2 * n_pixels)
    n_words = -(-2 * n_pixels // _WORD_BYTES)
    unshuffled = scratch.bytes("unshuffled", n_words * _WORD_BYTES).view(np.uint64)
    zstd = _zstd_of_thread()

    def put(stored: memoryview, start: int) -> bool:
        # to numba, bytes that cannot be written are of another type
        found = np.frombuffer(bytearray(stored) if stored.readonly else stored, np.uint8)
        return place(
            found, n_pixels, width, memory, start, pitch, rows, columns, staged, unshuffled, zstd
        )

    return put


def _tried(place: Place, *encoded: tuple[str, Callable[[Pixels], bytes]]) -> Place:
    """Compiled code, once it has decoded what others encoded."""
    pixels = np.arange(_TRIED, dtype=np.uint16)
    staged, words = np.zeros(2 * _TRIED, np.uint8), np.zeros(_TRIED // 4, np.uint64)
    for codec, encode in encoded:
        stored = np.frombuffer(bytearray(encode(pixels)), np.uint8)
        found = np.zeros_like(pixels)
        row = _TRIED, found, 0, _TRIED, 1, _TRIED
        is_sound = place(stored, _TRIED, *row, staged, words, _zstd_of_thread())
        if not is_sound or not np.array_equal(found, pixels):
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
