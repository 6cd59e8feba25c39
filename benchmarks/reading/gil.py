"""How long a job keeps the interpreter from other threads.

A thread that only counts holds the GIL whenever it can. What it does not run, and does not wait for
a core either (the kernel counts both for each thread), it waits for the GIL: so long the job's
threads held it, or handed it over, several microseconds each time. The counting makes a job take
longer, so that it is the time of the very run that is shared out, not the usual one.

While it waits it wakes up at short intervals, and where cores are short it then stands in line for
one, which is not told from waiting for a core: beside busy neighbours the figure would be too low,
and there is none. Nor is there where the system does not count (it is Linux that does).
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unidino_fast.benchmarks.noise import OTHERS, Neighbours
from unidino_fast.cores import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable

_SWITCH_S = 1e-4
"""Seconds after which the counting thread is asked to let go: short, so that jobs hardly wait."""


def gil_share(run: Callable[[], object], *, rounds: int = 5) -> float | None:
    """Share of a job's time in which it held the GIL; None where that is not known."""
    neighbours = Neighbours()
    shares = [_share_of(run) for _ in range(rounds)]
    known = [one for one in shares if one is not None]
    if not known or neighbours.busy_cores() > OTHERS * usable_cores():
        return None
    return float(np.median(known))


def _share_of(run: Callable[[], object]) -> float | None:
    """Share of one run of a job in which it held the GIL; None where the system does not tell."""
    counter = _Counter()
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_S)
    try:
        counter.start()
        counter.began.wait()
        start, first = time.perf_counter(), counter.seconds()
        run()
        elapsed, last = time.perf_counter() - start, counter.seconds()
    finally:
        counter.stops = True
        counter.join()
        sys.setswitchinterval(before)
    if first is None or last is None:
        return None
    return max(1 - (last - first) / elapsed, 0.0)


class _Counter(threading.Thread):
    """Counts, and tells how long it has run or waited for a core."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.began = threading.Event()
        self.stops = False

    def run(self) -> None:
        self.began.set()
        count = 0
        while not self.stops:
            count += 1

    def seconds(self) -> float | None:
        try:
            text = Path(f"/proc/self/task/{self.native_id}/schedstat").read_text()
            running, queued, _ = map(int, text.split())
        except (OSError, ValueError):
            return None
        return (running + queued) / 1e9
