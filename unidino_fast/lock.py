"""Keeps two runs out of one output folder.

The lock is the kernel's (`flock`), so it ends with the process that holds it, however that ends,
and no clock decides whether a lock is stale. NFS and the cluster file systems pass it on to other
hosts, where they are mounted with locks.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import json
import logging
import os
import platform
from typing import TYPE_CHECKING, NamedTuple

from unidino_fast.errors import OutputError
from unidino_fast.names import short_line

if TYPE_CHECKING:
    from pathlib import Path

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)
_UNREADABLE = (ValueError, KeyError, TypeError, RecursionError)
"""What reading a signature raises where it is none."""
_MOST_BYTES = 1000

_log = logging.getLogger(__name__)


class FolderLock:
    """A lock on a file of a folder, held by this process.

    Args:
        path: the lock's file, made by `acquire` and removed by `release`.
        shared: others may hold it at the same time, if they share it too.
    """

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        self._path = path
        self._shared = shared
        self._file: int | None = None

    def acquire(self) -> None:
        """Takes the lock.

        Raises:
            OutputError: another process holds it: says which.
            OSError: the file cannot be made.
        """
        while self._file is None:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                self._lock(file)
                if self._is_current(file):
                    self._file = file
            finally:
                if self._file is None:
                    os.close(file)
        if self._shared:
            os.ftruncate(self._file, 0)  # what a killed run has signed
        else:
            self._sign(self._file)

    def release(self) -> None:
        """Gives the lock back; nothing happens where it is not held."""
        if self._file is None:
            return
        if not self._shared:
            with contextlib.suppress(OSError):  # the folder may be gone
                self._path.unlink(missing_ok=True)
        os.close(self._file)
        self._file = None

    def held_by(self) -> str | None:
        """Who holds the lock by what it has signed, or was killed while it did; changes nothing.

        None where nobody does. To ask the kernel would be to take the lock for a moment, in which
        a run that begins would find the folder in use.
        """
        try:
            signed = _signature(self._path.read_bytes())
        except (OSError, *_UNREADABLE):
            return None
        if signed.host == platform.node() and not _is_running(signed.pid):
            return None
        return str(signed)

    def _lock(self, file: int) -> None:
        kind = fcntl.LOCK_SH if self._shared else fcntl.LOCK_EX
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"{self._path.parent} is in use by {_holder(file)}: wait for it, or choose another"
                " --out"
            ) from None
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            _log.warning(
                "%s: this file system has no locks: see to it that no other run writes there",
                self._path.parent,
            )

    def _is_current(self, file: int) -> bool:
        """Whether the file that was locked is still the one of that name: not just removed."""
        try:
            return os.path.samestat(os.fstat(file), self._path.stat())
        except FileNotFoundError:
            return False

    def _sign(self, file: int) -> None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        text = json.dumps({"pid": os.getpid(), "host": platform.node(), "since": now})
        os.ftruncate(file, 0)
        os.pwrite(file, text.encode(), 0)


class _Signature(NamedTuple):
    """Who holds a lock, in its own words."""

    pid: int
    host: str
    since: str

    def __str__(self) -> str:
        host, since = short_line(self.host, 60), short_line(self.since, 30)
        return f"process {self.pid} on {host} since {since}"


def _signature(content: bytes) -> _Signature:
    """What stands in a lock's file; raises one of `_UNREADABLE` where it is something else."""
    signed = json.loads(content[:_MOST_BYTES])
    return _Signature(int(signed["pid"]), str(signed["host"]), str(signed["since"]))


def _holder(file: int) -> str:
    try:
        return str(_signature(os.pread(file, _MOST_BYTES, 0)))
    except (OSError, *_UNREADABLE):
        return "another run"


def _is_running(pid: int) -> bool:
    """Whether this host has such a process; of others' processes it is not told more."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return pid > 0
