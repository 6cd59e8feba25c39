"""Threads that read: which there are, and that they end."""

from __future__ import annotations

import threading
import time


def reading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("read-")]


def assert_no_threads() -> None:
    """None within five seconds: nobody joins those whose stream was closed by garbage."""
    until = time.monotonic() + 5
    while reading_threads() and time.monotonic() < until:
        time.sleep(0.01)
    assert not reading_threads()
