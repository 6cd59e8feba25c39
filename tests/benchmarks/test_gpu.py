"""The script for machines with a GPU, as far as one without can tell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from unidino_fast.benchmarks import checks, gpu
from unidino_fast.benchmarks.rows import append_rows
from unidino_fast.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from unidino_fast.benchmarks.rows import Row

ROOT = Path(__file__).parents[2]
ABSENT = [
    *("zarr", "numcodecs", "dask", "distributed", "polars", "typer", "pydantic", "fsspec"),
    *("ome_zarr_models", "rich", "pyarrow", "sklearn", "matplotlib", "onnx", "onnxruntime"),
]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_refuses_without_a_gpu_and_needs_little(tmp_path: Path) -> None:
    """Also that it imports where only torch, triton, timm and numpy are."""
    code = f"""
import sys
for name in {ABSENT}:
    sys.modules[name] = None
from unidino_fast.benchmarks import gpu
sys.exit(gpu.main(["--out", {str(tmp_path / "out")!r}]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "no CUDA device is here" in done.stderr
    assert not (tmp_path / "out").exists()


def script(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_one_step_does_not_cost_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make_row: Callable[..., Row]
) -> None:
    """A step that dies, one that hangs, and what they wrote before."""
    append_rows([make_row("old", value=1.0)], tmp_path)
    path = tmp_path / "rows.jsonl"
    line = path.read_text().replace('"old"', '"new"')
    calls = {
        "check_kernels": script("print('hello'); import os; os.abort()"),
        "measure_planes": script(f"open({str(path)!r}, 'a').write({line!r})"),
        "check_engines": script("import time; time.sleep(60)"),
        "measure_model": script("print('fine')"),
    }
    steps = {name: gpu.Step(lambda *_: True, 5.0) for name in calls}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "STEPS", steps)
        code = gpu.run_steps(list(calls), tmp_path, calls.__getitem__)
    shown = capsys.readouterr()
    assert code == 1
    assert "check_kernels    FAILED with exit code -6" in shown.out
    assert "measure_planes   passed" in shown.out
    assert "check_engines    stopped after its 5 s" in shown.out
    assert "measure_model    passed" in shown.out
    assert "hello" in shown.err
    assert "new" in shown.out
    assert "old" not in shown.out
    assert (tmp_path / "measure_model.log").read_text() == "fine\n"


def test_steps_without_time_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = gpu.run_steps(["check_kernels"], tmp_path, lambda _: script("1 / 0"), total=1.0)
    assert code == 1
    assert "check_kernels    left out: no time" in capsys.readouterr().out


def test_failing_checks_do_not_stop_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    def differ() -> None:
        raise EngineError("3 values differ")

    def crash() -> None:
        raise ZeroDivisionError("driver")

    assert not gpu._all_pass([("a", differ), ("b", crash), ("c", lambda: None)])
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "FAIL a: 3 values differ",
        "FAIL b: ZeroDivisionError: driver",
        "pass c",
        "2 checks failed",
    ]
    assert gpu._all_pass([("c", lambda: None)])


def test_rows_that_are_wrong_fail_the_step(make_row: Callable[..., Row], tmp_path: Path) -> None:
    good, other = make_row("unidino_fast eager", value=1.0), make_row("OpenVINO", note="left out")
    assert gpu._kept([good, other], tmp_path)
    assert not gpu._kept([good, make_row("a", value=1.0, note="WRONG: cosine")], tmp_path)
    assert not gpu._kept([make_row("unidino_fast compile", note="left out"), good], tmp_path)
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 6


def test_checks_see_a_difference() -> None:
    expected = torch.tensor([1.0, 2.0])
    checks._compare(expected.clone(), expected, 1e-7, "")
    with pytest.raises(EngineError, match="1 values differ"):
        checks._compare(torch.tensor([1.0, 2.01]), expected, 1e-3, "")
    with pytest.raises(EngineError, match="by inf"):
        checks._compare(torch.tensor([1.0, torch.nan]), expected, 1e-3, "")
    with pytest.raises(EngineError, match="instead of"):
        checks._compare(torch.ones(3), expected, 1e-3, "")


def test_engine_checks(tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = (("eager", "fp32"), ("eager", "bf16"))
    found = list(checks.engine_checks(str(tiny_weights), torch.device("cpu"), pairs))
    assert len(found) == 2
    for _, check in found:
        check()
    monkeypatch.setitem(checks.LIMITS, "bf16", 1.0)
    with pytest.raises(EngineError, match=r"cosine 0\.99"):
        found[1][1]()


@pytest.mark.slow
def test_kernel_checks_in_the_interpreter() -> None:
    """The checks themselves hold; the interpreter has to be there before triton is imported."""
    code = """
import torch
from unidino_fast.benchmarks import checks, gpu
checks.SHAPES = checks.SHAPES[:4] + ((1, 20, 35, 16, 16, 8), checks.SHAPES[5])
raise SystemExit(not gpu._all_pass(checks.kernel_checks(torch.device("cpu"), 3)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert done.stdout.count("pass ") > 25
