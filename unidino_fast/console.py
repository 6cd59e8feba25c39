"""What the command line shows while it works: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from unidino_fast.terminal import heed_interruption, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from rich.progress import Progress

    from unidino_fast.planning import WellTask

_SECONDS_BETWEEN_LINES = 15.0


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        kind = "warning" if record.levelno >= logging.WARNING else "note"
        say(f"{kind}: {record.getMessage()}")


def log_to_console() -> None:
    """Shows this package's warnings as plain lines on standard error, and what engines note.

    That is which engine `auto` chose and why, and how long compiling or building one took.
    """
    logger = logging.getLogger("unidino_fast")
    logger.handlers = [_Lines()]
    logger.propagate = False
    logging.getLogger("unidino_fast.engines").setLevel(logging.INFO)


class WellProgress:
    """Progress over the wells of a plate; give `start` and `well` to `embed_to_folder`.

    Args:
        place: what stands before its lines, where there are several plates.
    """

    def __init__(self, place: str = "") -> None:
        self._place = place
        self._bar: Progress | None = None
        self._done = self._total = self._tiles = 0
        self._began = self._said = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def start(self, tasks: Sequence[WellTask], n_finished: int) -> None:
        """Begins, with the wells to do and the number of those that a former run finished."""
        self._total, self._done = len(tasks) + n_finished, n_finished
        if not tasks:
            done = f"all {self._total} wells are done already"
            say(self._place + (done if n_finished else "no well falls to this shard"))
            return
        if n_finished:
            say(f"{self._place}going on: {n_finished} of {self._total} wells are done already")
        self._bar = _well_bar()
        if self._bar is not None:
            self._bar.add_task(self._place, total=self._total, completed=self._done, rate="")
            self._bar.start()
        else:
            wells = "1 well" if len(tasks) == 1 else f"{len(tasks)} wells"
            say(f"{self._place}embedding {sum(t.n_tiles for t in tasks)} tiles of {wells}")
        self._began = self._said = time.monotonic()
        self._tiles = 0

    def well(self, task: WellTask) -> None:
        """Takes note of a finished well.

        Raises:
            KeyboardInterrupt: the run was interrupted, where Python has dropped that.
        """
        heed_interruption()
        self._done += 1
        self._tiles += task.n_tiles
        now = time.monotonic()
        rate = f"{self._tiles / max(now - self._began, 1e-9):.1f} tiles/s"
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done, rate=rate)
        elif now - self._said >= _SECONDS_BETWEEN_LINES:
            self._said = now
            say(f"{self._place}{self._done} of {self._total} wells, {rate}")


def _well_bar() -> Progress | None:
    """A bar where standard error is a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        return None
    return Progress(
        TextColumn("{task.description}embedding", markup=False),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} wells, {task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )


@contextmanager
def file_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yields a callback (done, total) that shows progress over files or fields."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total: None
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
