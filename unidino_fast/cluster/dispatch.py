"""Hands jobs out to workers and takes results in, a bounded number at a time."""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections import Counter, deque
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from distributed import as_completed
from distributed.comm.core import CommClosedError
from distributed.scheduler import KilledWorker

from unidino_fast.cluster.job import WellsJob, run_job
from unidino_fast.errors import ClusterError, PixelError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from distributed import Client, Future

    from unidino_fast.cluster.job import Done, Outcome
    from unidino_fast.planning import WellTask

JOB_TILES = 256
"""Tiles that make a job worth its trip, where there are enough for all workers."""
_JOBS_PER_WORKER = 8
"""At least, so that none waits long for the others at the end."""
_AHEAD = 2
"""Jobs that a worker has in hand: one to do, one to go on with."""
_POLL_SECONDS = 0.001
_COUNT_SECONDS = 1.0
"""How old the number of workers may be."""
_ALONE_SECONDS = 30.0
"""How long no job may end while there is no worker: the time to start one again, and more."""
_DEATHS = 3
"""Worker processes that may die of one well."""

_log = logging.getLogger(__name__)


def wells_per_job(n_wells: int, n_tiles: int, n_workers: int) -> int:
    """How many wells make a job."""
    tiles_a_well = max(1, n_tiles // max(1, n_wells))
    worth = -(-JOB_TILES // tiles_a_well)
    fair = n_wells // (n_workers * _JOBS_PER_WORKER)
    return max(1, min(worth, fair))


class Dispatcher:
    """Runs jobs on the workers of a client.

    Args:
        client: of the cluster.
        run: does one job, on a worker.

    Attributes:
        seconds: what the workers spent, by stage, all together.
    """

    def __init__(self, client: Client, run: Callable[[WellsJob], Done] = run_job) -> None:
        self.seconds: Counter[str] = Counter()
        self._client = client
        self._run = run
        self._flying: dict[Future[Any], WellsJob] = {}
        self._done = as_completed()
        self._deaths: Counter[str] = Counter()
        self._n_workers = 1
        self._counted = -math.inf

    def n_workers(self) -> int:
        """Workers not long ago, at least one: asking is a trip to the scheduler."""
        now = time.monotonic()
        if now - self._counted >= _COUNT_SECONDS:
            self._n_workers = max(1, len(self._client.nthreads()))
            self._counted = now
        return self._n_workers

    def run(
        self, jobs: Iterable[WellsJob]
    ) -> Generator[tuple[WellTask, Outcome | PixelError], None, None]:
        """Runs jobs; yields each well once, in the order in which they are finished.

        A job whose worker dies is done again on another. Where wells keep killing workers each is
        tried alone, with nothing beside it, before it is given up as the error of its own well.

        Raises:
            ClusterError: the scheduler is gone.
            UnidinoError: whatever a worker raises that is no fault of a well's pixels.
        """
        waiting, suspects = deque(jobs), deque[WellsJob]()
        try:
            while waiting or suspects or self._flying:
                while waiting and len(self._flying) < _AHEAD * self.n_workers():
                    self._submit(waiting.popleft())
                if suspects and not self._flying:
                    self._submit(suspects.popleft())
                future = self._next_done()
                job = self._flying.pop(future)
                try:
                    done = future.result()  # of a worker that just died: done again meanwhile
                except KilledWorker:
                    for single in self._after_death(job):
                        deaths = self._deaths[single.wells[0].name]
                        if deaths >= _DEATHS:
                            yield single.wells[0], _poisoned(single, deaths)
                        else:
                            (waiting if deaths < _DEATHS - 1 else suspects).append(single)
                else:
                    self.seconds.update(done.seconds)
                    yield from zip(job.wells, done.outcomes, strict=True)
        except (CancelledError, CommClosedError) as error:
            raise ClusterError(
                "the scheduler is gone: finished wells are kept, start it and run the same command"
                " again"
            ) from error
        finally:
            with suppress(CancelledError, CommClosedError):
                self._client.cancel(list(self._flying))
            self._flying.clear()

    def _next_done(self) -> Future[Any]:
        """Waits for a job to end.

        Raises:
            ClusterError: there have been no workers for a while.
        """
        asked = time.monotonic()
        while not self._done.has_ready():
            time.sleep(_POLL_SECONDS)
            if time.monotonic() - asked >= _ALONE_SECONDS:
                if self._client.status != "running" or not self._client.nthreads():
                    raise ClusterError(
                        "all workers are gone: finished wells are kept, run the same command again"
                    )
                asked = time.monotonic()
        return next(self._done)

    def _submit(self, job: WellsJob) -> None:
        future = self._client.submit(self._run, job, key=self._key(job), pure=False)
        self._flying[future] = job
        self._done.add(future)

    def _key(self, job: WellsJob) -> tuple[str, str, str]:
        """What the dashboard shows, grouped by the first part; never used twice.

        A scheduler answers a key that it knows with what it has, which may be another run's.
        """
        return (f"embed {job.plate.name}", job.name, uuid.uuid4().hex)

    def _after_death(self, job: WellsJob) -> list[WellsJob]:
        """The wells of a job that took its worker along, each counted."""
        singles = job.singles()
        for single in singles:
            self._deaths[single.wells[0].name] += 1
        _log.warning("a worker died while it had %s in hand: trying again", job.name)
        return singles


def _poisoned(job: WellsJob, deaths: int) -> PixelError:
    return PixelError(
        f"embedding {job.wells[0].name} ended {deaths} worker processes, once with nothing beside"
        " it: is there enough memory for its fields?"
    )
