"""Jobs in threads: in order, within their bound, and over when nobody takes what they make."""

from __future__ import annotations

import gc
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from reading_threads import assert_no_threads, reading_threads

from unidino_fast.reading.stream import Batch, Job, ReadAhead, Slot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from unidino_fast.reading.buffers import Scratch


def slots(n: int, n_bytes: int = 10) -> list[Slot]:
    return [Slot(str(i), n_bytes, lambda: np.zeros(1)) for i in range(n)]


def ahead(batches: Iterator[Batch], **options: Any) -> ReadAhead:
    scratches: deque[Scratch] = deque()
    settings: dict[str, Any] = {"n_threads": 3, "helps": True, "max_in_flight": 2**20}
    return ReadAhead(batches, scratches=scratches, **(settings | options))


@pytest.mark.parametrize(
    ("n_threads", "helps", "expected"),
    [
        (3, True, {"MainThread", "read-0", "read-1"}),
        (3, False, {"read-0", "read-1", "read-2"}),
        (1, True, {"read-0"}),
    ],
)
def test_whoever_waits_for_a_field_reads_too(
    n_threads: int, helps: bool, expected: set[str]
) -> None:
    """But for trips; and never all of it: what is read ahead is read by others."""
    at_work: set[str] = set()

    def work(_: Scratch) -> None:
        time.sleep(0.001)
        at_work.add(threading.current_thread().name)

    def batches() -> Iterator[Batch]:
        for _ in range(60):
            [slot] = made = slots(1)
            yield Batch(made, [Job(work, (slot,), 1)] * 2)

    assert len(list(ahead(batches(), n_threads=n_threads, helps=helps))) == 60
    assert at_work == expected


def test_who_gets_a_field_at_once_reads_none() -> None:
    """A consumer that is busy finds fields read ahead, and goes on."""
    own: list[str] = []

    def work(_: Scratch) -> None:
        if threading.current_thread() is threading.main_thread():
            own.append("job")

    def batches() -> Iterator[Batch]:
        for _ in range(20):
            [slot] = made = slots(1)
            yield Batch(made, [Job(work, (slot,), 1)])

    stream = iter(ahead(batches(), n_threads=2))
    next(stream)
    time.sleep(0.3)  # all are read meanwhile
    before = len(own)
    assert len(list(stream)) == 19
    assert len(own) == before


def test_memory_stays_within_its_bound() -> None:
    """Begun and not given back: at most half of the bound, and one slot beyond it at least."""
    begun: list[int] = []
    returned = 0
    most = 0

    def batches() -> Iterator[Batch]:
        for number in range(40):
            made = slots(1)
            yield Batch(made, [Job(lambda _, n=number: begun.append(n), tuple(made), 1)])

    for _ in ahead(batches(), max_in_flight=2 * 35):
        time.sleep(0.002)
        most = max(most, len(begun) - returned)
        returned += 1
    assert returned == 40
    assert 2 <= most <= 3


def test_what_threads_hold_stays_within_its_bound() -> None:
    running: set[int] = set()
    together: list[int] = []
    lock = threading.Lock()

    def work(number: int) -> None:
        with lock:
            running.add(number)
            together.append(len(running))
        time.sleep(0.002)
        with lock:
            running.remove(number)

    [slot] = made = slots(1)
    jobs = [Job(lambda _, n=n: work(n), (slot,), 40) for n in range(20)]
    list(ahead(iter([Batch(made, jobs)]), n_threads=6, max_in_flight=2 * 100))
    assert max(together) == 2
    [slot] = made = slots(1)
    together.clear()
    jobs = [Job(lambda _, n=n: work(n), (slot,), 400) for n in range(5)]
    list(ahead(iter([Batch(made, jobs)]), n_threads=6, max_in_flight=2 * 100))
    assert max(together) == 1


def test_an_error_in_planning_is_the_callers() -> None:
    def batches() -> Iterator[Batch]:
        yield Batch(slots(1), [])
        raise ZeroDivisionError

    stream = iter(ahead(batches()))
    with pytest.raises(ZeroDivisionError):
        list(stream)
    assert not reading_threads()


def test_an_interruption_while_the_caller_reads_is_the_callers() -> None:
    def work(_: Scratch) -> None:
        time.sleep(0.001)
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt

    def batches() -> Iterator[Batch]:
        while True:
            [slot] = made = slots(1)
            yield Batch(made, [Job(work, (slot,), 1)])

    stream = iter(ahead(batches()))
    with pytest.raises(KeyboardInterrupt):
        list(stream)
    assert not reading_threads()


def test_a_thread_that_breaks_off_is_the_callers_failure() -> None:
    """Whoever waits for a field of its is told, and does not wait for ever."""

    def work(_: Scratch) -> None:
        time.sleep(0.001)
        if threading.current_thread() is not threading.main_thread():
            raise SystemExit(3)

    def batches() -> Iterator[Batch]:
        while True:
            [slot] = made = slots(1)
            yield Batch(made, [Job(work, (slot,), 1)])

    for helps in (True, False):
        with pytest.raises(SystemExit):
            list(ahead(batches(), helps=helps))
        assert not reading_threads()


def test_threads_that_cannot_be_started_leave_none_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "read-2":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)

    def batches() -> Iterator[Batch]:
        while True:
            yield Batch(slots(1), [])

    with pytest.raises(RuntimeError, match="can't start"):
        next(iter(ahead(batches(), n_threads=4)))
    assert not reading_threads()


def test_garbage_of_one_stream_may_close_another() -> None:
    """Whose thread waits for a lock that is held where the garbage is found."""
    lock = threading.Lock()
    waits = threading.Event()

    def wait(_: Scratch) -> None:
        waits.set()
        with lock:
            pass

    def waiting() -> Iterator[Batch]:
        yield Batch(slots(1), [])
        made = slots(1)
        yield Batch(made, [Job(wait, tuple(made), 1)])

    def find(_: Scratch) -> None:
        with lock:
            dropped = [iter(ahead(waiting(), n_threads=1))]
            next(dropped[0])
            assert waits.wait(5)
            dropped.append(dropped)  # type: ignore[arg-type]
            del dropped
            gc.collect()

    for helps in (True, False):
        waits.clear()
        made = slots(2)
        jobs = [Job(find, (made[0],), 1), Job(lambda _: None, (made[1],), 1)]
        found = list(ahead(iter([Batch(made, jobs)]), n_threads=2, helps=helps))
        assert [slot.fault for slot in found] == [None, None]
        assert_no_threads()


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_garbage_may_close_the_stream_that_finds_it(n_threads: int) -> None:
    """A stream that was dropped in a cycle, and is found while one of its threads plans."""
    dropped = threading.Event()
    found = threading.Event()

    def batches() -> Iterator[Batch]:
        yield Batch(slots(1), [])
        made = slots(1)  # keeps all threads until then
        yield Batch(made, [Job(lambda _: assert_set(dropped), tuple(made), 1)] * n_threads)
        gc.collect()
        found.set()
        while True:
            yield Batch(slots(1), [])

    def drop() -> None:
        cycle: list[Any] = [iter(ahead(batches(), n_threads=n_threads, helps=False))]
        next(cycle[0])
        cycle.append(cycle)

    gc.disable()  # so that it is found there
    try:
        drop()
        dropped.set()
        assert_set(found)
        assert_no_threads()
    finally:
        gc.enable()


def assert_set(event: threading.Event) -> None:
    assert event.wait(5)
