"""Keeps the memory of long runs flat, and their start short.

glibc holds on to freed memory whose place in the heap is below something that is still in use. The
tensors of a run come and go in many sizes on several threads, so that a heap grows by holes: by a
fifth between the 10th and the 100th well, measured. `malloc_trim` gives those pages back, in
milliseconds.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import sys
import time
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SECONDS = 1.0
_LOG = logging.getLogger(__name__)


class HeapTrimmer:
    """Gives freed memory back to the system, once a second at most."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def trim(self) -> None:
        """To be called wherever much has just been freed; mostly it does nothing."""
        now = time.monotonic()
        if now - self._last >= _SECONDS:
            self._last = now
            trim_heap()


def trim_heap() -> None:
    """Gives freed memory back now: where a stage ends whose memory the next one does not need."""
    _malloc_trim()(0)


@contextmanager
def uncollected() -> Iterator[None]:
    """No search for garbage while a command loads libraries and weights, nor later among those.

    PyTorch and timm make half a million objects, all of which stay. Python would look through them
    a thousand times: a fifth of the time that `embed` takes to its first well, measured.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collects:
            gc.enable()


@cache
def _malloc_trim() -> Callable[[int], object]:
    """The C library's function; where it is not glibc, one that does nothing."""
    if sys.platform.startswith("linux"):
        found = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if found is not None:
            found.argtypes = (ctypes.c_size_t,)
            return found  # type: ignore[no-any-return]
    _LOG.debug("no malloc_trim here: the heap stays as it is")
    return int
