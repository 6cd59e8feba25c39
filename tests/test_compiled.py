"""What numba compiles: kept on disk if that can be, and taken once it is worth it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from unidino_fast.compiled import Compiled

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PROGRAM = """
import ctypes, resource, sys
if "no-room" in sys.argv:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
from unidino_fast.compiled import callback, compiled

def triple(number):
    return 3 * number

from_c = callback(triple, "int64(int64)")
assert ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(from_c.address)(7) == 21

@compiled
def double(number):
    return 2 * number

@compiled
def more(number):
    return double(number) + 1

found = more(21)
hits = sum(more.stats.cache_hits.values()) if hasattr(more, "stats") else "plain"
print(found, hits, from_c.cache_hits)
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., str]:
    """Runs a program whose functions are kept in a folder; what it prints, and that it is quiet."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    def go(*arguments: str, **env: str) -> str:
        done = subprocess.run(
            [sys.executable, str(program), *arguments],
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "kept"), **env},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.strip()

    return go


def test_what_was_compiled_is_kept(run: Callable[..., str]) -> None:
    assert [run(), run()] == ["43 0 0", "43 1 1"]


@pytest.mark.parametrize("length", [0, 20])
@pytest.mark.parametrize("kind", ["nbi", "nbc"])
def test_what_is_damaged_is_compiled_and_kept_anew(
    kind: str, length: int, run: Callable[..., str], tmp_path: Path
) -> None:
    run()
    files = list((tmp_path / "kept").rglob(f"*.{kind}"))
    assert len(files) == 3
    for file in files:
        os.truncate(file, length)
    assert [run(), run()] == ["43 0 0", "43 1 1"]


def test_where_it_cannot_be_kept(run: Callable[..., str], tmp_path: Path) -> None:
    """No room for a file; a folder that is none; nothing compiled at all."""
    assert [run("no-room"), run("no-room")] == ["43 0 0", "43 0 0"]
    (tmp_path / "file").touch()
    assert run(NUMBA_CACHE_DIR=str(tmp_path / "file")).startswith("43 ")
    assert run(NUMBA_DISABLE_JIT="1").startswith("43 plain ")


def test_an_interrupted_compiler_is_tried_again() -> None:
    tries = []

    def make() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise KeyboardInterrupt
        return "made"

    choice = Compiled(make, after=10, lack="")
    assert choice.for_more(10) is None
    with pytest.raises(KeyboardInterrupt):
        choice.for_more(1)
    assert [choice.for_more(1), choice.for_more(1)] == ["made", "made"]
    assert len(tries) == 2


def test_threads_that_begin_at_once_both_have_theirs() -> None:
    """One imports all of numba; the other a part of it, which the first will ask for."""
    program = """
import sys, threading, time
from unidino_fast.compiled import Compiled

def whole():
    import numba
    return numba

def part():
    from numba.np.numpy_support import carray
    return carray

one, other = (Compiled(make, after=-1, lack="without") for make in (whole, part))
thread = threading.Thread(target=one.for_more, args=(1,))
thread.start()
while "numba" not in sys.modules:
    time.sleep(0.001)
has_other = other.for_more(1) is not None
thread.join()
print(one.for_more(1) is not None, has_other)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True True\n", "")
