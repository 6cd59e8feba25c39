from __future__ import annotations

import struct
import sys
from typing import TYPE_CHECKING

import pytest

from unidino_fast.benchmarks.plot import plot_rows
from unidino_fast.errors import OutputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from unidino_fast.benchmarks.rows import Row

    MakeRow = Callable[..., Row]


@pytest.fixture
def rows(make_row: MakeRow) -> list[Row]:
    def bar(name: str, value: float, **fields: object) -> Row:
        return make_row(
            name, value=value, unit="tiles/s", p10=0.9 * value, p90=1.1 * value, **fields
        )

    return [
        bar("timm eager", 10.0, baseline="timm eager", ratio=1.0),
        bar("unidino_fast onnx", 17.0, baseline="timm eager", ratio=1.7, noise="spread 20%"),
        bar("limit: matrix product", 30.0),
        make_row("OpenVINO of timm", note="left out: not installed"),
        bar("timm eager", 100.0, batch=64),
        make_row("alone", benchmark="none", note="left out: all"),
    ]


def test_png_is_written(rows: list[Row], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot_rows(rows, tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    assert width > 1000
    assert height > 500


def test_nothing_to_draw(rows: list[Row], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(UsageError, match="nothing to draw"):
        plot_rows(rows[-1:], tmp_path / "a.png")


def test_folder_that_is_missing(rows: list[Row], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(OutputError, match="choose another --out"):
        plot_rows(rows, tmp_path / "none/a.png")


def test_without_matplotlib(
    rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match="pip install matplotlib"):
        plot_rows(rows, tmp_path / "a.png")
