"""Opens workers: processes of this machine, or those of a cluster that is already there."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dask
from distributed import Client, Nanny, Scheduler, Security, SpecCluster

from unidino_fast.cluster.dispatch import Dispatcher
from unidino_fast.cluster.job import BackbonePlugin, describe_worker
from unidino_fast.errors import ClusterError, UsageError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from unidino_fast.cluster.job import ModelSpec

_CONNECT_SECONDS = 30
_START_SECONDS = 120
"""Until the first worker is there with torch imported and its backbone."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Session:
    """Workers that hold the backbone.

    Attributes:
        facts: what decides the numbers on the workers; the same on all of them.
    """

    client: Client
    facts: dict[str, Any]

    def dispatcher(self) -> Dispatcher:
        """For one run."""
        return Dispatcher(self.client)


@contextmanager
def local_session(n_workers: int, spec: ModelSpec) -> Iterator[Session]:
    """So many processes of this machine, spawned; with several GPUs, each has one.

    They listen on the loopback interface alone, behind certificates made for this run: another
    user of the machine can neither read from them nor have them do anything.

    Raises:
        UsageError: the device is not available in a worker.
        ClusterError: the processes do not start.
    """
    from dataclasses import replace

    n_threads = max(1, _n_cores() // n_workers)
    settings = {
        # a death is counted here, where it is known which wells it may have been
        "distributed.scheduler.allowed-failures": 0,
        "distributed.worker.multiprocessing-method": "spawn",
        "distributed.worker.daemon": True,
        "distributed.comm.timeouts.connect": f"{_CONNECT_SECONDS}s",
    }
    with dask.config.set(settings), _quiet():
        security = Security.temporary()
        common = {"host": "127.0.0.1", "protocol": "tls://", "security": security}
        worker = {
            "cls": Nanny,
            "options": {**common, "nthreads": n_threads, "memory_limit": 0, "dashboard": False},
        }
        gpus = _visible_gpus()
        workers = {index: _with_gpu(worker, gpus, index) for index in range(n_workers)}
        try:
            cluster = SpecCluster(
                workers=workers,
                scheduler={"cls": Scheduler, "options": {**common, "dashboard": False}},
                security=security,
                silence_logs=logging.CRITICAL,
                name="unidino_fast",
            )
        except (OSError, RuntimeError, TimeoutError) as error:
            raise ClusterError(f"{n_workers} workers do not start: {first_line(error)}") from error
        with cluster, Client(cluster, security=security) as client:
            yield _ready(client, replace(spec, n_threads=n_threads), n_workers)


@contextmanager
def remote_session(address: str, spec: ModelSpec) -> Iterator[Session]:
    """The workers of a scheduler (`tcp://host:8786`, `tls://...`), as many as it has.

    Raises:
        UsageError: no scheduler answers at the address, or its workers differ in what decides the
            numbers.
        ClusterError: it has no workers.
    """
    with _quiet():
        try:
            client = Client(address, timeout=_CONNECT_SECONDS)
        except (OSError, ValueError, TimeoutError) as error:
            raise UsageError(
                f"scheduler {address} does not answer ({first_line(error)}): give the address that"
                " `dask scheduler` prints, such as tcp://host:8786"
            ) from error
        with client:
            yield _ready(client, spec, 1)


def _ready(client: Client, spec: ModelSpec, n_workers: int) -> Session:
    try:
        client.wait_for_workers(n_workers, timeout=_START_SECONDS)
    except TimeoutError as error:
        raise ClusterError(
            f"the scheduler has fewer than {n_workers} workers after {_START_SECONDS} s: start some"
            " (`dask worker ADDRESS`)"
        ) from error
    client.register_plugin(BackbonePlugin(spec))
    found = client.run(describe_worker)
    (first, *others) = found.items()
    for address, facts in others:
        for key, value in facts.items():
            if value != first[1][key]:
                raise UsageError(
                    f"workers differ in {key}: {first[1][key]} on {first[0]}, {value} on {address}:"
                    " make them equal, or choose by --device and --precision"
                )
    _log.info("%d workers, dashboard %s", len(found), client.dashboard_link)
    return Session(client, first[1])


def _with_gpu(worker: dict[str, Any], gpus: list[str], index: int) -> dict[str, Any]:
    if not gpus:
        return worker
    environment = {"CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)]}
    return {**worker, "options": {**worker["options"], "env": environment}}


def _visible_gpus() -> list[str]:
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    return [str(index) for index in range(torch.cuda.device_count())]


def _n_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences what distributed logs about workers that die: it is said in our own words."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
