"""Reads ahead in order: threads that take piles of chunks, and a bound on the bytes they hold."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from unidino_fast.reading.buffers import Scratch

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from numpy.typing import NDArray

    from unidino_fast.reading.looks import Look

    Pixels = NDArray[Any]


_AT_WORK = threading.local()
"""`reads` is true in a thread that reads, in a consumer's while it does."""
_BLAMING = threading.Lock()


@dataclass(slots=True, eq=False)
class Slot:
    """A field that is being read.

    Attributes:
        name: of the field, for messages.
        n_bytes: of its pixels.
        make: allocates them.
        look: at its planes, while they are read.
        pending: jobs that it waits for.
        planes: pixels (C, Y, X) once it is begun.
        fault: what went wrong first, in the order of what is read.
        fault_at: where in that order.
        done: held until nothing is pending. Whoever waits for that wakes up once, where a condition
            has it wake up, wait for the interpreter, and wait for the condition's lock.
    """

    name: str
    n_bytes: int
    make: Callable[[], Pixels] | None = None
    look: Look | None = None
    pending: int = 0
    planes: Pixels | None = None
    fault: BaseException | None = None
    fault_at: int = -1
    done: threading.Lock = field(default_factory=threading.Lock)

    def blame(self, error: BaseException, at: int) -> None:
        """Takes an error of what is read at a place in the order, unless it has an earlier one.

        So the same is named each time, whichever of several threads comes first.
        """
        with _BLAMING:
            if self.fault is None or at < self.fault_at:
                self.fault, self.fault_at = error, at

    def is_lost(self, at: int) -> bool:
        """Whether something before that place is at fault, so that it need not be read."""
        return self.fault is not None and self.fault_at < at


class Job(NamedTuple):
    """What one thread does in one go.

    Attributes:
        run: does it; an exception is the fault of all its slots.
        slots: fields that wait for it.
        n_bytes: that it holds while it runs, beside the pixels.
        at: where it begins, in the order of what is read.
    """

    run: Callable[[Scratch], None]
    slots: tuple[Slot, ...]
    n_bytes: int
    at: int = 0


class Batch(NamedTuple):
    """Fields that are begun together, and their jobs in order."""

    slots: list[Slot]
    jobs: list[Job]


class ReadAhead:
    """Runs the jobs of batches in threads, in order, and gives the slots out in order.

    Whoever waits for a slot does jobs meanwhile: on as many cores as there are threads, one more
    that woke up for each field would take a core from them, and they the interpreter from it.

    Half of `max_in_flight` is for the pixels of fields that are begun and not yet given back, half
    for what threads hold while they decode. A field, or a chunk, beyond its half is read alone.

    Args:
        batches: what to do; asked for the next one as soon as there is room for another.
        n_threads: that do it, the caller's among them if it `helps`. One alone is never the
            caller's: it reads ahead.
        helps: whether the caller's thread does jobs while it waits: where jobs are work, and not
            trips that others wait for.
        max_in_flight: bytes.
        scratches: those of threads that have ended, which new ones take over.
    """

    def __init__(
        self,
        batches: Iterator[Batch],
        *,
        n_threads: int,
        helps: bool,
        max_in_flight: int,
        scratches: deque[Scratch],
    ) -> None:
        self._batches = batches
        self._scratches = scratches
        self._most = max(max_in_flight // 2, 1)
        self._lock = threading.RLock()
        """Held for all that follows; garbage found meanwhile may close this stream."""
        self._changed = threading.Condition(self._lock)
        """Of what threads wait for: jobs, and room."""
        self._next: Batch | None = None
        self._jobs: deque[Job] = deque()
        self._begun: deque[Slot] = deque()
        """In order, but for those that were given out."""
        self._pixels = 0
        self._scratch = 0
        self._is_over = False
        self._failure: BaseException | None = None
        self._helps = helps and n_threads > 1
        self._threads = [
            threading.Thread(target=self._work, name=f"read-{number}", daemon=True)
            for number in range(n_threads - self._helps)
        ]

    def __iter__(self) -> Generator[Slot, None, None]:
        """Slots in order, each done; a slot counts as held until the next one is asked for."""
        scratch = self._scratch_of_thread()
        try:
            for thread in self._threads:
                thread.start()
            while (slot := self._first(scratch)) is not None:
                yield slot
                with self._lock:
                    self._pixels -= slot.n_bytes
                    self._changed.notify_all()
        finally:
            self._close()
            self._scratches.append(scratch)

    def _close(self) -> None:
        with self._lock:
            self._is_over = True
            self._jobs.clear()
            self._changed.notify_all()
        if getattr(_AT_WORK, "reads", False):
            return  # garbage of what is read closes this: its threads may wait for a lock held here
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def _first(self, scratch: Scratch) -> Slot | None:
        """The next slot, once it is done; None behind the last."""
        while True:
            with self._lock:
                if self._failure is not None:
                    raise self._failure
                # where no slot is held there is room for one
                if not self._begun and (self._is_over or not self._begin_batch()):
                    return None
                slot = self._begun[0]
                if not slot.pending:
                    return self._begun.popleft()
                job = self._job() if self._helps else None
            if job is None:
                slot.done.acquire()
            else:
                self._help(job, scratch)

    def _help(self, job: Job, scratch: Scratch) -> None:
        """Does a job in the consumer's thread, which may itself be one that reads."""
        before = getattr(_AT_WORK, "reads", False)
        _AT_WORK.reads = True
        try:
            self._do(job, scratch)
        finally:
            _AT_WORK.reads = before

    def _work(self) -> None:
        _AT_WORK.reads = True
        try:
            scratch = self._scratch_of_thread()
            while (job := self._awaited_job()) is not None:
                self._do(job, scratch)
            self._scratches.append(scratch)
        except BaseException as error:  # of the batches
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self._failure is None:
                self._failure = error
                for slot in self._begun:
                    if slot.pending:
                        slot.done.release()

    def _scratch_of_thread(self) -> Scratch:
        try:
            return self._scratches.pop()
        except IndexError:
            return Scratch()

    def _awaited_job(self) -> Job | None:
        """The next job, as soon as there is one and room for it; None at the end."""
        with self._lock:
            while (job := self._job()) is None:
                if self._is_over and not self._jobs:
                    return None
                self._changed.wait()
            return job

    def _job(self) -> Job | None:
        """The next job, if there is one and room for it."""
        while not self._jobs:
            if self._is_over or not self._begin_batch():
                return None
        n_bytes = self._jobs[0].n_bytes
        if self._scratch and self._scratch + n_bytes > self._most:
            return None
        self._scratch += n_bytes
        return self._jobs.popleft()

    def _begin_batch(self) -> bool:
        """Begins the next batch, if there is one and room for it."""
        if self._next is None:
            self._next = next(self._batches, None)
            if self._next is None:
                self._is_over = True
                self._changed.notify_all()
                return False
        n_bytes = sum(slot.n_bytes for slot in self._next.slots)
        if self._pixels and self._pixels + n_bytes > self._most:
            return False
        self._pixels += n_bytes
        batch, self._next = self._next, None
        for job in batch.jobs:
            for slot in job.slots:
                slot.pending += 1
        for slot in batch.slots:
            _begin(slot)
            if slot.pending:
                slot.done.acquire()
        self._begun += batch.slots
        self._jobs += batch.jobs
        self._changed.notify_all()
        return True

    def _do(self, job: Job, scratch: Scratch) -> None:
        """Does a job and lets go of it."""
        _run(job, scratch)
        with self._lock:
            if self._jobs and self._scratch + self._jobs[0].n_bytes > self._most:
                self._changed.notify_all()
            self._scratch -= job.n_bytes
            for slot in job.slots:
                slot.pending -= 1
                if not slot.pending and self._failure is None:
                    slot.done.release()


def _run(job: Job, scratch: Scratch) -> None:
    """Does a job, unless all its slots are lost already; what goes wrong is their fault."""
    if all(slot.is_lost(job.at) for slot in job.slots):
        return
    try:
        job.run(scratch)
    except Exception as error:
        for slot in job.slots:
            slot.blame(error, job.at)


def _begin(slot: Slot) -> None:
    if slot.make is not None:
        try:
            slot.planes = slot.make()
        except MemoryError as error:
            slot.fault = error
        slot.make = None
