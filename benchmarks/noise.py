"""What else the machine was doing: a number measured beside a busy neighbour says so."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from unidino_fast.cores import usable_cores

if TYPE_CHECKING:
    from unidino_fast.benchmarks.measure import Samples

SPREAD = 0.1
"""A wider distance between the 10 and 90 % quantiles, as a share of the median, is noise."""
OTHERS = 0.1
"""Others that use a larger share of the cores are noise."""
_STAT = Path("/proc/stat")
_BUSY = (0, 1, 2, 5, 6, 7)
"""user, nice, system, irq, softirq, steal: the columns of /proc/stat that keep a core busy."""


class Neighbours:
    """How many cores other processes kept busy since this was made.

    Where the kernel does not count that, the load average of the last minute stands for it, less
    what this process used.
    """

    def __init__(self, stat: Path = _STAT) -> None:
        self._stat = stat
        self._began = time.monotonic()
        self._own = _own_seconds()
        self._all = _busy_seconds(stat)

    def busy_cores(self) -> float:
        """Cores, on average, up to now."""
        elapsed = max(time.monotonic() - self._began, 1e-3)
        own = (_own_seconds() - self._own) / elapsed
        busy = _busy_seconds(self._stat)
        if busy is None or self._all is None:
            return max(0.0, os.getloadavg()[0] - own)
        return max(0.0, (busy - self._all) / elapsed - own)


def describe_noise(samples: Samples, others: float) -> str:
    """Why a measurement should not be quoted; empty where nothing speaks against it.

    Args:
        samples: what was measured.
        others: cores that other processes kept busy meanwhile.
    """
    reasons = []
    if others > OTHERS * usable_cores():
        reasons.append(f"others used {others:.1f} of {usable_cores()} cores")
    if samples.spread() > SPREAD:
        reasons.append(f"spread {samples.spread():.0%}")
    return ", ".join(reasons)


def _own_seconds() -> float:
    """Of this process and of all that it started: workers are no neighbours."""
    seconds = sum(_times(psutil.Process()))
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # what has ended counts with the one that waited
            seconds += sum(_times(child))
    return seconds


def _times(process: psutil.Process) -> tuple[float, ...]:
    used = process.cpu_times()
    return used.user, used.system, used.children_user, used.children_system


def _busy_seconds(stat: Path) -> float | None:
    """Seconds that all cores have been busy since the machine started."""
    try:
        fields = stat.read_text().split("\n", 1)[0].split()[1:]
        ticks = sum(int(fields[column]) for column in _BUSY)
    except (OSError, ValueError, IndexError):
        return None
    return ticks / os.sysconf("SC_CLK_TCK")
