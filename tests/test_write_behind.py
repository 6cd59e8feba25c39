"""Wells that are written behind: in order, bounded, whatever is handed over gets written."""

from __future__ import annotations

import itertools
import threading
import time
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from result_factory import result, task

from unidino_fast import write_behind
from unidino_fast.clock import StageClock
from unidino_fast.errors import OutputError, PixelError
from unidino_fast.write_behind import written_behind

if TYPE_CHECKING:
    from collections.abc import Generator

N_WELLS = 40


def outcomes(log: list[Any], *, n_wells: int = N_WELLS) -> Generator[Any, None, None]:
    """Wells that cost no time; `log` takes note of each, and of the end."""
    try:
        for column in range(1, n_wells + 1):
            log.append(column)
            yield task(result((0, column))), result((0, column))
    finally:
        log.append("closed")


def test_wells_come_in_order_once_they_are_written() -> None:
    written: list[str] = []

    def write(task: Any, result: Any) -> None:
        time.sleep(0.001 if int(task.name[1:]) % 3 else 0.01)
        written.append(task.name)

    for index, (done, _) in enumerate(written_behind(outcomes([]), write, StageClock()), 1):
        assert done.name == f"A{index:02d}"
        assert done.name in written
    assert len(written) == N_WELLS


def test_a_well_that_took_long_is_passed_on_before_the_next_is_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hours = itertools.count(0.0, 3600.0)
    monkeypatch.setattr(write_behind.time, "monotonic", lambda: next(hours))
    log: list[Any] = []
    stream = written_behind(outcomes(log), lambda task, result: time.sleep(0.01), StageClock())
    assert next(stream)[0].name == "A01"
    assert log == [1]
    stream.close()


def test_one_that_took_less_than_its_file_may_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits = mock.Mock()
    monkeypatch.setattr(write_behind, "wait", waits)
    clock = itertools.count(0.0, 0.1)
    monkeypatch.setattr(write_behind.time, "monotonic", lambda: next(clock))
    done = written_behind(outcomes([]), lambda task, result: None, StageClock())
    assert len(list(done)) == N_WELLS
    waits.assert_not_called()


def test_a_slow_disk_holds_the_network_up_in_the_end() -> None:
    asked: list[Any] = []
    gate = threading.Event()

    def write(task: Any, result: Any) -> None:
        gate.wait()

    threading.Timer(0.3, gate.set).start()
    next(written_behind(outcomes(asked), write, StageClock()))
    assert 10 < len(asked) < 20


def test_the_first_error_comes_in_the_place_of_its_well_and_the_rest_is_written() -> None:
    log: list[Any] = []
    written: list[str] = []

    def write(task: Any, result: Any) -> None:
        if task.name == "A03":
            raise OutputError("full")
        written.append(task.name)

    stream = written_behind(outcomes(log), write, StageClock())
    assert [next(stream)[0].name, next(stream)[0].name] == ["A01", "A02"]
    with pytest.raises(OutputError, match="full"):
        next(stream)
    *asked, end = log
    assert end == "closed"
    assert sorted(written) == [f"A{column:02d}" for column in asked if column != 3]


def test_what_was_handed_over_is_written_when_the_consumer_stops() -> None:
    log: list[Any] = []
    written: list[str] = []

    def write(task: Any, result: Any) -> None:
        time.sleep(0.01)
        written.append(task.name)

    stream = written_behind(outcomes(log), write, StageClock())
    next(stream)
    stream.close()
    assert sorted(written) == [f"A{column:02d}" for column in log[:-1]]


def test_a_fault_of_pixels_waits_for_no_later_well() -> None:
    log: list[Any] = []

    def wells() -> Generator[Any, None, None]:
        for done, found in outcomes(log):
            yield done, PixelError("torn") if done.name == "A02" else found

    stream = written_behind(wells(), lambda task, result: time.sleep(0.05), StageClock())
    assert [next(stream)[0].name, next(stream)[0].name] == ["A01", "A02"]
    assert log == [1, 2]
    stream.close()
