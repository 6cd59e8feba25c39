"""How many wells make a job, and that each is done once whatever that number is."""

from __future__ import annotations

import math
import os
from contextlib import closing
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

import pytest
from distributed.client import ClosedClientError
from distributed.comm.core import CommClosedError

import unidino_fast as uf
from unidino_fast.cluster import job, session
from unidino_fast.cluster.dispatch import Dispatcher, wells_per_job
from unidino_fast.cluster.job import Done, PlateJob, WellsJob, Written
from unidino_fast.config import EmbedOptions
from unidino_fast.errors import ClusterError
from unidino_fast.planning import plan_plate
from unidino_fast.reading import Absent
from unidino_fast.results import WellResult

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import polars as pl

    from unidino_fast.cluster.session import Session
    from unidino_fast.planning import WellTask


@pytest.mark.parametrize(
    ("n_waiting", "n_workers", "n_tiles", "seconds", "expected"),
    [
        (384, 1, 720, None, 1),  # nothing is known yet, but a well is more than 256 tiles
        (384, 1, 100, None, 3),
        (384, 100, 1, None, 1),  # three wells a worker: none gets them all
        (384, 1, 720, 30.0, 1),
        (384, 1, 720, 0.5, 4),  # two seconds
        (20, 2, 720, 0.1, 5),  # a half of a worker's share
        (20, 8, 720, 0.1, 2),  # less would be over in no time
        (384, 8, 720, 0.0, 64),
        (3, 8, 720, 0.0, 3),
        (1, 8, 720, None, 1),
    ],
)
def test_wells_per_job(
    n_waiting: int, n_workers: int, n_tiles: int, seconds: float | None, expected: int
) -> None:
    assert wells_per_job(n_waiting, n_workers, n_tiles, seconds) == expected


def test_jobs_end_together() -> None:
    """Of slow wells, the last job that is handed out is the shortest one there is."""
    left, sizes = 384, []
    while left:
        sizes.append(wells_per_job(left, 4, 16, 0.2))
        left -= sizes[-1]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 10
    assert sizes[-1] == 1


def test_each_well_is_done_once_in_few_jobs(
    small_plate: tuple[Path, pl.DataFrame], workers: Session, tmp_path: Path
) -> None:
    task = plan_plate(uf.open_plate(small_plate[0]), EmbedOptions(tile=32)).wells[0]
    plate = PlateJob("", {}, "", "p", EmbedOptions(tile=32), 1, "", "", "")
    log = tmp_path / "jobs"
    log.mkdir()

    def noted(one: WellsJob) -> Done:
        (log / one.stamps[0]).write_text("\n".join(one.stamps))  # type: ignore[arg-type, type-var]
        return Done(tuple(Written() for _ in one.wells), {"embed": 1e-6}, Absent())

    names = tuple(f"w{index}" for index in range(384))
    work = WellsJob(plate, (task,) * len(names), names)
    with closing(Dispatcher(workers.client, noted).run(work)) as done:
        n_done = sum(1 for _ in done)
    jobs = [path.read_text().split() for path in log.iterdir()]
    assert n_done == len(names)
    assert sorted(name for job in jobs for name in job) == sorted(names)
    assert len(jobs) < 40, "four in hand before the first ends, then 64 wells a job"
    assert os.getpid() not in workers.client.run(os.getpid).values()


def test_a_worker_that_is_late_writes_nothing(
    small_plate: tuple[Path, pl.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is ended while a worker embeds for it: the next run may have the folder by now."""
    task = plan_plate(uf.open_plate(small_plate[0]), EmbedOptions(tile=32)).wells[0]
    marker = tmp_path / ".run"
    marker.touch()

    def embed_wells(*_: object, **__: object) -> Iterator[tuple[WellTask, WellResult]]:
        marker.unlink()
        yield task, WellResult(task.well.position, ())

    monkeypatch.setattr(job, "embed_wells", embed_wells)
    monkeypatch.setattr(job, "_model", lambda plate: mock.Mock())
    monkeypatch.setattr(job, "_storage", lambda *_: mock.MagicMock())
    monkeypatch.setattr(job, "stamp_as_read", lambda *_: None)
    plate = PlateJob("", {}, "", "p", EmbedOptions(tile=32), 1, str(tmp_path), marker.name, "made")
    with pytest.raises(ClusterError, match=f"asked for {task.name} has ended"):
        job.run_job(WellsJob(plate, (task,), (None,)))
    assert list(tmp_path.iterdir()) == []


def test_a_death_counts_against_the_job_that_was_begun_last() -> None:
    """Another one waited behind it, one was done but not told of yet; other workers live on."""
    events = [("one", 0), ("two", 2), ("one", 1), ("two", 3)]
    client = mock.Mock()
    client.get_events.return_value = [(0.0, {"worker": w, "job": job}) for w, job in events]
    dispatcher = Dispatcher(client)
    assert dispatcher._last_begun(mock.Mock(server_id="one")) == 1
    assert dispatcher._last_begun(mock.Mock(server_id="two")) == 3
    assert dispatcher._last_begun(mock.Mock(server_id="three")) is None


class ClosedClient:
    """A client that has closed, or does so between being asked and being told to cancel."""

    def __init__(self, status: str, error: Exception) -> None:
        self.status = status
        self._error = error
        self.n_cancelled = 0

    def nthreads(self) -> dict[str, int]:
        raise self._error

    def cancel(self, futures: list[object]) -> None:
        self.n_cancelled += 1
        raise self._error


@pytest.mark.parametrize(
    ("status", "error", "n_cancelled"),
    [
        ("closed", RuntimeError("IOLoop is closed"), 0),
        ("running", RuntimeError("ConnectionPool is closed"), 1),
        ("running", ClosedClientError("Client is closed. Can't send cancel-keys message."), 1),
    ],
)
def test_an_orphaned_run_ends_in_silence_when_the_session_is_over(
    status: str, error: Exception, n_cancelled: int
) -> None:
    client = ClosedClient(status, error)
    with mock.patch("unidino_fast.cluster.dispatch.as_completed"):
        dispatcher = Dispatcher(cast("Any", client))
    if isinstance(error, RuntimeError):
        assert dispatcher.n_workers() == 1  # the scheduler's loss is told by its jobs
    else:
        dispatcher._counted = math.inf
    done = SimpleNamespace(seconds={}, absent=Absent(), outcomes=("one", "two"))
    future = mock.Mock(result=lambda: done)
    work: Any = SimpleNamespace(wells=("A01", "A02"))

    def submit(self: Dispatcher, job: Any) -> None:
        self._flying[future], self._numbers[future] = job, 0

    with (
        mock.patch.object(Dispatcher, "_next_job", return_value=work),
        mock.patch.object(Dispatcher, "_submit", submit),
        mock.patch.object(Dispatcher, "_next_done", return_value=future),
    ):
        run = dispatcher.run(work)
        assert next(run) == ("A01", "one")
        run.close()  # what its finalizer does
    assert client.n_cancelled == n_cancelled


@pytest.mark.parametrize(
    ("present", "lost", "n_told"),
    [
        ([1] * 29 + [0] + [1] * 60, None, 0),  # away for a second, at the thirtieth of a long job
        ([1] * 10 + [0] * 28 + [1] * 60, None, 1),  # started again
        ([1] * 10 + [0] * 9 + [1] * 60 + [0] * 9 + [1], None, 2),  # and again
        ([1] * 10 + [0] * 60, 40, 1),
        ([0] * 60, 30, 1),
    ],
)
def test_workers_are_gone_when_there_have_been_none_for_long(
    present: list[int], lost: int | None, n_told: int
) -> None:
    """A second a look; `present` says how many workers there are then."""
    client = SimpleNamespace(status="running")
    with mock.patch("unidino_fast.cluster.dispatch.as_completed"):
        dispatcher = Dispatcher(cast("Any", client))
    clock = SimpleNamespace(now=0.0)

    def monotonic() -> float:
        return float(clock.now)

    def sleep(_: float) -> None:
        clock.now += 1.0

    def n_present(_: Dispatcher) -> int:
        return present[int(clock.now) - 1]

    dispatcher._done = mock.MagicMock()
    dispatcher._done.has_ready = lambda: clock.now >= len(present)
    dispatcher._done.__next__.return_value = "done"
    time = SimpleNamespace(monotonic=monotonic, sleep=sleep)
    with (
        mock.patch("unidino_fast.cluster.dispatch.time", time),
        mock.patch.object(Dispatcher, "_n_present", n_present),
        mock.patch("unidino_fast.cluster.dispatch._log.warning") as told,
    ):
        if lost is None:
            assert dispatcher._next_done() == "done"
        else:
            with pytest.raises(ClusterError, match="all workers are gone"):
                dispatcher._next_done()
            assert clock.now == lost
    assert told.mock_calls == [mock.call("no workers: waiting for one for %d s", 30)] * n_told


@pytest.mark.parametrize("n_deaths", [1, 2, 3])
def test_a_worker_that_dies_while_it_is_given_the_backbone(n_deaths: int) -> None:
    """Dask's scheduler hangs up then; one that is gone for good does so each time."""
    client = mock.Mock()
    client.register_plugin.side_effect = [CommClosedError("gone")] * n_deaths + [{}]
    if n_deaths == 3:
        with pytest.raises(CommClosedError):
            session._register(client, mock.sentinel.plugin)
    else:
        session._register(client, mock.sentinel.plugin)
    assert client.register_plugin.mock_calls == [mock.call(mock.sentinel.plugin)] * min(
        n_deaths + 1, 3
    )
