"""Finished wells are written in threads of their own: a slow disk does not hold up what embeds."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from typing import TYPE_CHECKING, TypeVar

from unidino_fast.results import WellResult

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from unidino_fast.clock import StageClock
    from unidino_fast.planning import WellTask

    Outcome = TypeVar("Outcome")

_THREADS = 2
"""One prepares a file while the disk takes the other's."""
_MOST_WAITING = 16
"""Wells that wait for the disk; beyond that whoever embeds waits too."""
_PATIENCE = 0.01
"""Share of a well's time that may be spent waiting for its file, to pass it on at once."""
_LEAST_PATIENCE = 0.005
"""Seconds that a disk may take. A wait that is shorter is in vain, and takes a thread that reads
from those that read: of wells of 50 ms these waits took 3."""


def written_behind(
    wells: Generator[tuple[WellTask, Outcome], None, None],
    write: Callable[[WellTask, WellResult], None],
    clock: StageClock,
) -> Generator[tuple[WellTask, Outcome], None, None]:
    """Passes wells on, in order, once they are written.

    However this ends, by an error or by being closed, what was handed to `write` is written first.

    Args:
        wells: tasks with their outcomes, of which each `WellResult` is to be written; closed at
            the end.
        write: called in other threads, of two wells at a time; what it does first of all, once for
            all wells, must stand that.
        clock: its stage `write` takes the time spent on waiting for the disk.

    Raises:
        UnidinoError: whatever `write` raises, in the place of its well.
    """
    waiting: deque[tuple[WellTask, Outcome, Future[None]]] = deque()
    began = time.monotonic()
    with ThreadPoolExecutor(_THREADS, "write") as threads, closing(wells):
        for task, outcome in wells:
            if not isinstance(outcome, WellResult):  # an error does not wait for others
                yield from _passed_on(waiting, clock, most=0)
                yield task, outcome
                continue
            waiting.append((task, outcome, threads.submit(write, task, outcome)))
            patience = _PATIENCE * (time.monotonic() - began)
            if patience >= _LEAST_PATIENCE:
                with clock.stage("write"):
                    wait([own for *_, own in waiting], patience)
            yield from _passed_on(waiting, clock, most=_MOST_WAITING)
            began = time.monotonic()
        yield from _passed_on(waiting, clock, most=0)


def _passed_on(
    waiting: deque[tuple[WellTask, Outcome, Future[None]]], clock: StageClock, *, most: int
) -> Generator[tuple[WellTask, Outcome], None, None]:
    """The first wells that are written, and more of them until no more than `most` wait."""
    while waiting and (len(waiting) > most or waiting[0][2].done()):
        task, outcome, written = waiting.popleft()
        with clock.stage("write"):
            written.result()
        yield task, outcome
