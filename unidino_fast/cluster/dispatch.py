"""Hands jobs out to workers and takes results in, a bounded number at a time."""

from __future__ import annotations

import logging
import math
import pickle
import time
import uuid
from collections import Counter, deque
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from distributed import as_completed
from distributed.client import ClosedClientError
from distributed.comm.core import CommClosedError
from distributed.scheduler import KilledWorker

from unidino_fast.cluster.job import Begun, WellsJob, run_job, run_packed
from unidino_fast.errors import ClusterError, PixelError
from unidino_fast.reading import Absent

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from distributed import Client, Future

    from unidino_fast.cluster.job import Done, Outcome
    from unidino_fast.planning import WellTask

FIRST_TILES = 256
"""Tiles that make a job worth its trip, as long as it is not known what a well takes."""
JOB_SECONDS = 2.0
"""Length of a job: a hundred times what handing it out costs."""
_LEAST_SECONDS = 0.2
"""A shorter one is not worth its trip, even if some worker has to wait for it at the end."""
_MOST_WELLS = 64
"""A job stays a small message, and what dies with its worker is not much."""
_SHARES = 2
"""Jobs that a worker would still get if none became smaller: so they all end together."""
_AHEAD = 2
"""Jobs that a worker has in hand: one to do, one to go on with."""
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.001, 0.02
"""Seconds between looks for a finished job: workers have another one in hand meanwhile."""
_COUNT_SECONDS = 1.0
"""How old the number of workers may be."""
_ALONE_SECONDS = 30.0
"""How long there may be no worker at all: the time to start one again, and more."""
_QUIET_SECONDS = 3.0
"""How long of that nothing is said."""
_DEATHS = 3
"""Worker processes that may die of one well."""

_log = logging.getLogger(__name__)


def wells_per_job(n_waiting: int, n_workers: int, n_tiles: int, seconds: float | None) -> int:
    """How many wells make the next job.

    They are as many as take `JOB_SECONDS`, fewer where few are left for each worker (guided
    self-scheduling, Polychronopoulos and Kuck 1987), but none that are over in no time.

    Args:
        n_waiting: wells that are not handed out yet.
        n_workers: workers to share them.
        n_tiles: tiles of a well.
        seconds: that a well takes, if that is known.
    """
    fair = n_waiting // (n_workers * _SHARES)
    if seconds is None:
        worth, least = -(-FIRST_TILES // max(1, n_tiles)), 1
    else:
        worth, least = (
            math.ceil(min(_MOST_WELLS, length / max(seconds, 1e-6)))
            for length in (JOB_SECONDS, _LEAST_SECONDS)
        )
    return max(1, min(max(min(worth, fair), least), _MOST_WELLS, n_waiting))


class Dispatcher:
    """Runs jobs on the workers of a client.

    Args:
        client: of the cluster.
        run: does one job, on a worker.

    Attributes:
        seconds: what the workers spent, by stage, all together.
        absent: chunks behind a URL that they found absent.
    """

    def __init__(self, client: Client, run: Callable[[WellsJob], Done] = run_job) -> None:
        self.seconds: Counter[str] = Counter()
        self.absent = Absent()
        self._client = client
        self._run = run
        self._flying: dict[Future[Any], WellsJob] = {}
        self._numbers: dict[Future[Any], int] = {}
        self._n_submitted = 0
        self._begun = f"unidino_fast begun {uuid.uuid4().hex}"
        self._done = as_completed()
        self._deaths: Counter[str] = Counter()
        self._pace: float | None = None
        self._n_workers = 1
        self._counted = -math.inf

    def n_workers(self) -> int:
        """Workers not long ago, at least one: asking is a trip to the scheduler."""
        now = time.monotonic()
        if now - self._counted >= _COUNT_SECONDS:
            self._n_workers = max(1, self._n_present())
            self._counted = now
        return self._n_workers

    def _n_present(self) -> int:
        """Workers at this moment; 0 where the scheduler is gone, which its jobs will say too.

        A client whose scheduler is lost closes by itself, and then raises RuntimeError.
        """
        try:
            return len(self._client.nthreads())
        except (OSError, RuntimeError):
            return 0

    def run(self, work: WellsJob) -> Generator[tuple[WellTask, Outcome | PixelError], None, None]:
        """Runs all wells of `work`; yields each once, in the order in which they are finished.

        A job whose worker dies is done again on another. Where wells keep killing workers each is
        tried alone, with nothing beside it, before it is given up as the error of its own well.

        Raises:
            ClusterError: the scheduler is gone.
            UnidinoError: whatever a worker raises that is no fault of a well's pixels.
        """
        n_begun = 0
        again, suspects = deque[WellsJob](), deque[WellsJob]()
        try:
            while n_begun < len(work.wells) or again or suspects or self._flying:
                while len(self._flying) < _AHEAD * self.n_workers():
                    if n_begun < len(work.wells):
                        job = self._next_job(work, n_begun)
                        n_begun += len(job.wells)
                        self._submit(job)
                    elif again:
                        self._submit(again.popleft())
                    else:
                        break
                if suspects and not self._flying:
                    self._submit(suspects.popleft())
                future = self._next_done()
                job = self._flying.pop(future)
                try:
                    done = future.result()  # of a worker that just died: done again meanwhile
                except KilledWorker as error:
                    number = self._numbers.pop(future)
                    if number != self._last_begun(error.last_worker):
                        again.append(job)  # it waited there behind another, or was just done
                        continue
                    _log.warning("a worker died with %s in hand: trying again", job.said)
                    self._deaths.update(task.name for task in job.wells)
                    for single in job.singles():
                        deaths = self._deaths[single.wells[0].name]
                        if deaths >= _DEATHS:
                            yield single.wells[0], _poisoned(single, deaths)
                        else:
                            (again if deaths < _DEATHS - 1 else suspects).append(single)
                else:
                    future.release()  # kept, it would be done again if its worker died now
                    self.seconds.update(done.seconds)
                    self.absent = self.absent.with_those(done.absent)
                    del self._numbers[future]
                    self._pace = sum(done.seconds.values()) / len(job.wells)
                    yield from zip(job.wells, done.outcomes, strict=True)
        except (CancelledError, CommClosedError) as error:
            raise ClusterError(
                "the scheduler is gone: finished wells are kept, start it and run the same command"
                " again"
            ) from error
        finally:
            # a generator that an interrupt has orphaned comes here when the session is over, where
            # the client's loop is closed ("RuntimeError: IOLoop is closed"); or it closes just now
            if self._client.status == "running":
                with suppress(CancelledError, CommClosedError, ClosedClientError, RuntimeError):
                    self._client.cancel(list(self._flying))
            self._flying.clear()
            self._numbers.clear()

    def _next_job(self, work: WellsJob, start: int) -> WellsJob:
        n_tiles = work.wells[start].n_tiles
        size = wells_per_job(len(work.wells) - start, self.n_workers(), n_tiles, self._pace)
        return work.part(start, start + size)

    def _next_done(self) -> Future[Any]:
        """Waits for a job to end.

        Raises:
            ClusterError: there have been no workers for a while.
        """
        seen = looked = time.monotonic()
        is_told = False
        pause = _SHORTEST_PAUSE
        while not self._done.has_ready():
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            now = time.monotonic()
            if now - looked < _COUNT_SECONDS:
                continue
            looked = now
            if self._client.status == "running" and self._n_present():
                seen, is_told = now, False
                continue
            if not is_told and now - seen >= _QUIET_SECONDS:
                is_told = True
                _log.warning("no workers: waiting for one for %d s", _ALONE_SECONDS)
            elif now - seen >= _ALONE_SECONDS:
                raise ClusterError(
                    "all workers are gone: finished wells are kept, run the same command again"
                )
        return next(self._done)

    def _submit(self, job: WellsJob) -> None:
        # as bytes, which the scheduler passes on unread: it would unpack and pack each field's task
        packed = pickle.dumps(job)
        begun = Begun(self._begun, self._n_submitted)
        key = self._key(job)
        future = self._client.submit(run_packed, self._run, packed, begun, key=key, pure=False)
        self._flying[future] = job
        self._numbers[future] = self._n_submitted
        self._n_submitted += 1
        self._done.add(future)

    def _key(self, job: WellsJob) -> tuple[str, str, str]:
        """What the dashboard shows, grouped by the first part; never used twice.

        A scheduler answers a key that it knows with what it has, which may be another run's.
        """
        return (f"embed {job.plate.name}", job.name, uuid.uuid4().hex)

    def _last_begun(self, worker: Any) -> int | None:
        """Number of the job that a dead worker had in hand: the last one that it began.

        A worker takes along what waits for it as well, and what it has done but not yet told of.
        """
        events = self._client.get_events(self._begun)
        begun = [told["job"] for _, told in events if told["worker"] == worker.server_id]
        return begun[-1] if begun else None


def _poisoned(job: WellsJob, deaths: int) -> PixelError:
    return PixelError(
        f"embedding {job.wells[0].name} ended {deaths} worker processes, once with nothing beside"
        " it: give workers more memory"
    )
