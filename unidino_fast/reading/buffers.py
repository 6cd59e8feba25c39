"""Memory that is used again: of fields once nobody holds them, of a thread from chunk to chunk.

Fresh memory costs the kernel a page fault and a zeroed page every 4 KiB.
"""

from __future__ import annotations

import math
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import DTypeLike, NDArray

    from unidino_fast.reading.codecs import Bytes

    Pixels = NDArray[Any]

PAGE_BYTES = 4096
"""Of a processor's small pages; larger ones are multiples of it."""


class FieldBuffers:
    """Arrays whose memory comes back by itself when the last view of it is gone.

    So a consumer may keep an array, or a tensor that shares its memory, as long as it likes.

    Args:
        most: buffers that are kept for later.
        allocate: makes memory of so many bytes; numpy's by default.
    """

    def __init__(
        self, most: int = 4, *, allocate: Callable[[int], memoryview] | None = None
    ) -> None:
        self._free: deque[memoryview] = deque(maxlen=most)
        self._allocate = allocate or _memory

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Pixels:
        """An array of this shape with any content."""
        n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        # numpy lets a view of a view refer to the array that owns the memory; behind a memoryview
        # it stops, so that `flat` lives as long as any view
        memory = self._taken(n_bytes)
        flat = np.frombuffer(memory, np.uint8)
        weakref.finalize(flat, self._free.append, memory).atexit = False
        return flat[:n_bytes].view(dtype).reshape(shape)

    def _taken(self, n_bytes: int) -> memoryview:
        try:
            while len(held := self._free.pop()) != n_bytes:
                pass  # fields of another size are past; the latest is in the caches
            return held
        except IndexError:
            return self._allocate(n_bytes)


def aligned(n_bytes: int) -> Bytes:
    """Memory that begins with a page, with any content.

    Large memory from `malloc` begins 16 bytes behind a page. The kernel, which holds the pages of
    a file, copies them there at half the rate on Zen 4, at a fifth on Zen 3: `rep movsb` is slow to
    1 to 31 bytes behind the place that its source has in a page.
    """
    whole = np.empty(n_bytes + PAGE_BYTES, np.uint8)
    start = -whole.ctypes.data % PAGE_BYTES
    found: Bytes = whole[start : start + n_bytes]
    return found


def _memory(n_bytes: int) -> memoryview:
    return aligned(n_bytes).data


class Scratch:
    """Buffers of one thread, by name; they grow to the largest that was asked for."""

    def __init__(self) -> None:
        self._held: dict[str, Bytes] = {}
        self._views: dict[str, memoryview] = {}
        self._blocks: tuple[Pixels, list[Bytes]] | None = None

    def bytes(self, name: str, n_bytes: int) -> Bytes:
        """A buffer of so many bytes with any content, valid until its name is asked for again."""
        held = self._held.get(name)
        if held is None or held.size < n_bytes:
            self._views.pop(name, None)
            self._held.pop(name, None)  # never two at a time
            held = self._held[name] = aligned(n_bytes + n_bytes // 4)
        return held[:n_bytes]

    def view(self, name: str, n_bytes: int) -> memoryview:
        """As `bytes`, made once for buffers of one size."""
        found = self._views.get(name)
        if found is None or len(found) != n_bytes:
            found = self.bytes(name, n_bytes).data
            self._views[name] = found
        return found

    def blocks(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Pixels, list[Bytes]]:
        """A buffer (N, ...) and the bytes of each of its N, valid until others are asked for."""
        held = self._blocks
        if held is None or held[0].shape != shape or held[0].dtype != dtype:
            self._blocks = None  # never two at a time
            whole = self.bytes("blocks", math.prod(shape) * dtype.itemsize)
            held = whole.view(dtype).reshape(shape), list(whole.reshape(shape[0], -1))
            self._blocks = held
        return held
