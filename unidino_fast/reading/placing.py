"""Chunks decoded to where their pixels belong, in one step where there is a way that does both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from unidino_fast.compiled import Compiled
from unidino_fast.reading.buffers import PAGE_BYTES, Scratch
from unidino_fast.reading.codecs import blosc_into, zstd_into
from unidino_fast.reading.room import FOUND, SUM, work_room

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from unidino_fast.reading.files import FileParts
    from unidino_fast.reading.formats import ArrayFormat, Encoding
    from unidino_fast.reading.watcher import Watcher

    Pixels = NDArray[Any]

_PIXEL_BYTES = 2
_KINDS: dict[Any, int] = {zstd_into: 0, blosc_into: 1, None: 2}
"""Of chunks, as `decoders` names them; None is of those that are stored as they are."""
_UNTOLD = -1
"""Of numbers that a `Watcher` did not come to, as memory gave out: what it finds first is no less
than 0."""
_BYTES_WITHOUT = 32 << 20
"""Of pixels, before compiled code is taken: as `qc.passes.PIXELS_BY_NUMPY`."""


class Windows(NamedTuple):
    """Where the pixels of some chunks go: the first rows and columns of each.

    Attributes:
        memory: of a field, one row behind another.
        pitch: from row to row, in pixels.
        places: (N, 3): where the first pixel of each chunk goes, its rows, and its columns.
        sums: whether the checksums of chunks are asked for.
        watcher: is told of their pixels, then.
    """

    memory: Pixels
    pitch: int
    places: NDArray[np.int64]
    sums: bool = False
    watcher: Watcher | None = None

    def fill(self, number: int, pixels: Pixels) -> None:
        """Puts the pixels (Y, X) of a whole chunk, or one for all, where one of them goes."""
        start, rows, columns = self.places[number].tolist()
        y, x = divmod(start, self.pitch)
        lines = self.memory.reshape(-1, self.pitch)
        wanted = pixels[:rows, :columns] if pixels.ndim else pixels
        lines[y : y + rows, x : x + columns] = wanted


def is_placed(form: ArrayFormat) -> bool:
    """Whether chunks whose bytes are planes as they are wanted may be decoded into place."""
    encoding = form.encoding
    is_known = encoding.decompress in _KINDS and not encoding.has_crc
    return is_known and form.dtype.itemsize == _PIXEL_BYTES


class Placer(NamedTuple):
    """Puts the pixels of chunks where they go.

    Attributes:
        put: takes the stored bytes of a chunk, and which of them it is; gives False where it is
            damaged, or of a kind that is not known.
        fetch: reads chunks from files, and does the same. Gives which of them it did not take.
        checksums: (N,): of the pixels of each that was put, if it was asked for and they stand one
            after another: XXH3 (64 bits). Of others 0.
        found: (N, F): what was found of those by what watched; negative numbers of others.
    """

    put: Callable[[memoryview, int], bool]
    fetch: Callable[[FileParts], list[int]]
    checksums: NDArray[np.uint64]
    found: NDArray[np.int64]


def placing(encoding: Encoding, windows: Windows, width: int, scratch: Scratch) -> Placer | None:
    """What decodes chunks, and puts their pixels where they go; None: there is nothing yet.

    Args:
        encoding: of the chunks.
        windows: where.
        width: of each chunk.
        scratch: of this thread.
    """
    n_pixels = encoding.n_bytes // _PIXEL_BYTES
    memory, pitch, places, sums, watcher = windows
    compiled = _COMPILED.for_more(encoding.n_bytes * len(places))
    if compiled is None:
        return None
    chunk = _KINDS[encoding.decompress], n_pixels, width
    memory = memory.view(np.uint16)
    work = work_room(encoding.n_bytes, scratch, sums=sums, watcher=watcher)
    checksums = np.zeros(len(places), np.uint64)
    watched = np.full((len(places), watcher.n_found if watcher else 0), _UNTOLD)

    def put(stored: memoryview, number: int) -> bool:
        # to numba, bytes that cannot be written are of another type
        found = np.frombuffer(bytearray(stored) if stored.readonly else stored, np.uint8)
        start, rows, columns = places[number].tolist()
        work[3][FOUND] = watched[number:].ctypes.data
        is_sound = compiled.place(chunk, found, (memory, start, pitch, rows, columns), work)
        checksums[number] = work[3].view(np.uint64)[SUM]
        return is_sound

    def fetch(found: FileParts) -> list[int]:
        names = np.frombuffer(found.paths, np.uint8)
        stored = scratch.bytes("stored", encoding.most + 1 + PAGE_BYTES)
        missed = []
        done = 0
        while done < len(places):
            to = memory, pitch, places[done:], checksums[done:], watched[done:]
            done += compiled.fetch(chunk, names, found.parts[done:], stored, to, work)
            if done < len(places):
                missed.append(done)
                done += 1
        return missed

    return Placer(put, fetch, checksums, watched)


class _Decoders(NamedTuple):
    """Of the module `decoders`, where they do what they should."""

    place: Callable[..., bool]
    fetch: Callable[..., int]


def _decoders() -> _Decoders:
    """Compiled code, once it has decoded what others encoded."""
    from numcodecs import Blosc, Zstd

    from unidino_fast.reading.decoders import fetch, place

    pixels = np.arange(_TRIED, dtype=np.uint16)
    work = work_room(pixels.nbytes, Scratch())
    tried = {
        "lz4": (blosc_into, Blosc("lz4", 5, Blosc.SHUFFLE).encode(pixels)),
        "blosc's zstd": (blosc_into, Blosc("zstd", 5, Blosc.BITSHUFFLE).encode(pixels)),
        "zstd": (zstd_into, Zstd(1).encode(pixels)),
        "none": (None, pixels.tobytes()),
    }
    for name, (decompress, encoded) in tried.items():
        stored = np.frombuffer(bytearray(encoded), np.uint8)
        found = np.zeros_like(pixels)
        chunk = _KINDS[decompress], _TRIED, _TRIED
        is_sound = place(chunk, stored, (found, 0, _TRIED, 1, _TRIED), work)
        if not is_sound or not np.array_equal(found, pixels):
            raise RuntimeError(f"{name} as compiled does not decode a chunk")
    # of nothing: for it to be compiled
    parts = np.zeros((0, 3), np.int64)
    to = found, _TRIED, parts, np.zeros(0, np.uint64), parts
    fetch(chunk, np.frombuffer(b"\0", np.uint8), parts, stored, to, work)
    return _Decoders(place, fetch)


_COMPILED = Compiled(
    _decoders,
    after=_BYTES_WITHOUT,
    lack="chunks are decoded and then put into place, which is slower",
)
_TRIED = 4096
"""Pixels that compiled code is tried with."""
