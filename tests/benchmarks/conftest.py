"""Rows, and benchmarks that take seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from unidino_fast.benchmarks import model
from unidino_fast.benchmarks.environment import Environment, describe_environment
from unidino_fast.benchmarks.measure import Effort
from unidino_fast.benchmarks.rows import Row

if TYPE_CHECKING:
    from collections.abc import Callable

SHORT = Effort((2, 2), 0.0, sample_seconds=0.0, settle_seconds=0.0)


@pytest.fixture(scope="session")
def environment() -> Environment:
    return describe_environment(torch.device("cpu"))


@pytest.fixture
def make_row(environment: Environment) -> Callable[..., Row]:
    def make(candidate: str, **fields: Any) -> Row:
        usual = {
            "benchmark": "model",
            "shape": "a ViT",
            "precision": "fp32",
            "batch": 8,
            "environment": environment,
        }
        return Row(candidate=candidate, **(usual | fields))

    return make


@pytest.fixture
def short() -> Effort:
    return SHORT


@pytest.fixture
def in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few samples, small limits, and nothing that takes its time to compile or export."""
    original: Callable[..., dict[str, Any]] = model.builders
    slow = ("torch.compile", "onnxruntime", "OpenVINO")

    def quick_ones(*arguments: Any) -> dict[str, Any]:
        found = original(*arguments)
        return {name: build for name, build in found.items() if not name.startswith(slow)}

    module = "unidino_fast.benchmarks"
    monkeypatch.setattr(f"{module}.model.builders", quick_ones)
    monkeypatch.setattr(f"{module}.command.model_effort", lambda *_, **__: SHORT)
    monkeypatch.setattr(f"{module}.command.kernel_effort", lambda *_, **__: SHORT)
    monkeypatch.setattr(f"{module}.roofline.MATRIX_EDGE", {"cpu": 64})
    monkeypatch.setattr(f"{module}.roofline.COPY_BYTES", {"cpu": 2**20})
