from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
from typing import TYPE_CHECKING

import pytest

from unidino_fast.benchmarks.measure import Samples
from unidino_fast.benchmarks.rows import (
    Row,
    append_rows,
    rate_figures,
    ratio_figures,
    read_rows,
    render,
)
from unidino_fast.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    MakeRow = Callable[..., Row]


def test_round_trip(make_row: MakeRow, tmp_path: Path) -> None:
    full = make_row(
        'odd, "name"\n', value=12.5, unit="tiles/s", p10=12.0, p50=12.5, p90=13.0, samples=7,
        baseline="b", ratio=1.25, cosine=0.99999875, noise="spread 11%", seconds=0.64,
    )  # fmt: skip
    bare = make_row("failed", batch=None, note="left out: no")
    append_rows([full], tmp_path / "new")
    append_rows([bare, full], tmp_path / "new")
    assert read_rows(tmp_path / "new") == [full, bare, full]
    with (tmp_path / "new/rows.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["candidate"] for row in table] == ['odd, "name"\n', "failed", 'odd, "name"\n']
    assert table[0]["cosine"] == "0.99999875"
    assert table[1]["value"] == ""
    assert set(table[0]) == set(full.to_dict())


def test_every_row_says_where_it_is_from(make_row: MakeRow) -> None:
    flat = make_row("a").to_dict()
    for name in (
        "device",
        "cores",
        "threads",
        "torch",
        "triton",
        "timm",
        "numpy",
        "commit",
        "date",
    ):
        assert flat[name], name


def test_numbers_are_json(make_row: MakeRow) -> None:
    row = make_row("a", value=1 / 3, cosine=math.nan, ratio=math.inf)
    flat = json.loads(json.dumps(row.to_dict(), allow_nan=False))
    assert flat["value"] == 0.333333
    assert flat["cosine"] is flat["ratio"] is None


def test_other_columns_are_not_mixed_in(make_row: MakeRow, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("some,other\n1,2\n")
    with pytest.raises(OutputError, match=r"rows.csv has other columns: choose another --out"):
        append_rows([make_row("a")], tmp_path)
    assert not (tmp_path / "rows.jsonl").exists()


def test_a_file_is_no_folder(make_row: MakeRow, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        append_rows([make_row("a")], tmp_path / "file")


def test_nothing_there_is_no_rows(tmp_path: Path) -> None:
    append_rows([], tmp_path / "none")
    assert os.listdir(tmp_path) == []  # noqa: PTH208
    assert read_rows(tmp_path) == []


def test_figures() -> None:
    samples, baseline = Samples(8.0, (1.0, 2.0, 4.0)), Samples(4.0, (1.0, 1.0, 1.0))
    rate = rate_figures(samples, per=2.0)
    assert rate["value"] == rate["p50"] == pytest.approx(2)
    assert rate["p10"] < rate["p50"] < rate["p90"]
    assert rate["seconds"] == pytest.approx(2)
    assert rate["samples"] == 3
    ratio = ratio_figures(samples, baseline, "b")
    assert ratio["ratio"] == pytest.approx(1)
    assert ratio["ratio_p10"] < 1 < ratio["ratio_p90"]


def test_text_puts_limits_first_and_failures_last(make_row: MakeRow) -> None:
    rows = [
        make_row("failed", note="left out: no onnx"),
        make_row("slow", value=1.5, unit="tiles/s", p10=1.4, p90=1.6, ratio=1.0),
        make_row("fast", value=1234.5, unit="tiles/s", ratio=823.0, noise="spread 20%"),
        make_row("limit: product", value=9.0, unit="tiles/s"),
        make_row("other", batch=16, value=2.0, unit="tiles/s"),
    ]
    lines = render(rows).splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["limit:", "fast", "slow", "failed"]
    assert "1,23" in lines[2]
    assert "noisy: spread 20%" in lines[2]
    assert "1.4 to 1.6" in lines[3]
    assert "left out: no onnx" in lines[4]
    assert lines[6] == "model: a ViT, fp32, batch 16"
    assert f"torch {rows[0].environment.torch}" in lines[-1]
    assert render([]) == ""


def test_rows_are_frozen(make_row: MakeRow) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_row("a").value = 1.0  # type: ignore[misc]
