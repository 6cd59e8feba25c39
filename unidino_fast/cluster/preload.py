"""What each worker process of this machine does before it works; Dask calls that its preload."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed import Worker


def dask_setup(worker: Worker) -> None:
    """Leaves Ctrl-C, which a terminal sends to all processes, to the one that ends the workers.

    They are started with that signal blocked, but libraries start threads that take it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
