"""`embed --workers` and `--scheduler` as typed: interrupted, with no scheduler or one that dies."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psutil
import pytest
from distributed import LocalCluster

import unidino_fast as uf
from unidino_fast.cluster import session
from unidino_fast.config import EmbedOptions
from unidino_fast.engines.spec import ModelSpec
from unidino_fast.errors import ClusterError, OutputError, UsageError
from unidino_fast.output import TABLES
from unidino_fast.simulate import simulate_plate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

N_WELLS = 96


@pytest.fixture(scope="module")
def spec(tiny_weights: Path) -> ModelSpec:
    """What the commands below choose by themselves: a plate of this size gets the fast engine."""
    return ModelSpec.load(
        tiny_weights, engine="auto", device="cpu", precision="auto", tile=32, batch_size=None
    )


@pytest.fixture(scope="module")
def plate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough that a run can be met in its middle."""
    path = tmp_path_factory.mktemp("plates") / "p.zarr"
    simulate_plate(path, rows=8, columns=12, n_fields=2, size=(200, 200), channels=("DNA", "ER"))
    return path


@contextmanager
def command(*words: str | Path) -> Iterator[subprocess.Popen[str]]:
    call = [sys.executable, "-m", *map(str, words)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # as in this process: see conftest
    with subprocess.Popen(
        call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=one_thread
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def embed(plate: Path, weights: Path, out: Path, *more: str) -> list[str | Path]:
    words = ["unidino_fast", "embed", plate, "--out", out, "--weights", weights, "--device", "cpu"]
    return [*words, "--tile", "32", *more]


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def parts_of(out: Path) -> list[Path]:
    return sorted(out.glob("p/parts/[A-Z]*.parquet"))


@pytest.fixture(scope="module")
def expected(
    plate: Path, spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """What one process alone writes."""
    return go_on(plate, spec, tmp_path_factory.mktemp("expected"), 0)


def go_on(plate: Path, spec: ModelSpec, out: Path, n_done: int) -> dict[str, bytes]:
    """Ends what was begun in `out`, in this process; gives the tables."""
    summary = uf.embed_to_folder(uf.open_plate(plate), spec.build(), out, EmbedOptions(tile=32))
    assert summary.n_resumed == n_done
    assert summary.n_wells == N_WELLS
    return {name: (out / "p" / name).read_bytes() for name in TABLES}


@contextmanager
def ends_with_all_it_started(process: subprocess.Popen[str]) -> Iterator[None]:
    """Within seconds the process and all that it started are gone."""
    family = psutil.Process(process.pid).children(recursive=True)
    assert family
    yield
    _, alive = psutil.wait_procs(family, timeout=15)
    assert not alive


@pytest.mark.parametrize("moment", ["starting", "embedding"])
def test_ctrl_c_ends_workers_and_keeps_what_is_done(
    plate: Path,
    tiny_weights: Path,
    spec: ModelSpec,
    expected: dict[str, bytes],
    tmp_path: Path,
    moment: str,
) -> None:
    out = tmp_path / "out"
    with command(*embed(plate, tiny_weights, out, "--workers", "2")) as process:
        assert process.stderr is not None
        if moment == "starting":  # workers take seconds from here
            while "starting 2 workers" not in process.stderr.readline():
                assert process.poll() is None
            wait_until(lambda: len(psutil.Process(process.pid).children()) >= 3, process)
        else:
            wait_until(lambda: len(parts_of(out)) >= 2, process)
        with ends_with_all_it_started(process):
            asked = time.monotonic()
            if moment == "starting":
                process.send_signal(signal.SIGTERM)
            else:  # as a terminal does, to all of them
                for own in psutil.Process(process.pid).children(recursive=True):
                    own.send_signal(signal.SIGINT)
                process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=30)
            seconds = time.monotonic() - asked
    assert process.returncode == (130 if moment == "embedding" else 143), said
    assert seconds < 15
    kept = f"{out} keeps the finished wells; run it again to go on"
    nothing = "no well was finished yet; run it again to start over"
    assert f"interrupted: {nothing if moment == 'starting' else kept}" in said
    assert "Traceback" not in said
    n_done = len(parts_of(out))
    assert n_done == 0 if moment == "starting" else 2 <= n_done < N_WELLS
    if n_done:
        assert go_on(plate, spec, out, n_done) == expected
    else:
        assert not out.exists()


def test_workers_end_with_a_run_that_is_killed(
    plate: Path, tiny_weights: Path, spec: ModelSpec, expected: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with command(*embed(plate, tiny_weights, out, "--workers", "2")) as process:
        wait_until(lambda: len(parts_of(out)) >= 2, process)
        with ends_with_all_it_started(process):
            process.kill()
            _, said = process.communicate(timeout=30)
    assert "Traceback" not in said
    assert "resource_tracker" not in said
    n_done = len(parts_of(out))
    assert 2 <= n_done < N_WELLS
    assert go_on(plate, spec, out, n_done) == expected


def test_no_scheduler_at_the_address(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "CONNECT_SECONDS", 1)
    with (
        pytest.raises(UsageError, match=r"scheduler tcp://127\.0\.0\.1:9 does not answer"),
        session.remote_session("tcp://127.0.0.1:9", spec),
    ):
        pass


def test_a_scheduler_without_workers_is_told_of_at_once(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(session._log, "warning", lambda text, *a: told.append(text % a))
    monkeypatch.setattr(session, "_QUIET_SECONDS", 0.1)
    monkeypatch.setattr(session, "_START_SECONDS", 1)
    with (
        LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as cluster,
        pytest.raises(ClusterError, match="has no workers after 1 s: start some"),
        session.remote_session(cluster.scheduler_address, spec),
    ):
        pass
    address = cluster.scheduler_address
    assert told == [
        f"scheduler {address} has no workers yet: waiting for one for 1 s (`dask worker {address}`)"
    ]


@pytest.fixture
def scheduler() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A dask scheduler with a worker, as `docs/clusters.md` starts them."""
    words = ["distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    with command(*words, "--dashboard-address", "127.0.0.1:0") as process:
        assert process.stderr is not None
        address = None
        while address is None:
            found = re.search(r"Scheduler at:\s+(tcp://\S+)", process.stderr.readline())
            address = found[1] if found else None
        worker = ["distributed.cli.dask_worker", address, "--nthreads", "1"]
        with command(*worker, "--host", "127.0.0.1"):
            yield process, address


def test_a_scheduler_that_dies(
    plate: Path,
    tiny_weights: Path,
    spec: ModelSpec,
    expected: dict[str, bytes],
    tmp_path: Path,
    scheduler: tuple[subprocess.Popen[str], str],
) -> None:
    process_of_scheduler, address = scheduler
    out = tmp_path / "out"
    with command(*embed(plate, tiny_weights, out, "--scheduler", address)) as process:
        wait_until(lambda: len(parts_of(out)) >= 2, process)
        os.kill(process_of_scheduler.pid, signal.SIGKILL)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 1, said
    assert "the scheduler is gone: finished wells are kept" in said.splitlines()[-1]
    assert "Traceback" not in said
    n_done = len(parts_of(out))
    assert 2 <= n_done < N_WELLS
    assert go_on(plate, spec, out, n_done) == expected


def test_two_runs_on_one_folder(
    plate: Path, tiny_weights: Path, spec: ModelSpec, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with command(*embed(plate, tiny_weights, out)) as first:
        wait_until(lambda: bool(parts_of(out)), first)
        first.send_signal(signal.SIGSTOP)  # in the middle of its work
        with pytest.raises(OutputError, match=f"in use by process {first.pid} on "):
            go_on(plate, spec, out, 0)
        first.send_signal(signal.SIGCONT)
        first.communicate(timeout=120)
        assert first.returncode == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--workers", "0"], "--workers 0 is too small"),
        (["--workers", "2", "--scheduler", "tcp://x:1"], "exclude each other"),
        (["--shard", "1/2", "--scheduler", "tcp://x:1"], "exclude each other"),
        (["--shard", "1/2", "--overwrite"], "--overwrite and --shard exclude each other"),
        (["--shard", "3/2"], "is no shard"),
    ],
)
def test_what_does_not_go_together(
    plate: Path, tiny_weights: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    with command(*embed(plate, tiny_weights, tmp_path / "out", *words)) as process:
        _, error = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said in error
    assert len(error.splitlines()) == 1
