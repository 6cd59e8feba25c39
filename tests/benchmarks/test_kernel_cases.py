"""The jobs of `bench kernels`: plain torch gives what the kernels must give; bytes are right."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import pytest
import torch

from unidino_fast.benchmarks.bandwidth import ON_CPU, OPS, REFERENCE, bench_kernels, case_rows
from unidino_fast.benchmarks.kernels import case as case_module
from unidino_fast.benchmarks.kernels.case import fluorescence
from unidino_fast.ops import _DTYPES, implementation

if TYPE_CHECKING:
    from unidino_fast.benchmarks.environment import Environment
    from unidino_fast.benchmarks.kernels.case import OpCase
    from unidino_fast.benchmarks.measure import Effort

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, in_seconds: None) -> None:
    for op in OPS:
        module = f"unidino_fast.benchmarks.kernels.{op}"
        if hasattr(importlib.import_module(module), "fields"):
            monkeypatch.setattr(f"{module}.fields", lambda _: (2, 224, 448))


def cases(op: str) -> list[OpCase]:
    found: list[OpCase] = importlib.import_module(f"unidino_fast.benchmarks.kernels.{op}").cases(
        CPU
    )
    return found


@pytest.mark.parametrize("op", OPS)
def test_expression_equals_the_reference(op: str) -> None:
    for one in cases(op):
        expected = one.reference()
        assert one.op == op
        assert one.expression is not None
        found = one.expression()
        assert found.shape == expected.shape
        error = (found.double() - expected.double()).norm() / expected.double().norm()
        assert float(error) <= one.tolerance


def test_bytes_are_inputs_once_and_outputs_once() -> None:
    pixels = 2 * 224 * 448
    assert [one.n_bytes for one in cases("tile_normalize")] == [pixels * 4, pixels * 6]
    assert [one.n_bytes for one in cases("intensity_range")] == [pixels * 2 + 32, pixels + 32]
    assert [one.n_bytes for one in cases("tile_signal")] == [pixels * 2 + 4 * 4]
    assert [one.n_bytes for one in cases("quantize_rows")] == [
        394 * (384 * 5 + 4),
        394 * (1536 * 3 + 4),
    ]


def test_rows_on_the_cpu_are_the_references_and_what_runs_there(
    environment: Environment, short: Effort
) -> None:
    rows = list(bench_kernels(CPU, environment, lambda _: None, effort=short))
    assert {row.benchmark for row in rows} == {f"kernels/{op}" for op in OPS}
    others = {row.benchmark for row in rows if row.candidate == ON_CPU}
    pixels = torch.zeros(1, 1, 1, dtype=torch.uint16)
    chosen = {op: implementation(op, pixels) for op in _DTYPES}
    assert others == {f"kernels/{op}" for op, way in chosen.items() if way != "reference"}
    for row in rows:
        assert row.value is not None
        assert row.unit == "GB/s"
        assert row.is_limit or row.candidate in (REFERENCE, ON_CPU)
        assert row.note == ""


def test_a_reference_that_varies_is_wrong(environment: Environment, short: Effort) -> None:
    generator = torch.Generator().manual_seed(0)
    loose = case_module.OpCase(
        op="noise", shape="", dtypes="", n_bytes=4, tolerance=1e-3, expression=None,
        kernel=lambda: torch.zeros(1), reference=lambda: torch.rand(9, generator=generator),
    )  # fmt: skip
    row = case_rows(loose, CPU, environment, effort=short)[0]
    assert row.note.startswith("WRONG: error")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_pixels_are_dim_with_a_bright_tail(dtype: torch.dtype) -> None:
    pixels = fluorescence((1, 300, 300), CPU, dtype).to(torch.float32) / torch.iinfo(dtype).max
    assert 0 < pixels.median() < 0.05
    assert pixels.max() > 0.2


def test_every_kernel_has_a_benchmark() -> None:
    """One op, one stem."""
    from unidino_fast import kernels

    assert set(OPS) <= set(kernels.__all__)
    references = {name for name in kernels.__all__ if name.endswith("_reference")}
    covered = {f"{op}_reference" for op in OPS} | {"intensity_statistics_reference"}
    assert references == covered
