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

import pytest

from unidino_fast.output import TABLES
from unidino_fast.simulate import simulate_plate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

N_WELLS = 96


@pytest.fixture(scope="module")
def plate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough that a run can be met in its middle."""
    path = tmp_path_factory.mktemp("plates") / "p.zarr"
    simulate_plate(path, rows=8, columns=12, n_fields=2, size=(200, 200), channels=("DNA", "ER"))
    return path


@contextmanager
def command(*words: str | Path) -> Iterator[subprocess.Popen[str]]:
    call = [sys.executable, "-m", *map(str, words)]
    with subprocess.Popen(
        call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
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


def test_ctrl_c_stops_workers_and_keeps_what_is_done(
    plate: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = embed(plate, tiny_weights, out, "--workers", "2")
    with command(*words) as process:
        wait_until(lambda: len(parts_of(out)) >= 2, process)
        asked = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
        seconds = time.monotonic() - asked
    assert process.returncode == 130, said
    assert seconds < 15
    assert f"interrupted: {out} keeps the finished wells; run it again to go on" in said
    assert "Traceback" not in said
    n_done = len(parts_of(out))
    assert 2 <= n_done < N_WELLS
    with command(*words) as process:
        shown, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert re.search(rf"{N_WELLS} wells \((\d+) done before\)", shown)
    with command(*embed(plate, tiny_weights, tmp_path / "alone")) as process:
        process.communicate(timeout=120)
    for name in TABLES:
        assert (out / "p" / name).read_bytes() == (tmp_path / "alone/p" / name).read_bytes()


def test_no_scheduler_at_the_address(plate: Path, tiny_weights: Path, tmp_path: Path) -> None:
    words = embed(plate, tiny_weights, tmp_path / "out", "--scheduler", "tcp://127.0.0.1:9")
    with command(*words) as process:
        _, said = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "scheduler tcp://127.0.0.1:9 does not answer" in said.splitlines()[-1]
    assert not (tmp_path / "out").exists()


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
    assert 2 <= len(parts_of(out)) < N_WELLS
    with command(*embed(plate, tiny_weights, out)) as process:
        shown, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "done before" in shown


def test_two_runs_on_one_folder(plate: Path, tiny_weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with command(*embed(plate, tiny_weights, out)) as first:
        wait_until(lambda: bool(parts_of(out)), first)
        first.send_signal(signal.SIGSTOP)  # in the middle of its work
        with command(*embed(plate, tiny_weights, out)) as second:
            _, said = second.communicate(timeout=60)
        assert second.returncode == 1
        assert f"in use by process {first.pid} on " in said.splitlines()[-1]
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
