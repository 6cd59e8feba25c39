"""SIGKILL at random moments, then the same run again: byte-equal files, nothing done twice."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from result_files import tables_of

from unidino_fast.simulate import simulate_plate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MOMENTS = 20
N_WELLS = 48

# Starts runs by forking before any pixel was read: Python and torch need seconds to start.
STARTER = """
import os, sys, traceback
import torch
torch.set_num_threads(1)
import unidino_fast as uf
from unidino_fast.config import EmbedOptions
from unidino_fast.pipeline import embed_to_folder
plate, weights = sys.argv[1:]
model = uf.load_backbone(weights, device="cpu")
print("ready", flush=True)
for out in sys.stdin:
    child = os.fork()
    if child == 0:
        try:
            embed_to_folder(uf.open_plate(plate), model, out.strip(), EmbedOptions(tile=32))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Starter:
    """Runs `embed_to_folder` in processes that can be killed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def start(self, out: Path) -> int:
        """Begins a run; gives its process number."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{out}\n")
        self._process.stdin.flush()
        return int(self._line())

    def wait(self) -> int:
        """The exit status of the run, as of `os.waitpid`."""
        return int(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@pytest.fixture
def starter(tiny_weights: Path, tmp_path: Path) -> Iterator[Starter]:
    plate = tmp_path / "p.zarr"
    simulate_plate(plate, rows=6, columns=8, n_fields=2, size=(200, 200), channels=("DNA", "ER"))
    command = [sys.executable, "-c", STARTER, str(plate), str(tiny_weights)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield Starter(process)
        assert process.stdin is not None
        process.stdin.close()


def parts_of(out: Path) -> list[Path]:
    return list(out.glob("p/parts/[A-Z]*.parquet"))


def seconds_until(out: Path, n_parts: int, began: float) -> float:
    """When a run has finished so many wells."""
    while len(parts_of(out)) < n_parts:
        assert time.monotonic() - began < 60
        time.sleep(0.002)
    return time.monotonic() - began


def test_killed_at_random_moments(starter: Starter, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    began = time.monotonic()
    starter.start(whole)
    parts_begin, parts_end = (seconds_until(whole, n, began) for n in (1, N_WELLS))
    assert starter.wait() == 0
    seconds = time.monotonic() - began
    expected = tables_of(whole / "p")
    moments = random.Random(0)
    n_killed, finished_before = 0, set()
    for index in range(MOMENTS):
        out = tmp_path / f"killed{index}"
        run = starter.start(out)
        span = (0.0, seconds) if index % 2 else (parts_begin, parts_end)
        time.sleep(moments.uniform(*span))
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(run, signal.SIGKILL)
        n_killed += os.WIFSIGNALED(starter.wait())
        parts = {path: path.stat().st_mtime_ns for path in parts_of(out)}
        finished_before.add(len(parts))
        starter.start(out)
        assert starter.wait() == 0
        assert tables_of(out / "p") == expected
        for path, written in parts.items():
            assert path.stat().st_mtime_ns == written, "a finished well was computed again"
        assert not [path for path in out.rglob(".*") if path.name != ".lock"]
    assert n_killed >= MOMENTS // 2
    assert len(finished_before) > 3, "the moments did not spread over the run"
