"""Opens workers: processes of this machine, or those of a cluster that is already there."""

from __future__ import annotations

import logging
import uuid
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from distributed import Client
from distributed.comm.core import CommClosedError
from distributed.scheduler import KilledWorker

from unidino_fast.cluster.dispatch import Dispatcher
from unidino_fast.cluster.job import BackbonePlugin, PlateJob, WellsJob, describe_worker, run_check
from unidino_fast.cluster.local import CONNECT_SECONDS, local_client, quiet
from unidino_fast.engines import Embedder
from unidino_fast.errors import ClusterError, OutputError, UsageError, first_line
from unidino_fast.provenance import software_versions

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from unidino_fast.cluster.job import Outcome
    from unidino_fast.config import EmbedOptions
    from unidino_fast.engines.selfcheck import SelfCheck
    from unidino_fast.engines.spec import ModelSpec
    from unidino_fast.errors import PixelError
    from unidino_fast.planning import WellTask
    from unidino_fast.plate_model import Plate
    from unidino_fast.reading import Absent
    from unidino_fast.stamps import PixelStamp

_START_SECONDS = 120
"""Until the first worker is there with torch imported and its backbone."""
_QUIET_SECONDS = 3
"""Before a person is told that a cluster has none yet."""
_REGISTERED_MOST = 3
"""Times that workers are given the backbone, while some of them die."""
_CHECKED_WELLS = 8
"""Wells that a self-check looks for a readable field in."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Session:
    """Workers that hold the backbone.

    Attributes:
        plugin: name of what brought the backbone.
        facts: what decides the numbers on the workers; the same on all of them.
    """

    client: Client
    plugin: str
    facts: dict[str, Any]

    def model(self, spec: ModelSpec) -> Embedder:
        """What the workers run, to plan with and to describe; not to embed with."""
        device = torch.device(self.facts["device"])
        precision = self.facts["precision"]
        return Embedder(spec.backbone, spec.engine, device, precision, spec.batch_size)

    @contextmanager
    def work_on(
        self,
        plate: Plate,
        options: EmbedOptions,
        parts: Path,
        n_tiles: int,
        made_by: str,
        *,
        measures: bool,
    ) -> Iterator[Work]:
        """Work on one plate, whose finished wells go into `parts`.

        Args:
            plate: the plate.
            options: what to embed and how.
            parts: folder of the part files.
            n_tiles: tiles of the whole plate.
            made_by: digest of what decides the numbers; see `OutputFolder`.
            measures: measure the quality of the pixels too.
        """
        marker = parts / f".run-{uuid.uuid4().hex}.tmp"
        try:
            marker.touch()
        except OSError as error:
            raise OutputError(
                f"{parts} cannot be written ({error.strerror}): free the disk or choose another"
                " --out"
            ) from error
        remote = plate.storage.is_remote or "://" in plate.location
        try:
            yield Work(
                self.client,
                PlateJob(
                    model=self.plugin,
                    facts=self.facts,
                    location=plate.location if remote else str(Path(plate.location).resolve()),
                    name=plate.name,
                    options=options,
                    n_tiles=n_tiles,
                    parts=str(parts.resolve()),
                    marker=marker.name,
                    made_by=made_by,
                    measures=measures,
                ),
            )
        finally:
            marker.unlink(missing_ok=True)


class Work:
    """Work on one plate, by the workers of a session."""

    def __init__(self, client: Client, plate: PlateJob) -> None:
        self._client = client
        self._plate = plate
        self._dispatcher = Dispatcher(client)

    @property
    def seconds(self) -> Mapping[str, float]:
        """What the workers spent so far, by stage, all together."""
        return self._dispatcher.seconds

    @property
    def absent(self) -> Absent:
        """Chunks behind a URL that the workers found absent so far."""
        return self._dispatcher.absent

    def check(self, tasks: Sequence[WellTask]) -> SelfCheck | None:
        """Has a worker hold its engine against the reference, on tiles of the first wells."""
        wells = tuple(tasks[:_CHECKED_WELLS])
        key = (f"check {self._plate.name}", self._plate.marker)
        future = self._client.submit(run_check, self._plate, wells, key=key, pure=False)
        try:
            return future.result()
        except (KilledWorker, CancelledError, CommClosedError) as error:
            raise ClusterError(
                f"the workers or their scheduler died while the engine was checked"
                f" ({first_line(error)}): is there enough memory for the backbone?"
            ) from error

    def embed(
        self, tasks: Sequence[WellTask], stamps: Sequence[PixelStamp | None]
    ) -> Generator[tuple[WellTask, Outcome | PixelError], None, None]:
        """Embeds wells, in no order; see `Dispatcher.run`."""
        return self._dispatcher.run(WellsJob(self._plate, tuple(tasks), tuple(stamps)))


@contextmanager
def local_session(n_workers: int, spec: ModelSpec) -> Iterator[Session]:
    """So many processes of this machine; see `local_client`.

    Raises:
        UsageError: the device is not available in a worker.
        ClusterError: the processes do not start.
    """
    with local_client(n_workers) as client, _session(client, spec, n_workers) as session:
        yield session


@contextmanager
def remote_session(address: str, spec: ModelSpec) -> Iterator[Session]:
    """The workers of a scheduler (`tcp://host:8786`, `tls://...`), as many as it has.

    Raises:
        UsageError: no scheduler answers at the address, or its workers differ in what decides the
            numbers.
        ClusterError: it has no workers.
    """
    quiet()
    try:
        client = Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError, TimeoutError) as error:
        raise UsageError(
            f"scheduler {address} does not answer ({first_line(error)}): give the address that"
            " `dask scheduler` prints, such as tcp://host:8786"
        ) from error
    with client:
        _say_if_nobody_works(client, address)
        with _session(client, spec, 1, address) as session:
            yield session


def _say_if_nobody_works(client: Client, address: str) -> None:
    try:
        client.wait_for_workers(1, timeout=_QUIET_SECONDS)
    except TimeoutError:
        _log.warning(
            "scheduler %s has no workers yet: waiting for one for %s s (`dask worker %s`)",
            address, _START_SECONDS, address,
        )  # fmt: skip


@contextmanager
def _session(
    client: Client, spec: ModelSpec, n_workers: int, address: str = ""
) -> Iterator[Session]:
    try:
        client.wait_for_workers(n_workers, timeout=_START_SECONDS)
    except TimeoutError as error:
        raise ClusterError(
            f"scheduler {address} has no workers after {_START_SECONDS} s: start some (`dask worker"
            f" {address}`)"
            if address
            else f"of {n_workers} workers some are not there after {_START_SECONDS} s: is there"
            " enough memory for them?"
        ) from error
    plugin = BackbonePlugin(spec)
    _register(client, plugin)
    try:
        yield Session(client, plugin.name, _facts(client, plugin.name))
    finally:
        with suppress(Exception):  # the scheduler may be gone, and the plugin with it
            client.unregister_worker_plugin(plugin.name)


def _register(client: Client, plugin: BackbonePlugin) -> None:
    """Brings the backbone to all workers, anew where one of them dies meanwhile.

    Dask's scheduler then hangs up, without a word, on who asked for it.
    """
    for _ in range(_REGISTERED_MOST - 1):
        with suppress(CommClosedError):
            client.register_plugin(plugin)
            return
    client.register_plugin(plugin)


def _facts(client: Client, plugin: str) -> dict[str, Any]:
    """What decides the numbers, which must be the same on all workers, and its software here."""
    found = client.run(describe_worker, plugin)
    (first, *others) = found.items()
    here = ("this machine", {**first[1], "software": software_versions()})
    for address, facts in (here, *others):
        for key, value in facts.items():
            if value != first[1][key]:
                raise UsageError(
                    f"workers differ in {key}: {first[1][key]} on {first[0]}, {value} on {address}:"
                    " make them equal, or choose by --device and --precision"
                )
    _log.info("%d workers, dashboard %s", len(found), client.dashboard_link)
    return dict(first[1])
