"""Freed memory goes back to the system, and seldom costs anything."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from unidino_fast import heap

# 256 MiB in blocks below the size from which glibc maps memory apart; each tenth stays in use.
HOLES = """
import ctypes
from pathlib import Path
from unidino_fast.heap import HeapTrimmer

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

malloc = ctypes.CDLL(None).malloc
malloc.restype, malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
free = ctypes.CDLL(None).free
free.argtypes = (ctypes.c_void_p,)
size = 2**16
blocks = [malloc(size) for _ in range(2**12)]
for block in blocks:
    ctypes.memset(block, 1, size)
full = resident()
for place, block in enumerate(blocks):
    if place % 10:
        free(block)
before = resident()
trimmer = HeapTrimmer()
trimmer._last -= 2
trimmer.trim()
print(full, before, resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heap")
def test_holes_go_back() -> None:
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    full, before, after = map(int, done.stdout.split())
    assert before > full - 2**26  # glibc keeps most of what was freed ...
    assert after < before - 2**27  # ... until it is asked


def test_at_most_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = [100.0], []
    monkeypatch.setattr(heap.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(heap, "_malloc_trim", lambda: calls.append)
    trimmer = heap.HeapTrimmer()
    for now[0] in (100.1, 100.9, 101.0, 101.5, 102.1):
        trimmer.trim()
    assert calls == [0, 0]


@pytest.mark.parametrize("collects", [True, False])
def test_garbage_is_looked_for_again_however_loading_ends(collects: bool) -> None:
    def load() -> None:
        with heap.uncollected():
            assert not gc.isenabled()
            raise ValueError("spoilt weights")

    try:
        (gc.enable if collects else gc.disable)()
        with pytest.raises(ValueError, match="spoilt"):
            load()
        assert gc.isenabled() == collects
        assert gc.get_freeze_count() > 0  # what was there is not looked through again
    finally:
        gc.unfreeze()
        gc.enable()
