"""What benchmarks do about fp8, as far as a machine without a GPU can tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from unidino_fast.backbones import open_backbone
from unidino_fast.benchmarks import command, gpu, roofline
from unidino_fast.benchmarks.candidates import Setting, builders
from unidino_fast.engines.fp8 import scaled_product_reference
from unidino_fast.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

CPU = torch.device("cpu")


def test_our_engines_alone_beside_themselves_in_bf16(tiny_weights: Path) -> None:
    setting = Setting(open_backbone(tiny_weights), CPU, "fp8", 2)
    found = builders(setting, ("eager", "onnx"))
    assert list(found) == [
        "unidino_fast eager",
        "unidino_fast eager, bf16",
        "unidino_fast onnx",
        "unidino_fast onnx, bf16",
    ]
    tiles = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    low, high = (found[name](setting)(tiles).double() for name in list(found)[:2])
    assert 0.995 < float(torch.cosine_similarity(low, high).min()) < 1 - 1e-7
    with pytest.raises(UsageError, match="engine onnx does not compute in fp8"):
        found["unidino_fast onnx"](setting)


@pytest.mark.parametrize("lack", ["", "an A100 has 8.0"])
def test_measured_by_default_where_the_gpu_has_it(
    tiny_weights: Path, monkeypatch: pytest.MonkeyPatch, lack: str
) -> None:
    monkeypatch.setattr(command, "lacks_fp8", lambda _: lack)
    job = command._model_job(str(tiny_weights), (), (), (), torch.device("cuda"), quick=False)
    assert job.precisions == (("bf16", "fp16", "fp32") if lack else ("bf16", "fp16", "fp8", "fp32"))


def test_steps_are_left_out_where_the_gpu_lacks_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.check_fp8(CPU, tmp_path)
    assert gpu.measure_fp8(CPU, tmp_path)
    assert capsys.readouterr().out == "left out: cpu is none\n" * 2
    assert list(tmp_path.iterdir()) == []


def test_the_limit_is_a_product_in_fp8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(roofline.MATRIX_EDGE, "cpu", 32)
    monkeypatch.setattr(roofline, "scaled_product", scaled_product_reference)
    limit = roofline.matrix_product(CPU, "fp8")
    assert limit.name == "limit: matrix product of 32 in fp8"
    assert limit.work == 2 * 32**3
    assert limit.run().dtype == torch.bfloat16  # type: ignore[attr-defined]
