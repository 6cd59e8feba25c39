"""Places that chunks are decoded into, in which it is seen what else was read or written."""

from __future__ import annotations

import ctypes
import functools
import mmap

import numpy as np

from unidino_fast.reading import decoders
from unidino_fast.reading.room import SUM, Checksum, ZstdDecoder, n_words

MARGIN = 64
"""Pixels before and behind those that are written to."""
UNTOUCHED = 0xA5A5
LARGE = 200, 300
"""Pixels of more than one block, the last of which is smaller."""


class Place:
    """Memory that a chunk is put into, in which every other pixel is to stay as it is."""

    def __init__(self, shape: tuple[int, int], kept: tuple[int, int], pitch: int) -> None:
        self.height, self.width = shape
        self.rows, self.columns = kept
        self.pitch = pitch
        self.memory = np.full(2 * MARGIN + self.rows * pitch, UNTOUCHED, np.uint16)
        n_bytes = 2 * self.height * self.width
        self.staged = np.full(n_bytes, 0xEE, np.uint8)
        self.words = np.zeros(n_words(n_bytes), np.uint64)
        self.zstd = ZstdDecoder()
        self.sums = Checksum()

    def take(self, stored: bytes, *, is_blosc: bool = True) -> bool:
        """Decodes a chunk; what reads a byte behind it crashes."""
        chunk = int(is_blosc), self.height * self.width, self.width
        found: bool = decoders.place(chunk, at_the_end_of_memory(stored), self.to, self.work)
        return found

    @property
    def to(self) -> tuple[np.ndarray, int, int, int, int]:
        return self.memory, MARGIN, self.pitch, self.rows, self.columns

    @property
    def work(self) -> tuple[np.ndarray, np.ndarray, int, np.ndarray]:
        assert self.zstd.address
        return self.staged, self.words, self.zstd.address, self.sums.numbers

    @property
    def checksum(self) -> int:
        """As compiled code leaves it, 0 where it has none."""
        return int(self.sums.numbers[SUM]) % 2**64

    @property
    def pixels(self) -> np.ndarray:
        """What was put there; nothing else may have been."""
        lines = self.memory[MARGIN:-MARGIN].reshape(self.rows, self.pitch)
        assert (self.memory[:MARGIN] == UNTOUCHED).all()
        assert (self.memory[-MARGIN:] == UNTOUCHED).all()
        assert (lines[:, self.columns :] == UNTOUCHED).all()
        return lines[:, : self.columns]


@functools.cache
def guarded(n_pages: int) -> np.ndarray:
    """Pages of memory, behind which there is one that nobody may read."""
    memory = mmap.mmap(-1, (n_pages + 1) * mmap.PAGESIZE)
    whole = np.frombuffer(memory, np.uint8)
    found = whole[: n_pages * mmap.PAGESIZE]
    last = ctypes.c_void_p(whole.ctypes.data + found.size)
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    assert protect(last, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    return found


def at_the_end_of_memory(stored: bytes) -> np.ndarray:
    pages = guarded(1 + len(stored) // mmap.PAGESIZE)
    found = pages[pages.size - len(stored) :]
    found[...] = np.frombuffer(stored, np.uint8)
    return found


def planes(kind: str, shape: tuple[int, int], seed: int) -> np.ndarray:
    """Pixels of some compressibility."""
    rng = np.random.default_rng(seed)
    if kind == "noise":
        return rng.integers(0, 65536, shape, dtype=np.uint16)
    if kind == "flat":
        return np.full(shape, seed * 257 % 65536, np.uint16)
    return rng.poisson(300, shape).astype(np.uint16)


def damaged(whole: bytes, rng: np.random.Generator) -> bytes:
    """A chunk with other bytes, most of them in its headers, or cut short."""
    stored = bytearray(whole)
    for _ in range(rng.integers(1, 4)):
        at = rng.integers(0, min(len(stored), rng.choice([16, 60, 2**20])))
        stored[at] = rng.choice([stored[at] ^ (1 << rng.integers(8)), 0, 255, 128])
    if rng.random() < 0.3:
        del stored[rng.integers(0, len(stored)) :]
    if rng.random() < 0.5 and len(stored) >= 16:
        stored[12:16] = len(stored).to_bytes(4, "little")
    return bytes(stored)
