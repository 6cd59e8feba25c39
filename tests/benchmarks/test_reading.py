"""`bench io` on a few small fields: every way gives the same pixels, and what is absent is said."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

import pytest
from zarr.registry import get_pipeline_class

from unidino_fast.benchmarks.command import run_bench
from unidino_fast.benchmarks.reading import bench, layouts
from unidino_fast.benchmarks.reading.gil import gil_share
from unidino_fast.errors import UsageError

if TYPE_CHECKING:
    from unidino_fast.benchmarks.measure import Effort


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, short: Effort) -> None:
    for module in (layouts, bench):
        monkeypatch.setattr(module, "EDGE", 64)
    monkeypatch.setattr(bench, "_CHUNKS", (64, 32))
    monkeypatch.setattr("unidino_fast.benchmarks.reading.io_effort", lambda **_: short)


def test_every_layout_and_way(
    small: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    get_pipeline_class()  # zarr-python loads what zarrs registers, if it is installed
    for name in ("zarrs", "tensorstore"):
        monkeypatch.setitem(sys.modules, name, None)
    run_bench("io", quick=True, as_json=True)
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert len(rows) == 2 * len(layouts.CODECS) * 11
    for row in rows:
        if row["candidate"] in ("zarrs", "tensorstore"):
            assert row["note"].startswith("not installed")
            assert row["value"] is None
        else:
            assert row["note"] == ""
            assert row["value"] > 0
            assert row["unit"] == "MB/s"
            assert row["cpu_ratio"] is not None
    assert len({row["shape"] for row in rows}) == 12


def test_options_of_other_benchmarks_are_refused() -> None:
    with pytest.raises(UsageError, match="belong to bench model"):
        run_bench("io", engines=["eager"])


def test_who_holds_the_interpreter() -> None:
    def counts() -> None:
        end = time.perf_counter() + 0.2
        while time.perf_counter() < end:
            pass

    held, free = gil_share(counts), gil_share(lambda: time.sleep(0.2))
    if held is None or free is None:
        pytest.skip("this system does not tell, or others are busy")
    assert 0 <= free < 0.1
    assert held == pytest.approx(0.5, abs=0.25)  # two threads take turns
