from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from unidino_fast.benchmarks import noise
from unidino_fast.benchmarks.measure import Samples

if TYPE_CHECKING:
    from pathlib import Path

STEADY = Samples(1.0, (1.0, 1.01, 1.02))


def test_steady_and_alone_is_no_noise() -> None:
    assert noise.describe_noise(STEADY, 0.0) == ""


def test_spread_and_neighbours_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "usable_cores", lambda: 4)
    assert noise.describe_noise(Samples(1.0, (1.0, 1.5, 2.0)), 0.0).startswith("spread ")
    assert noise.describe_noise(STEADY, 1.26) == "others used 1.3 of 4 cores"
    assert noise.describe_noise(STEADY, 0.3) == ""


def stat(user: int, idle: int) -> str:
    return f"cpu  {user} 0 0 {idle} 999 0 0 0 0 0\ncpu0 1 2 3 4\n"


def test_cores_of_others_are_counted_from_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    own = [7.0]
    monkeypatch.setattr(noise.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(noise, "_own_seconds", lambda: own[0])
    path = tmp_path / "stat"
    ticks = os.sysconf("SC_CLK_TCK")
    path.write_text(stat(50 * ticks, 1))
    neighbours = noise.Neighbours(path)
    path.write_text(stat(65 * ticks, 10**9))  # 15 core seconds more
    clock[0] += 10
    own[0] += 9
    assert neighbours.busy_cores() == pytest.approx(0.6)


def test_what_a_child_uses_is_no_neighbour() -> None:
    """A child that works for half a second, while it lives and when it has ended."""
    work = "import os\nwhile sum(os.times()[:2]) < 0.5: pass\nprint(flush=True)\ninput()"
    before = noise._own_seconds()
    with subprocess.Popen(
        [sys.executable, "-c", work], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        alive = noise._own_seconds()
        child.communicate("\n")
    rounding = 1e-6  # all are sums of the kernel's ticks of 10 ms
    assert alive - before >= 0.5 - rounding
    assert noise._own_seconds() >= alive - rounding


def test_load_average_where_the_kernel_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noise, "_own_seconds", lambda: 0.0)
    monkeypatch.setattr(os, "getloadavg", lambda: (1.5, 0.0, 0.0))
    assert noise.Neighbours(tmp_path / "none").busy_cores() == pytest.approx(1.5)
