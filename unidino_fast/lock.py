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
from typing import TYPE_CHECKING

from unidino_fast.errors import OutputError

if TYPE_CHECKING:
    from pathlib import Path

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)

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


def _holder(file: int) -> str:
    try:
        signed = json.loads(os.pread(file, 1000, 0))
        return (
            f"process {int(signed['pid'])} on {signed['host']!s:.60} since {signed['since']!s:.30}"
        )
    except (OSError, ValueError, KeyError, TypeError):
        return "another run"
