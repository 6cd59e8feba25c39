"""Candidates do the same job, and one that does not is said so."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from unidino_fast.backbones import open_backbone
from unidino_fast.benchmarks import candidates, model
from unidino_fast.benchmarks.candidates import BASELINE, Setting, builders, plain_onnx
from unidino_fast.benchmarks.model import ModelJob, bench_model
from unidino_fast.benchmarks.planes import bench_planes, planes_job
from unidino_fast.benchmarks.prepare import agreement, prepare_all
from unidino_fast.benchmarks.roofline import matrix_products
from unidino_fast.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from unidino_fast.backbones import Backbone
    from unidino_fast.benchmarks.environment import Environment
    from unidino_fast.benchmarks.measure import Candidate, Effort
    from unidino_fast.benchmarks.rows import Row

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["identity", "per_tile"])
def backbone(tiny_weights: Path, request: pytest.FixtureRequest) -> Backbone:
    return open_backbone(tiny_weights.parent / "flat.pth", input_norm=request.param)


@pytest.fixture(scope="module")
def identity(tiny_weights: Path) -> Backbone:
    return open_backbone(tiny_weights)


def quiet(_: str) -> None:
    pass


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torch.compile(timm)", "onnxruntime of timm", "OpenVINO of timm"])
# torch's exporter and OpenVINO warn of their own deprecations
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_competitors_agree_with_timm(backbone: Backbone, name: str) -> None:
    setting = Setting(backbone, CPU, "fp32", 3)
    tiles = torch.rand(3, 1, 32, 32)
    try:
        network = builders(setting, ())[name](setting)
    except UsageError as error:
        pytest.skip(str(error))
    expected = builders(setting, ())[BASELINE](setting)(tiles)
    assert agreement(network(tiles), expected)["cosine"] > 0.999999


def test_our_engine_agrees_with_timm(backbone: Backbone) -> None:
    setting = Setting(backbone, CPU, "fp32", 3)
    tiles = torch.rand(3, 1, 32, 32)
    found = builders(setting, ("eager",))
    one, other = (found[name](setting)(tiles) for name in (BASELINE, "unidino_fast eager"))
    torch.testing.assert_close(other, one, rtol=0, atol=1e-5)


def test_candidates_share_no_weights(identity: Backbone) -> None:
    before = {name: tensor.data_ptr() for name, tensor in identity.module.state_dict().items()}
    plain = candidates.PlainModel(identity).vit.state_dict()
    assert not {tensor.data_ptr() for tensor in plain.values()} & set(before.values())


def test_which_candidates_where(identity: Backbone) -> None:
    cuda = torch.device("cuda")
    on_cpu = list(builders(Setting(identity, CPU, "fp32", 8), ("eager", "onnx")))
    assert on_cpu[0] == BASELINE
    assert {"unidino_fast onnx", "onnxruntime of timm", "OpenVINO of timm"} <= set(on_cpu)
    on_cuda = builders(Setting(identity, cuda, "bf16", 8), ("eager",))
    assert "torch.compile(timm), cast weights" in on_cuda
    assert not any("onnx" in name or "OpenVINO" in name for name in on_cuda)


def test_rows_of_a_setting(
    identity: Backbone, short: Effort, environment: Environment, in_seconds: None
) -> None:
    job = ModelJob(identity, CPU, ("eager",), ("fp32", "bf16"), (2, 5), short)
    said: list[str] = []
    rows = list(bench_model(job, environment, said.append))
    assert {(row.precision, row.batch) for row in rows} == {
        (precision, batch) for precision in ("fp32", "bf16") for batch in (2, 5)
    }
    ours = [row for row in rows if row.candidate == "unidino_fast eager"]
    assert len(ours) == 4
    for row in ours:
        assert row.value is not None
        assert row.cosine is not None
        assert row.cosine > (0.99999 if row.precision == "fp32" else 0.999)
        assert row.baseline == BASELINE
        assert row.ratio is not None
        assert row.limit.startswith("limit: matrix product of 64")
        assert row.unit == "tiles/s"
        assert row.prepare_seconds is not None
        assert row.note == ""
    assert {row.ratio for row in rows if row.candidate == BASELINE} == {1.0}
    assert sum(row.is_limit for row in rows) == 4
    assert "model in bf16, batch 5" in said


@pytest.mark.parametrize("slow", ["limit: matrix product of 64 in fp32", "by numpy"])
def test_the_limit_is_the_faster_of_two_products(
    identity: Backbone,
    short: Effort,
    environment: Environment,
    in_seconds: None,
    monkeypatch: pytest.MonkeyPatch,
    slow: str,
) -> None:
    def products(*arguments: Any) -> list[Candidate]:
        return [
            replace(one, run=lambda: time.sleep(0.01)) if one.name.endswith(slow) else one
            for one in matrix_products(*arguments)
        ]

    monkeypatch.setattr(model, "matrix_products", products)
    rows = bench_model(ModelJob(identity, CPU, (), ("fp32",), (2,), short), environment, quiet)
    (limit,) = {row.limit or row.candidate for row in rows}
    assert not limit.endswith(slow)


def test_shares_and_rates_fit_together(
    identity: Backbone, short: Effort, environment: Environment, in_seconds: None
) -> None:
    """The share is of the rate at which the limit could do the tiles' operations."""
    rows = list(
        bench_model(ModelJob(identity, CPU, (), ("fp32",), (2,), short), environment, quiet)
    )
    by_name: dict[str, Row] = {row.candidate: row for row in rows}
    limit = next(row for row in rows if row.is_limit)
    plain = by_name[BASELINE]
    assert limit.p10 is not None
    assert limit.p90 is not None
    assert plain.limit_share is not None
    assert plain.p10 is not None
    assert plain.p90 is not None
    assert 0.5 * plain.p10 / limit.p90 < plain.limit_share < 2 * plain.p90 / limit.p10


def test_failing_and_wrong_candidates_are_named(
    identity: Backbone,
    short: Effort,
    environment: Environment,
    in_seconds: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(_: Setting) -> candidates.Network:
        raise RuntimeError("out of\nluck")

    def wrong(setting: Setting) -> candidates.Network:
        right = candidates.timm_eager(setting)
        return lambda tiles: right(tiles).roll(1, dims=1)

    found = {BASELINE: candidates.timm_eager, "failing": failing, "wrong": wrong}
    monkeypatch.setattr(model, "builders", lambda *_: found)
    job = ModelJob(identity, CPU, (), ("fp32",), (2,), short)
    rows = {row.candidate: row for row in bench_model(job, environment, quiet)}
    assert rows["failing"].value is None
    assert rows["failing"].note == "left out: out of"
    assert rows["wrong"].note == "WRONG: cosine below 0.99999"
    assert rows[BASELINE].note == ""


def test_no_time_to_prepare() -> None:
    expected = torch.rand(2, 3)
    builds = {"a": lambda: lambda: expected, "b": lambda: lambda: expected}
    ready = prepare_all(builds, expected, limit=0.9, say=quiet, seconds=-1)
    assert {one.facts["note"] for one in ready.values()} == {"left out: no time to prepare it"}
    ready = prepare_all(builds, expected, limit=0.9, say=quiet)
    assert all(one.run is not None for one in ready.values())
    nan = torch.full_like(expected, torch.nan)
    ready = prepare_all({"a": lambda: lambda: nan}, expected, limit=0.9, say=quiet)
    assert ready["a"].facts["note"].startswith("WRONG")


def test_several_channels_are_refused(
    identity: Backbone, short: Effort, environment: Environment
) -> None:
    from dataclasses import replace

    job = ModelJob(replace(identity, in_chans=5), CPU, (), ("fp32",), (2,), short)
    with pytest.raises(UsageError, match="several channels"):
        next(bench_model(job, environment, quiet))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_planes_to_field_means(
    backbone: Backbone,
    short: Effort,
    environment: Environment,
    in_seconds: None,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
) -> None:
    monkeypatch.setattr("unidino_fast.benchmarks.planes.timm_compiled", candidates.timm_eager)
    setting = Setting(backbone, CPU, precision, 32)  # type: ignore[arg-type]
    rows = bench_planes(setting, ("eager",), short, environment, quiet)
    ours = next(row for row in rows if row.candidate == "unidino_fast eager")
    assert ours.note == ""
    assert ours.cosine is not None
    assert ours.cosine > (0.99999 if precision == "fp32" else 0.999)
    assert ours.value is not None
    assert planes_job(setting).n_tiles == 128
    assert ours.seconds == pytest.approx(128 / ours.value)


def test_planes_need_whole_batches(identity: Backbone) -> None:
    with pytest.raises(UsageError, match="batch size 9 does not fit: give a multiple of 16"):
        planes_job(Setting(identity, CPU, "fp32", 9))


def test_export_needs_onnx(identity: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UsageError, match="onnx is not installed"):
        plain_onnx(Setting(identity, CPU, "fp32", 1))
