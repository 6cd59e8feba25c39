"""Workers on this machine: processes that are spawned, reached through the loopback interface."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import sys
import time
from contextlib import ExitStack, contextmanager
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any

import dask
import torch
from distributed import Client, Nanny, Scheduler, Security, SpecCluster

from unidino_fast.cores import usable_cores
from unidino_fast.errors import ClusterError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CONNECT_SECONDS = 10
"""To reach a scheduler or a worker."""

_SETTINGS = {
    # a death is counted by the dispatcher, which knows which wells it may have been
    "distributed.scheduler.allowed-failures": 0,
    "distributed.worker.multiprocessing-method": "spawn",
    "distributed.worker.daemon": True,
    "logging.distributed": "critical",
    "distributed.comm.timeouts.connect": f"{CONNECT_SECONDS}s",
}
_NO_DASHBOARD = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
"""It serves a few pages even so; a fixed port would be taken by the next run."""
_SPAWN_SECONDS = 5.0
"""For processes to be made, and to be found dead."""


@contextmanager
def local_client(n_workers: int) -> Iterator[Client]:
    """A client of so many processes of this machine; with several GPUs, each has one.

    They listen on the loopback interface alone, behind certificates made for this run: another
    user of the machine can neither read from them nor have them do anything. They end with this
    process, however it ends.

    Raises:
        ClusterError: the processes do not start.
    """
    quiet()
    with dask.config.set(_SETTINGS), ExitStack() as stack:
        security = Security.temporary()
        common = {"host": "127.0.0.1", "protocol": "tls://", "security": security}
        try:
            _start_resource_tracker()  # before: it lets interrupts through when it has started
            with _without_interrupts():  # the loop's thread, and with it all that it starts
                cluster = SpecCluster(
                    scheduler={"cls": Scheduler, "options": {**common, **_NO_DASHBOARD}},
                    security=security,
                    silence_logs=logging.CRITICAL,
                    name="unidino_fast",
                )
                stack.enter_context(cluster)
            _start_workers(cluster, _worker_specs(n_workers, common))
        except (OSError, RuntimeError, TimeoutError) as error:
            raise ClusterError(f"{n_workers} workers do not start: {first_line(error)}") from error
        yield stack.enter_context(Client(cluster, security=security))


def _worker_specs(n_workers: int, common: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """Each with its share of the cores and, where there are GPUs, one of them."""
    options = {
        **common,
        "nthreads": max(1, usable_cores() // n_workers),
        "memory_limit": 0,
        "dashboard": False,
        "silence_logs": logging.CRITICAL,
    }
    gpus = _visible_gpus()
    specs = {}
    for index in range(n_workers):
        env = {"env": {"CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)]}} if gpus else {}
        specs[index] = {"cls": Nanny, "options": {**options, **env}}
    return specs


def _start_workers(cluster: SpecCluster, specs: Mapping[int, dict[str, Any]]) -> None:
    """Waits until all have started, or ends those that have begun to.

    Raises:
        RuntimeError: one of them does not start.
    """
    others = set(multiprocessing.active_children())
    cluster.worker_spec.update(specs)
    loop: Any = cluster.loop
    started = asyncio.run_coroutine_threadsafe(_started(cluster), loop.asyncio_loop)
    try:
        started.result()
    except KeyboardInterrupt:  # closing the cluster would wait until they are there
        deadline = time.monotonic() + _SPAWN_SECONDS
        while not started.done() and time.monotonic() < deadline:
            for process in set(multiprocessing.active_children()) - others:
                process.kill()
            time.sleep(0.05)
        raise


async def _started(cluster: SpecCluster) -> None:
    await cluster


def _start_resource_tracker() -> None:
    """Starts what removes semaphores after a `kill -9`; it need not say that it had to."""
    rule = "ignore::UserWarning:multiprocessing.resource_tracker"
    sys.warnoptions.append(rule)  # how Python hands warning filters on to processes
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions.remove(rule)


def _visible_gpus() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    return [str(index) for index in range(torch.cuda.device_count())]


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Threads and processes that are started meanwhile never see Ctrl-C: this process ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def quiet() -> None:
    """Silences what libraries log about workers that die: it is said in our own words.

    For good, because some of it comes when the session is over.
    """
    for name in ("distributed", "distributed.client", "asyncio", "tornado"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
