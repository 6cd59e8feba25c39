"""Reads ahead in order: threads that take piles of chunks, and a bound on the bytes they hold."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unidino_fast.reading.buffers import Scratch

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from numpy.typing import NDArray

    Pixels = NDArray[Any]


@dataclass(slots=True, eq=False)
class Slot:
    """A field that is being read.

    Attributes:
        name: of the field, for messages.
        n_bytes: of its pixels.
        make: allocates them.
        note: takes a look at them once they are all there, in the thread that read the last.
        pending: jobs that it waits for.
        planes: pixels (C, Y, X) once it is begun.
        noted: what `note` gave.
        fault: what went wrong first.
    """

    name: str
    n_bytes: int
    make: Callable[[], Pixels] | None = None
    note: Callable[[Pixels], Any] | None = None
    pending: int = 0
    planes: Pixels | None = None
    noted: Any = None
    fault: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """What one thread does in one go.

    Attributes:
        run: does it; an exception is the fault of all its slots.
        slots: fields that wait for it.
        n_bytes: that it holds while it runs, beside the pixels.
    """

    run: Callable[[Scratch], None]
    slots: tuple[Slot, ...]
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Fields that are begun together, and their jobs in order."""

    slots: list[Slot]
    jobs: list[Job]


class ReadAhead:
    """Runs the jobs of batches in threads, in order, and gives the slots out in order.

    Half of `max_in_flight` is for the pixels of fields that are begun and not yet given back, half
    for what threads hold while they decode. A field, or a chunk, beyond its half is read alone.

    Args:
        batches: what to do; asked for the next one as soon as there is room for another.
        n_threads: that do it.
        max_in_flight: bytes.
        scratches: those of threads that have ended, which new ones take over.
    """

    def __init__(
        self,
        batches: Iterator[Batch],
        *,
        n_threads: int,
        max_in_flight: int,
        scratches: deque[Scratch],
    ) -> None:
        self._batches = batches
        self._scratches = scratches
        self._most = max(max_in_flight // 2, 1)
        self._changed = threading.Condition()
        self._next: Batch | None = None
        self._jobs: deque[Job] = deque()
        self._slots: deque[Slot] = deque()
        self._pixels = 0
        self._scratch = 0
        self._is_over = False
        self._failure: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._work, name=f"read-{number}", daemon=True)
            for number in range(n_threads)
        ]

    def __iter__(self) -> Generator[Slot, None, None]:
        """Slots in order, each done; a slot counts as held until the next one is asked for."""
        for thread in self._threads:
            thread.start()
        try:
            while (slot := self._first_done()) is not None:
                yield slot
                with self._changed:
                    self._slots.popleft()
                    self._pixels -= slot.n_bytes
                    self._changed.notify_all()
        finally:
            self._close()

    def _first_done(self) -> Slot | None:
        with self._changed:
            while self._failure is None:
                if self._slots and not self._slots[0].pending:
                    return self._slots[0]
                if self._is_over and not self._slots:
                    return None
                self._changed.wait()
            raise self._failure

    def _close(self) -> None:
        with self._changed:
            self._is_over = True
            self._jobs.clear()
            self._changed.notify_all()
        for thread in self._threads:
            if thread is not threading.current_thread():  # where a job's garbage closes this
                thread.join()

    def _work(self) -> None:
        try:
            try:
                scratch = self._scratches.pop()
            except IndexError:
                scratch = Scratch()
            while self._one(scratch):
                pass
            self._scratches.append(scratch)
        except BaseException as error:  # of the batches
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _one(self, scratch: Scratch) -> bool:
        """Does a job; False when all is over."""
        job = self._taken()
        if job is None:
            return False
        fault: BaseException | None = None
        if not all(slot.fault for slot in job.slots):
            try:
                job.run(scratch)
            except BaseException as error:
                fault = error
        complete = self._finished(job, fault)
        if complete:
            for slot in complete:
                _look(slot)
            self._give_out(complete)
        return True

    def _taken(self) -> Job | None:
        """The next job, as soon as there is one and room for it; None when all is over."""
        with self._changed:
            while True:
                if self._jobs:
                    n_bytes = self._jobs[0].n_bytes
                    if not self._scratch or self._scratch + n_bytes <= self._most:
                        self._scratch += n_bytes
                        return self._jobs.popleft()
                elif self._is_over:
                    return None
                elif self._begin_batch():
                    continue
                self._changed.wait()

    def _begin_batch(self) -> bool:
        """Begins the next batch where there is room for it."""
        if self._next is None:
            self._next = next(self._batches, None)
            if self._next is None:
                self._is_over = True
                self._changed.notify_all()
                return True
        n_bytes = sum(slot.n_bytes for slot in self._next.slots)
        if self._pixels and self._pixels + n_bytes > self._most:
            return False
        self._pixels += n_bytes
        for slot in self._next.slots:
            _begin(slot)
        for job in self._next.jobs:
            for slot in job.slots:
                slot.pending += 1
        self._slots += self._next.slots
        self._jobs += self._next.jobs
        self._next = None
        self._changed.notify_all()
        return True

    def _finished(self, job: Job, fault: BaseException | None) -> list[Slot]:
        """Lets go of a job; gives the fields that have all pixels now and are to be looked at."""
        complete = []
        with self._changed:
            was_full = self._jobs and self._scratch + self._jobs[0].n_bytes > self._most
            self._scratch -= job.n_bytes
            is_done = False
            for slot in job.slots:
                slot.fault = slot.fault or fault
                if slot.pending == 1 and slot.note is not None and slot.fault is None:
                    complete.append(slot)  # and stays pending
                    continue
                slot.pending -= 1
                is_done = is_done or not slot.pending
            if is_done or was_full:
                self._changed.notify_all()
        return complete

    def _give_out(self, slots: list[Slot]) -> None:
        with self._changed:
            for slot in slots:
                slot.pending -= 1
            self._changed.notify_all()


def _look(slot: Slot) -> None:
    if slot.note is not None and slot.planes is not None:
        try:
            slot.noted = slot.note(slot.planes)
        except BaseException as error:
            slot.fault = error


def _begin(slot: Slot) -> None:
    if slot.make is not None:
        try:
            slot.planes = slot.make()
        except MemoryError as error:
            slot.fault = error
        slot.make = None
