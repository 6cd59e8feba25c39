"""What travels to a worker: the backbone once, then small descriptions of wells to embed.

No pixels and no task graphs travel: a job names the plate, its wells' fields and chunks, and the
worker reads them for itself.
"""

from __future__ import annotations

import pickle
import threading
import uuid
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from distributed import WorkerPlugin, get_worker
from distributed.utils import sync

from unidino_fast.clock import StageClock
from unidino_fast.cluster.travel import for_travel
from unidino_fast.cores import take_share
from unidino_fast.embedding import embed_wells, sample_patches
from unidino_fast.engines.selfcheck import self_check
from unidino_fast.errors import ClusterError
from unidino_fast.parts import write_part
from unidino_fast.provenance import device_name, software_versions
from unidino_fast.reading import Absent
from unidino_fast.results import WellResult
from unidino_fast.stamps import stamp_as_read
from unidino_fast.storage import open_storage
from unidino_fast.write_behind import written_behind

if TYPE_CHECKING:
    from collections.abc import Callable

    from distributed import Worker

    from unidino_fast.config import EmbedOptions
    from unidino_fast.engines import Embedder
    from unidino_fast.engines.selfcheck import SelfCheck
    from unidino_fast.engines.spec import ModelSpec
    from unidino_fast.errors import PixelError
    from unidino_fast.planning import WellTask
    from unidino_fast.stamps import PixelStamp
    from unidino_fast.storage import Storage

_ONE_AT_A_TIME = threading.Lock()
"""Of this worker: one job at a time, whatever its number of threads and of runs that share it."""


class BackbonePlugin(WorkerPlugin):
    """Brings the backbone to each worker once, to those that start later too.

    Its name is the run's own: several runs may share a scheduler, each with its own weights.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.name = f"unidino_fast {uuid.uuid4().hex}"
        self.spec = for_travel(spec)

    def setup(self, worker: Worker) -> None:
        """Runs on the worker."""
        torch.set_num_threads(worker.state.nthreads)
        take_share(worker.state.nthreads)
        self.model = self.spec.build()
        self.facts = {
            "device": self.model.device.type,
            "device_name": device_name(self.model.device),
            "precision": self.model.precision,
            "software": software_versions(),
        }


@dataclass(frozen=True, slots=True)
class PlateJob:
    """What all jobs of a plate share.

    Attributes:
        model: name of the plugin that brought the backbone.
        facts: what decides the numbers on all workers; one that came later must have them too.
        location: path or URL of the plate, as the worker can reach it.
        name: of the plate.
        n_tiles: tiles of the whole plate: what `--engine auto` goes by.
        parts: folder of the part files.
        marker: a file in it, there as long as the run is: a worker that sees it shares the storage
            and writes parts itself.
        made_by: digest of what decides the numbers, kept in each part.
        measures: measure the quality of the pixels too.
    """

    model: str
    facts: dict[str, Any]
    location: str
    name: str
    options: EmbedOptions
    n_tiles: int
    parts: str
    marker: str
    made_by: str
    measures: bool = False

    @property
    def is_at_hand(self) -> bool:
        """Whether this machine sees the folder of the parts, of a run that has not ended."""
        return Path(self.parts, self.marker).exists()


@dataclass(frozen=True, slots=True)
class WellsJob:
    """Some wells of a plate: the unit that is handed out.

    Attributes:
        stamps: of each well's pixels, kept in its part.
    """

    plate: PlateJob
    wells: tuple[WellTask, ...]
    stamps: tuple[PixelStamp | None, ...]

    @property
    def name(self) -> str:
        """`plate A01`, with the number of other wells."""
        more = f" +{len(self.wells) - 1}" if len(self.wells) > 1 else ""
        return f"{self.plate.name} {self.wells[0].name}{more}"

    @property
    def said(self) -> str:
        """As a person is told of it: `well A01 of plate, and 2 more`."""
        more = f", and {len(self.wells) - 1} more" if len(self.wells) > 1 else ""
        return f"well {self.wells[0].name} of {self.plate.name}{more}"

    def part(self, start: int, stop: int) -> WellsJob:
        """The job of some of these wells."""
        return replace(self, wells=self.wells[start:stop], stamps=self.stamps[start:stop])

    def singles(self) -> list[WellsJob]:
        """One job a well."""
        return [self.part(index, index + 1) for index in range(len(self.wells))]


@dataclass(frozen=True, slots=True)
class Written:
    """A well whose part the worker has written."""


Outcome = WellResult | Written


@dataclass(frozen=True, slots=True)
class Done:
    """What a worker sends back: an outcome or an error for each well, and seconds by stage.

    Attributes:
        absent: chunks that it found absent.
    """

    outcomes: tuple[Outcome | PixelError, ...]
    seconds: dict[str, float]
    absent: Absent


@dataclass(frozen=True, slots=True)
class Begun:
    """What a worker tells of a job before anything that may end its process.

    Attributes:
        topic: of the scheduler's events, which outlive the worker.
        number: of the job.
    """

    topic: str
    number: int

    def tell(self) -> None:
        """Runs on a worker: returns when the scheduler has heard."""
        worker = get_worker()
        told = {"worker": worker.id, "job": self.number}
        sync(worker.loop, worker.scheduler.log_event, topic=self.topic, msg=told)


def run_packed(run: Callable[[WellsJob], Done], packed: bytes, begun: Begun) -> Done:
    """Runs on a worker: unpacks a job, which comes as bytes, and does it."""
    begun.tell()
    job: WellsJob = pickle.loads(packed)
    return run(job)


def run_job(job: WellsJob) -> Done:
    """Runs on a worker: embeds some wells.

    Raises:
        ClusterError: the run has ended, which nobody is left to hear: another one may write there.
    """
    plate = job.plate
    clock = StageClock()
    outcomes: list[Outcome | PixelError] = []
    with _ONE_AT_A_TIME:
        model = _model(plate).for_job(plate.n_tiles)
        storage = _storage(plate.location, plate.marker)
        stamps = {task.name: stamp for task, stamp in zip(job.wells, job.stamps, strict=True)}

        def write(task: WellTask, result: WellResult) -> None:
            stamp = stamp_as_read(storage, task, plate.options.z, stamps[task.name])
            if not plate.is_at_hand:
                raise ClusterError(f"the run that asked for {task.name} has ended")
            write_part(Path(plate.parts), result, stamp, plate.made_by)

        stream = embed_wells(
            job.wells, storage, model, plate.options, clock, measures=plate.measures
        )
        shares = plate.is_at_hand
        if shares:
            stream = written_behind(stream, write, clock)
        with storage.absent_seen() as absent, closing(stream) as wells:
            for _, result in wells:
                written = shares and isinstance(result, WellResult)
                outcomes.append(Written() if written else result)
    return Done(tuple(outcomes), clock.seconds, Absent.of(absent))


def run_check(plate: PlateJob, wells: tuple[WellTask, ...]) -> SelfCheck | None:
    """Runs on a worker: holds its engine against the reference, on tiles of these wells."""
    with _ONE_AT_A_TIME:
        model = _model(plate).for_job(plate.n_tiles)
        if model.is_reference:
            return None
        storage = _storage(plate.location, plate.marker)
        return self_check(model, sample_patches(wells, storage, model, plate.options))


def describe_worker(name: str, dask_worker: Worker) -> dict[str, Any]:
    """Runs on a worker: what decides its numbers, and must be the same on all."""
    return cast("BackbonePlugin", dask_worker.plugins[name]).facts


def _model(plate: PlateJob) -> Embedder:
    """The backbone that this worker holds for a run.

    Raises:
        ClusterError: the worker differs from those that the run began with.
    """
    worker = get_worker()
    plugin = cast("BackbonePlugin", worker.plugins[plate.model])
    for key, value in plugin.facts.items():
        if value != plate.facts[key]:
            raise ClusterError(
                f"worker {worker.address} came later and differs in {key}: {value}, the others have"
                f" {plate.facts[key]}: make them equal"
            )
    return plugin.model


@lru_cache(maxsize=4)
def _storage(location: str, run: str) -> Storage:
    """A plate's storage, opened once a run: a worker outlives runs, and files may be replaced."""
    return open_storage(location)
