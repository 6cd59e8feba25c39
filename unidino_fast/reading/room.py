"""What compiled decoders need for themselves, of one thread."""

from __future__ import annotations

import ctypes
import importlib
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from unidino_fast.reading.buffers import Scratch

    Work = tuple[NDArray[np.uint8], NDArray[np.uint64], int]

_WORD_BYTES = 8
_ROWS = 16
"""Bits of a pixel: where they stand apart, each is a row, which ends with a whole word."""
_OF_THREAD = threading.local()

_zstd = ctypes.CDLL(importlib.import_module("numcodecs.zstd").__file__)
_zstd.ZSTD_createDCtx.restype = ctypes.c_void_p
_zstd.ZSTD_freeDCtx.argtypes = [ctypes.c_void_p]


def work_room(n_bytes: int, scratch: Scratch) -> Work:
    """For chunks of so many bytes; see `decoders.place`."""
    words = scratch.bytes("words", _WORD_BYTES * n_words(n_bytes)).view(np.uint64)
    return scratch.bytes("staged", n_bytes), words, zstd_of_thread()


def n_words(n_bytes: int) -> int:
    """Of bits before and after they are joined."""
    return 2 * (-(-n_bytes // _WORD_BYTES) + _ROWS)


class ZstdDecoder:
    """A decoder of zstd, of one thread.

    Attributes:
        address: of its state, valid as long as this object lives.
    """

    def __init__(self) -> None:
        self.address: int | None = None
        self.address = _zstd.ZSTD_createDCtx()
        if not self.address:
            raise MemoryError

    def __del__(self, free: Any = _zstd.ZSTD_freeDCtx) -> None:  # at the end of all, names are gone
        if self.address:
            free(self.address)


def zstd_of_thread() -> int:
    """The address of this thread's decoder of zstd."""
    try:
        decoder = _OF_THREAD.zstd
    except AttributeError:
        decoder = _OF_THREAD.zstd = ZstdDecoder()
    address: int = decoder.address
    return address
