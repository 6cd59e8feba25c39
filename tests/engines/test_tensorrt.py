"""TensorRT engines: built by TensorRT for RTX, which needs no GPU; run where there is one."""

from __future__ import annotations

import logging
import sys
from importlib.util import find_spec
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from unidino_fast.backbones import open_backbone
from unidino_fast.engines.graph import InferenceGraph
from unidino_fast.engines.onnx_export import onnx_model
from unidino_fast.engines.plan_cache import cache_folder, plan_path, read_plan, write_plan
from unidino_fast.engines.tensorrt import (
    TensorRTEngine,
    build_plan,
    cached_engine,
    check_gpu,
    parsed,
)
from unidino_fast.engines.tensorrt_library import TensorRT, load_tensorrt, rtx_libraries
from unidino_fast.errors import EngineError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from unidino_fast.choices import Precision

pytest.importorskip("onnx")

MAGIC = b"vtrt"
"""First bytes of a plan of TensorRT for RTX."""


@pytest.fixture(scope="module")
def rtx() -> TensorRT:
    if find_spec("tensorrt_rtx_bindings") is None:  # installed but broken must fail, not skip
        pytest.skip("TensorRT for RTX is not installed: pip install -e '.[tensorrt-rtx]'")
    return load_tensorrt(without_gpu=True)


@pytest.fixture
def graph(tiny_weights: Path) -> InferenceGraph:
    return InferenceGraph(open_backbone(tiny_weights)).eval()


@pytest.fixture
def standardizing(tiny_weights: Path, tmp_path: Path) -> InferenceGraph:
    """MorphEm's layout: tiles are standardised inside the graph."""
    from safetensors.torch import load_file

    state = {f"module.backbone.{name}": x for name, x in load_file(tiny_weights).items()}
    torch.save({"student": state}, tmp_path / "morphem.pth")
    return InferenceGraph(open_backbone(tmp_path / "morphem.pth")).eval()


@pytest.fixture
def unloaded() -> Iterator[None]:
    """What a test finds installed must not outlast it."""
    load_tensorrt.cache_clear()
    yield
    load_tensorrt.cache_clear()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_network_is_the_models(rtx: TensorRT, graph: InferenceGraph, precision: Precision) -> None:
    """Names, shapes and types of what goes in and out; the types between are the model's."""
    trt = rtx.module
    builder, network, parser = parsed(rtx, onnx_model(graph, precision))
    assert builder is not None
    assert parser.num_errors == 0
    assert network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert (network.num_inputs, network.num_outputs) == (1, 1)
    given, result = network.get_input(0), network.get_output(0)
    assert (given.name, tuple(given.shape), given.dtype) == ("patches", (-1, 4, 256), trt.float32)
    assert (result.name, tuple(result.shape), result.dtype) == ("features", (-1, 64), trt.float32)
    kinds = {"fp32": trt.float32, "bf16": trt.bfloat16, "fp16": trt.float16}
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    products = [x for x in layers if x.type == trt.LayerType.MATRIX_MULTIPLY]
    assert len(products) == 1 + 2 * 8  # patches; q, k, v, two of attention, proj, fc1, fc2
    assert {layer.get_output(0).dtype for layer in products} == {kinds[precision]}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_plan_is_built_without_a_gpu(
    rtx: TensorRT, standardizing: InferenceGraph, precision: Precision
) -> None:
    plan = build_plan(rtx, onnx_model(standardizing, precision), batch_size=4)
    assert bytes(plan[:4]) == MAGIC
    n_weights = sum(weight.numel() for weight in standardizing.parameters())
    assert len(plan) > n_weights * (4 if precision == "fp32" else 2)


def test_plan_of_one_kind_of_gpu(rtx: TensorRT, graph: InferenceGraph) -> None:
    targets: list[tuple[Precision, tuple[int, int]]] = [
        ("bf16", (12, 0)),
        ("bf16", (8, 9)),
        ("fp16", (7, 5)),
    ]
    for precision, capability in targets:
        model = onnx_model(graph, precision)
        assert bytes(build_plan(rtx, model, batch_size=2, capability=capability)[:4]) == MAGIC
    turing = (7, 5)  # has no bf16
    with pytest.raises(EngineError, match=r"tensorrt_rtx 1\..* cannot build .*sm75") as caught:
        build_plan(rtx, onnx_model(graph, "bf16"), batch_size=2, capability=turing)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_full_size_plan(rtx: TensorRT) -> None:
    """ViT-S/16 in bf16: about 4 s and 47 MB."""
    graph = InferenceGraph(open_backbone("random:0")).eval()
    plan = build_plan(rtx, onnx_model(graph, "bf16"), batch_size=256)
    assert bytes(plan[:4]) == MAGIC
    assert 42e6 < len(plan) < 60e6


def test_broken_model_is_refused(rtx: TensorRT) -> None:
    with pytest.raises(EngineError, match="cannot build the engine") as caught:
        build_plan(rtx, b"not a model", batch_size=1)
    assert "\n" not in str(caught.value)


def test_messages_do_not_reach_the_terminal(
    rtx: TensorRT, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(EngineError):
        build_plan(rtx, b"not a model", batch_size=1)
    assert "".join(capfd.readouterr()) == ""


def test_gpus_that_rtx_does_not_run_on_are_named(rtx: TensorRT) -> None:
    check_gpu(rtx, "NVIDIA GeForce RTX 4090", (8, 9))
    with pytest.raises(UsageError, match=r"H100 80GB HBM3 \(compute capability 9\.0\): pip"):
        check_gpu(rtx, "NVIDIA H100 80GB HBM3", (9, 0))


@pytest.mark.usefixtures("unloaded")
def test_absent_tensorrt_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("unidino_fast.engines.tensorrt_library.find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"pip install 'unidino_fast\[tensorrt\]'") as caught:
        load_tensorrt()
    assert "\n" not in str(caught.value)
    assert list(rtx_libraries()) == []


@pytest.mark.usefixtures("unloaded")
@pytest.mark.parametrize(("without_gpu", "tried"), [(False, "tensorrt"), (True, "tensorrt_rtx_b")])
def test_flavour_that_fits_is_loaded_first_and_must_load(
    monkeypatch: pytest.MonkeyPatch, without_gpu: bool, tried: str
) -> None:
    """Both installed, neither loads: the error is of the one that was chosen."""
    found = SimpleNamespace(submodule_search_locations=None)
    monkeypatch.setattr("unidino_fast.engines.tensorrt_library.find_spec", lambda _: found)
    for package in ("tensorrt", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=f"^{tried}.*is installed but cannot be loaded"):
        load_tensorrt(without_gpu=without_gpu)


def test_engine_wants_cuda(graph: InferenceGraph) -> None:
    with pytest.raises(UsageError, match="does not run on cpu: use a CUDA device"):
        TensorRTEngine(graph, torch.device("cpu"), "bf16", step=4)


class FakeRuntime:
    """Loads what begins with `plan`; counts."""

    def __init__(self) -> None:
        self.n_loaded = 0

    def deserialize_cuda_engine(self, plan: memoryview) -> object | None:
        self.n_loaded += 1
        return plan if bytes(plan[:4]) == b"plan" else None


class Build:
    """Builds a plan; counts."""

    def __init__(self, plan: bytes = b"plan of an engine") -> None:
        self.plan = plan
        self.n_built = 0

    def __call__(self) -> memoryview:
        self.n_built += 1
        return memoryview(self.plan)


@pytest.fixture
def fake() -> TensorRT:
    return TensorRT(None, "tensorrt", "0", SimpleNamespace(first_error="wrong\nversion"))


def test_engine_is_built_once(tmp_path: Path, fake: TensorRT) -> None:
    build = Build()
    path = tmp_path / "new" / "x.plan"
    engines = [cached_engine(fake, FakeRuntime(), path, build) for _ in range(3)]
    assert build.n_built == 1
    assert {bytes(engine) for engine in engines} == {build.plan}
    assert [file.name for file in path.parent.iterdir()] == ["x.plan"]


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Whatever else is said, if an earlier test has the command line say it."""
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty", "another format"])
def test_damaged_entry_is_built_again(
    tmp_path: Path, fake: TensorRT, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    """TensorRT never sees damaged bytes: it may crash on them."""
    path = tmp_path / "x.plan"
    write_plan(path, memoryview(b"plan of an engine"))
    content = path.read_bytes()
    path.write_bytes(
        {
            "truncated": content[:-3],
            "changed": content[:-1] + b"?",
            "empty": b"",
            "another format": content[1:],
        }[damage]
    )
    build, runtime = Build(), FakeRuntime()
    cached_engine(fake, runtime, path, build)
    assert (build.n_built, runtime.n_loaded) == (1, 1)
    (record,) = warnings_in(caplog)
    assert record.levelno == logging.WARNING
    assert record.getMessage() == f"{path} is damaged: building the engine again"
    caplog.clear()
    cached_engine(fake, runtime, path, build)
    assert build.n_built == 1
    assert not warnings_in(caplog)


def test_entry_that_does_not_load_is_built_again(
    tmp_path: Path, fake: TensorRT, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "x.plan"
    write_plan(path, memoryview(b"another version's"))
    build = Build()
    assert bytes(cached_engine(fake, FakeRuntime(), path, build)) == build.plan
    (record,) = warnings_in(caplog)
    assert record.getMessage() == f"{path}: wrong version: building the engine again"
    kept = read_plan(path)
    assert kept is not None
    assert bytes(kept) == build.plan


def test_new_engine_that_does_not_load_is_an_error(tmp_path: Path, fake: TensorRT) -> None:
    with pytest.raises(EngineError, match=r"\(wrong version\): use --engine compile"):
        cached_engine(fake, FakeRuntime(), tmp_path / "x.plan", Build(b"nothing"))


def test_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, fake: TensorRT, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    build = Build()
    cached_engine(fake, FakeRuntime(), tmp_path / "file" / "x.plan", build)
    assert build.n_built == 1
    assert all("\n" not in record.getMessage() for record in caplog.records)
    assert "not kept for the next run" in caplog.text


def test_names_of_entries_depend_on_everything(tmp_path: Path) -> None:
    names = {
        plan_path(tmp_path, model, options).name
        for model in (b"a", b"b")
        for options in ({"gpu": "x", "batch_size": 1}, {"gpu": "y", "batch_size": 1}, {"gpu": "x"})
    }
    assert len(names) == 6
    assert plan_path(tmp_path, b"a", {"p": 1, "q": 2}) == plan_path(
        tmp_path, b"a", {"q": 2, "p": 1}
    )


def test_cache_folder_follows_the_convention(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert str(cache_folder()) == "/somewhere/unidino_fast"
    for unset in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert cache_folder() == tmp_path / ".cache" / "unidino_fast"


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("precision", "cosine"), [("fp32", 0.99999), ("bf16", 0.999), ("fp16", 0.999)]
)
def test_cuda_engine_equals_the_graph(
    tiny_weights: Path, standardizing: InferenceGraph, tmp_path: Path, precision: Any, cosine: float
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    device = torch.device("cuda")
    try:
        check_gpu(load_tensorrt(), "this GPU", torch.cuda.get_device_capability())
    except UsageError as error:
        pytest.skip(str(error))
    plain = InferenceGraph(open_backbone(tiny_weights)).eval()
    patches = torch.rand(7, 4, 256, generator=torch.Generator().manual_seed(0))
    for graph in (plain, standardizing):
        with torch.no_grad():
            expected = graph.cpu()(patches)
        for _ in range(2):  # built, then out of the cache
            engine = TensorRTEngine(graph, device, precision, step=7, cache=tmp_path)
            for n_tiles in (7, 1, 3):
                stream: Any = torch.cuda.Stream() if n_tiles == 3 else None  # type: ignore[no-untyped-call]
                with torch.cuda.stream(stream):  # None: torch's default one
                    found = engine(patches[:n_tiles].cuda()).cpu()
                similar = torch.nn.functional.cosine_similarity(found, expected[:n_tiles])
                assert similar.min() >= cosine
            assert engine(patches[:0].cuda()).shape == (0, 64)
            twice = engine(torch.cat([patches, patches]).cuda())
            assert torch.equal(twice[7:], engine(patches.cuda()))
    assert len(list(tmp_path.glob("*.plan"))) == 2
