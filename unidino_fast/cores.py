"""How many cores there are for this process."""

from __future__ import annotations

import os

_LEAST_SHARE = 8
"""Threads that read: a GPU is to be fed even where a worker was given one thread."""
_share: int | None = None


def usable_cores() -> int:
    """Cores that this process may use, where the system tells; else all of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def take_share(n_cores: int) -> None:
    """Says that this process runs beside others, which leave it so many cores."""
    global _share
    _share = n_cores


def reading_cores() -> int:
    """Cores to read with: all, or a worker's share, of which some are taken in any case."""
    cores = usable_cores()
    return cores if _share is None else min(cores, max(_share, _LEAST_SHARE))
