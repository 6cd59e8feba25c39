"""What compiled decoders need for themselves, of one thread."""

from __future__ import annotations

import ctypes
import importlib
import threading
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from unidino_fast.reading.buffers import Scratch
    from unidino_fast.reading.watcher import Watcher

    Work = tuple[NDArray[np.uint8], NDArray[np.uint64], int, NDArray[np.int64]]

Kept = TypeVar("Kept")

_WORD_BYTES = 8
SUM, FOUND = 2, 5
_WATCHER, _WATCHED = 3, 4
"""Of the numbers of a `Checksum`, as `decoders` has them."""
_REST_WORDS = 128
"""For those pixels at the end of a block that are fewer than `decoders` joins the bits of at once.
"""
_OF_THREAD = threading.local()
_NO_CHECKSUM = np.zeros(6, np.int64)
"""For all threads: there is no state, so nothing is told; only `FOUND` is ever more than 0."""

_zstd = ctypes.CDLL(importlib.import_module("numcodecs.zstd").__file__)
_zstd.ZSTD_createDCtx.restype = ctypes.c_void_p
_zstd.ZSTD_freeDCtx.argtypes = [ctypes.c_void_p]
_xxhash = ctypes.CDLL(importlib.import_module("xxhash._xxhash").__file__)
_xxhash.XXH3_createState.restype = ctypes.c_void_p
_xxhash.XXH3_freeState.argtypes = [ctypes.c_void_p]


def work_room(
    n_bytes: int, scratch: Scratch, *, sums: bool = False, watcher: Watcher | None = None
) -> Work:
    """For chunks of so many bytes; see `decoders.place`.

    Args:
        n_bytes: of a chunk's pixels.
        scratch: of this thread.
        sums: have the checksum of pixels taken.
        watcher: is told of them then.
    """
    words = scratch.bytes("words", _WORD_BYTES * n_words(n_bytes)).view(np.uint64)
    numbers = _of_thread(Checksum).told_to(watcher) if sums else _NO_CHECKSUM
    return scratch.bytes("staged", n_bytes), words, zstd_of_thread(), numbers


def n_words(n_bytes: int) -> int:
    """Of pixels that do not go straight to where they belong."""
    return -(-n_bytes // _WORD_BYTES) + _REST_WORDS


class ZstdDecoder:
    """A decoder of zstd, of one thread.

    Attributes:
        address: of its state, valid as long as this object lives.
    """

    address = 0

    def __init__(self) -> None:
        self.address = _zstd.ZSTD_createDCtx() or 0
        if not self.address:
            raise MemoryError

    def __del__(self, free: Any = _zstd.ZSTD_freeDCtx) -> None:  # at the end of all, names are gone
        if self.address:
            free(self.address)


class Checksum:
    """XXH3 (64 bits) of pixels, of one thread.

    Attributes:
        numbers: for `decoders.place`, valid as long as this object lives.
        watcher: that is told of the same pixels.
    """

    _address = 0

    def __init__(self) -> None:
        self._address = _xxhash.XXH3_createState() or 0
        if not self._address:
            raise MemoryError
        self.numbers = np.array([self._address, 0, 0, 0, 0, 0], np.int64)
        self.watcher: Watcher | None = None

    def told_to(self, watcher: Watcher | None) -> NDArray[np.int64]:
        """The numbers, with what else is told of the pixels."""
        self.watcher = watcher
        function, state = (0, 0) if watcher is None else (watcher.function, watcher.address)
        self.numbers[_WATCHER], self.numbers[_WATCHED] = function, state
        return self.numbers

    def __del__(self, free: Any = _xxhash.XXH3_freeState) -> None:
        if self._address:
            free(self._address)


def zstd_of_thread() -> int:
    """The address of this thread's decoder of zstd."""
    return _of_thread(ZstdDecoder).address


def _of_thread(kind: type[Kept]) -> Kept:
    """This thread's own of some kind."""
    try:
        found: Kept = getattr(_OF_THREAD, kind.__name__)
    except AttributeError:
        found = kind()
        setattr(_OF_THREAD, kind.__name__, found)
    return found
