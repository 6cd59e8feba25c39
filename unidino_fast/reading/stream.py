"""Reads ahead in order: threads that take piles of chunks, and a bound on the bytes they hold."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

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
        done: held until nothing is pending. Whoever waits for that wakes up once, where a condition
            has it wake up, wait for the interpreter, and wait for the condition's lock.
    """

    name: str
    n_bytes: int
    make: Callable[[], Pixels] | None = None
    note: Callable[[Pixels], Any] | None = None
    pending: int = 0
    planes: Pixels | None = None
    noted: Any = None
    fault: BaseException | None = None
    done: threading.Lock = field(default_factory=threading.Lock)


class Job(NamedTuple):
    """What one thread does in one go.

    Attributes:
        run: does it; an exception is the fault of all its slots.
        slots: fields that wait for it.
        n_bytes: that it holds while it runs, beside the pixels.
    """

    run: Callable[[Scratch], None]
    slots: tuple[Slot, ...]
    n_bytes: int


class Batch(NamedTuple):
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
        """Of what threads wait for: jobs, and room."""
        self._next: Batch | None = None
        self._jobs: deque[Job] = deque()
        self._begun: SimpleQueue[Slot | None] = SimpleQueue()
        """Slots in order; None behind the last."""
        self._pending: set[Slot] = set()
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
            while (slot := self._begun.get()) is not None:
                slot.done.acquire()
                if self._failure is not None:
                    break
                yield slot
                with self._changed:
                    self._pixels -= slot.n_bytes
                    self._changed.notify_all()
            if self._failure is not None:
                raise self._failure
        finally:
            self._close()

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
            job = self._taken(None, None)
            while job is not None:
                job = self._taken(job, _fault_of(job, scratch))
            self._scratches.append(scratch)
        except BaseException as error:  # of the batches
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._failure = error
            self._begun.put(None)
            for slot in self._pending:
                slot.done.release()
            self._pending.clear()

    def _taken(self, done: Job | None, fault: BaseException | None) -> Job | None:
        """Lets go of a job; the next, as soon as there is one and room for it. None at the end."""
        with self._changed:
            complete = self._finished(done, fault) if done is not None else ()
            if not complete:
                return self._waited()
        for slot in complete:
            _look(slot)
        with self._changed:
            for slot in complete:
                self._let_go(slot)
            return self._waited()

    def _waited(self) -> Job | None:
        """The next job. The lock is held, but while it waits."""
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
                self._begun.put(None)
                self._changed.notify_all()
                return True
        n_bytes = sum(slot.n_bytes for slot in self._next.slots)
        if self._pixels and self._pixels + n_bytes > self._most:
            return False
        self._pixels += n_bytes
        batch, self._next = self._next, None
        for slot in batch.slots:
            _begin(slot)
        for job in batch.jobs:
            for slot in job.slots:
                slot.pending += 1
        for slot in batch.slots:
            slot.done.acquire()
            self._pending.add(slot)
            if not slot.pending:
                slot.pending = 1
                self._let_go(slot)
            self._begun.put(slot)
        self._jobs += batch.jobs
        self._changed.notify_all()
        return True

    def _finished(self, job: Job, fault: BaseException | None) -> list[Slot]:
        """Lets go of a job; gives the fields that have all pixels now and are to be looked at."""
        complete = []
        if self._jobs and self._scratch + self._jobs[0].n_bytes > self._most:
            self._changed.notify_all()
        self._scratch -= job.n_bytes
        for slot in job.slots:
            slot.fault = slot.fault or fault
            if slot.pending == 1 and slot.note is not None and slot.fault is None:
                complete.append(slot)  # and stays pending
            else:
                self._let_go(slot)
        return complete

    def _let_go(self, slot: Slot) -> None:
        slot.pending -= 1
        if not slot.pending and slot in self._pending:  # not after a failure
            self._pending.remove(slot)
            slot.done.release()


def _fault_of(job: Job, scratch: Scratch) -> BaseException | None:
    """Does a job, unless all its slots are at fault already; what went wrong."""
    if all(slot.fault for slot in job.slots):
        return None
    try:
        job.run(scratch)
    except BaseException as error:
        return error
    return None


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
