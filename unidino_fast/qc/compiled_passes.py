"""Compiled passes over pixels, with the memory that they need: see `haar`."""

from __future__ import annotations

import threading
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from unidino_fast.compiled import callback
from unidino_fast.qc import haar
from unidino_fast.qc.passes import Found
from unidino_fast.reading import Watcher

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from unidino_fast.qc.passes import Sampling

    Planes = NDArray[Any]
    Row = NDArray[Any]

_PAIRS = {1: np.uint16, 2: np.uint32}
"""Words that hold two pixels side by side."""


@cache
def _watch() -> Any:
    return callback(haar.watch, haar.WATCH_SIGNATURE)


def compiled_pass(planes: Planes, numbers: Sequence[int], sampling: Sampling) -> NDArray[np.int64]:
    """See `passes.pass_over`; the planes are contiguous, native and writable."""
    own = of_pairs = np.array(numbers, np.int64)
    even = planes
    if planes.shape[2] % 2:
        even, of_pairs = np.ascontiguousarray(planes[own, :, :-1]), np.arange(len(own))
    pairs = even.view(_PAIRS[planes.itemsize])
    counters = _OF_THREAD.counters(planes.itemsize)
    found = np.empty((len(own), len(Found._fields)), np.int64)
    # to recognise any other than a plain tuple takes numba longer
    haar.pass_over(planes, own, pairs, of_pairs, tuple(sampling), counters, found)
    return found


def watcher(shape: tuple[int, int], sampling: Sampling) -> Watcher:
    """What finds the same of planes (H, W) of uint16 while they are decoded.

    Of this thread: another one has its own. W is even, and neither is less than `passes.EDGE`.
    """
    return _OF_THREAD.watcher(shape, sampling)


class _OfThread(threading.local):
    """Memory of one thread.

    New counters for each plane would be pages that the system gives and takes back, while other
    threads wait: a tenth of a millisecond.
    """

    def __init__(self) -> None:
        self._counters: dict[int, tuple[Row, Row]] = {}
        self._watcher: Watcher | None = None
        self._watched: tuple[tuple[int, int], Sampling] | None = None

    def counters(self, n_bytes: int) -> tuple[Row, Row]:
        """For pixels of so many bytes: all 0, as the pass leaves them."""
        held = self._counters.get(n_bytes)
        if held is None:
            values, differences = (np.zeros(n << 8 * n_bytes, np.int32) for n in (1, 2))
            held = self._counters[n_bytes] = values, differences
        return held

    def watcher(self, shape: tuple[int, int], sampling: Sampling) -> Watcher:
        """The last one, where it is for such planes."""
        if self._watcher is None or self._watched != (shape, sampling):
            state = haar.watch_state(shape, sampling)
            self._watcher = Watcher(_watch().address, state, len(Found._fields))
            self._watched = shape, sampling
        return self._watcher


_OF_THREAD = _OfThread()
