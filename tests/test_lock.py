"""Locks of output folders, held by other processes."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from unidino_fast.errors import OutputError
from unidino_fast.lock import FolderLock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOLD = """
import sys, time
from pathlib import Path
from unidino_fast.lock import FolderLock
FolderLock(Path(sys.argv[1]), shared=sys.argv[2] == "shared").acquire()
print("held", flush=True)
time.sleep(60)
"""


@contextmanager
def held_elsewhere(path: Path, kind: str = "alone") -> Iterator[int]:
    """Another process that holds the lock and is killed at the end; gives its number."""
    command = [sys.executable, "-c", HOLD, str(path), kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process.pid
        finally:
            process.send_signal(signal.SIGKILL)


def test_the_second_says_who_holds_it_and_a_kill_frees_it(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with held_elsewhere(path) as holder:
        with pytest.raises(OutputError, match=f"in use by process {holder} on ") as caught:
            FolderLock(path).acquire()
        assert "\n" not in str(caught.value)
    lock = FolderLock(path)
    lock.acquire()  # although the killed one left its file
    lock.release()
    assert not path.exists()


def test_who_holds_it_can_be_asked_without_taking_it(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    lock = FolderLock(path)
    assert lock.held_by() is None
    with held_elsewhere(path) as holder:
        assert str(lock.held_by()).startswith(f"process {holder} on {platform.node()} since ")
        content = path.read_bytes()
    assert path.read_bytes() == content
    assert lock.held_by() is None  # it was killed
    lock.acquire()
    assert f"process {os.getpid()} on " in str(FolderLock(path).held_by())
    lock.release()
    assert lock.held_by() is None
    assert not path.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"pid": 7, "host": "elsewhere", "since": "2026"}', "process 7 on elsewhere since 2026"),
        (b'{"pid": 7, "host": "a\\u001b[2J\\nb", "since": 3}', "process 7 on a_[2J b since 3"),
        (f'{{"pid": -1, "host": "{platform.node()}", "since": "2026"}}'.encode(), None),
        (f'{{"pid": {10**30}, "host": "{platform.node()}", "since": "2026"}}'.encode(), None),
        (b'{"pid": 7}', None),
        (b"[" * 100_000, None),
        (b"\xff", None),
        (b"", None),
    ],
)
def test_signatures_are_foreign_text(tmp_path: Path, content: bytes, said: str | None) -> None:
    path = tmp_path / ".lock"
    path.write_bytes(content)
    assert FolderLock(path).held_by() == said


def test_shared_locks_keep_a_lone_one_out(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with held_elsewhere(path, "shared"):
        shared = FolderLock(path, shared=True)
        shared.acquire()
        shared.release()
        with pytest.raises(OutputError, match="in use by another run"):
            FolderLock(path).acquire()


def test_a_shared_holder_wipes_the_signature_of_a_killed_one(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    path.write_text('{"pid": 1, "host": "dead", "since": "2020"}')
    with held_elsewhere(path, "shared"), pytest.raises(OutputError, match="in use by another run"):
        FolderLock(path).acquire()


def test_one_of_many_at_once_gets_it(tmp_path: Path) -> None:
    """Processes that take and give back in turn: never two at a time."""
    script = """
import sys, time
from pathlib import Path
from unidino_fast.errors import OutputError
from unidino_fast.lock import FolderLock
folder = Path(sys.argv[1])
until = time.monotonic() + 2
while time.monotonic() < until:
    lock = FolderLock(folder / ".lock")
    try:
        lock.acquire()
    except OutputError:
        continue
    (folder / "inside").mkdir()  # fails where another is inside
    (folder / "inside").rmdir()
    lock.release()
"""
    others = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    for other in others:
        _, error = other.communicate(timeout=60)
        assert other.returncode == 0, error.decode()


def test_a_garbled_signature_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with held_elsewhere(path):
        path.write_bytes(os.urandom(50))
        with pytest.raises(OutputError, match="in use by another run"):
            FolderLock(path).acquire()
