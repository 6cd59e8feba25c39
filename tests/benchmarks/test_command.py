"""`run_bench` from end to end, on a backbone that takes milliseconds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from unidino_fast.benchmarks.command import run_bench
from unidino_fast.benchmarks.rows import read_rows
from unidino_fast.errors import OutputError, UsageError, WeightsError

if TYPE_CHECKING:
    from pathlib import Path


def test_model_as_json(
    tiny_weights: Path, tmp_path: Path, in_seconds: None, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments: dict[str, Any] = {
        "weights": str(tiny_weights), "engines": ["eager"], "batch_sizes": [2], "device": "cpu",
        "precisions": ["fp32"], "out": tmp_path / "out", "as_json": True,
    }  # fmt: skip
    run_bench("model", **arguments)
    found = json.loads(capsys.readouterr().out)  # one object, nothing else
    names = [row["candidate"] for row in found["rows"]]
    assert names[:2] == ["timm eager", "unidino_fast eager"]
    assert found["benchmark"] == "model"
    assert found["rows"] == [row.to_dict() for row in read_rows(tmp_path / "out")]
    for name in found["files"]:
        assert (tmp_path / "out" / name.rsplit("/", 1)[1]).stat().st_size > 0
    run_bench("model", **arguments)
    assert len(read_rows(tmp_path / "out")) == 2 * len(names)


def test_model_as_text_keeps_nothing(
    tiny_weights: Path,
    tmp_path: Path,
    in_seconds: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    run_bench("model", weights=str(tiny_weights), engines=["eager"], device="cpu", quick=True)
    shown = capsys.readouterr()
    assert "unidino_fast eager" in shown.out
    assert "batch 8" in shown.out
    assert "preparing unidino_fast eager" in shown.err
    assert not list(tmp_path.iterdir())


def test_kernels_on_the_cpu_say_what_they_are(
    in_seconds: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for op in ("tile_normalize", "intensity_range", "tile_signal"):
        module = f"unidino_fast.benchmarks.kernels.{op}"
        monkeypatch.setattr(f"{module}.fields", lambda _: (1, 224, 224))
    run_bench("kernels", device="cpu")
    shown = capsys.readouterr()
    assert "no CUDA device" in shown.err
    assert "torch reference" in shown.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"engines": ["warp"]}, "engine 'warp' cannot be measured"),
        ({"engines": ["auto"]}, "engine 'auto' cannot be measured"),
        ({"precisions": ["fp4"]}, "precision 'fp4'"),
        ({"batch_sizes": [0]}, "batch size 0 is too small"),
        ({"device": "tpu"}, "device 'tpu' is unknown"),
        ({"what": "kernels", "engines": ["eager"]}, "belong to bench model"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], said: str) -> None:
    what = options.pop("what", "model")
    with pytest.raises(UsageError, match=said):
        run_bench(what, **({"device": "cpu"} | options))


@pytest.mark.parametrize("what", ["model", "kernels", "io"])
def test_a_folder_that_takes_no_rows_is_said_before_measuring(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: Any
) -> None:
    def measure(*_: Any, **__: Any) -> Any:
        pytest.fail("measured")
        yield

    (tmp_path / "rows.csv").write_text("some,other\n1,2\n")
    for name in ("command.bench_model", "command.bench_kernels", "reading.bench_io"):
        monkeypatch.setattr(f"unidino_fast.benchmarks.{name}", measure)
    with pytest.raises(OutputError, match="has other columns: choose another --out"):
        run_bench(what, weights=str(tiny_weights), device="cpu", out=tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        run_bench(what, weights=str(tiny_weights), device="cpu", out=tmp_path / "file")


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(WeightsError):
        run_bench("model", weights=str(tmp_path / "none.pth"), device="cpu", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
