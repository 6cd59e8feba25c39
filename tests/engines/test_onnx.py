"""The ONNX model and its engine give the numbers of the graph and of timm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import timm
import torch

from unidino_fast.backbones import open_backbone
from unidino_fast.engines.graph import InferenceGraph, patches_of
from unidino_fast.engines.onnx_export import onnx_model
from unidino_fast.engines.onnx_runtime import OnnxEngine
from unidino_fast.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from unidino_fast.choices import Precision

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

CPU = torch.device("cpu")
# Sums in another order differ by float32 rounding.
ATOL = 1e-5


def random_vit(
    path: Path, *, edge: int, spread: float = 0.05, student: bool = False, **changes: Any
) -> tuple[Any, InferenceGraph]:
    """A timm ViT with every parameter random, and its graph as read back from a file.

    `student` saves it in MorphEm's layout, whose tiles are standardised inside the graph.
    """
    shape: dict[str, Any] = {"embed_dim": 128, "depth": 3, "num_heads": 2, "patch_size": 16}
    vit: Any = timm.create_model(
        "vit_small_patch16_224",
        in_chans=1,
        img_size=edge,
        num_classes=0,
        **{**shape, **changes},
    ).eval()
    generator = torch.Generator().manual_seed(edge)
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
    state = vit.state_dict()
    if student:
        state = {"student": {f"module.backbone.{name}": x for name, x in state.items()}}
    torch.save(state, path / "w.pth")
    return vit, InferenceGraph(open_backbone(path / "w.pth")).eval()


def random_tiles(n: int, edge: int) -> torch.Tensor:
    return torch.rand(n, edge, edge, generator=torch.Generator().manual_seed(n))


def check_parity(vit: Any, graph: InferenceGraph, engine: OnnxEngine, tiles: torch.Tensor) -> None:
    """Against timm on (normalised) tiles and against the graph on patches."""
    patches = patches_of(tiles, 16)
    given = tiles[:, None]
    if graph.standardize:
        given = torch.nn.InstanceNorm2d(1, eps=1e-12)(given)
    with torch.no_grad():
        direct, reference = vit(given), graph(patches)
    found = engine(patches)
    assert found.dtype is torch.float32
    np.testing.assert_allclose(found, direct, rtol=0, atol=ATOL)
    np.testing.assert_allclose(found, reference, rtol=0, atol=ATOL)


@pytest.mark.parametrize("n_tiles", [1, 3, 8])
@pytest.mark.parametrize("student", [False, True])
def test_engine_equals_timm(tmp_path: Path, n_tiles: int, student: bool) -> None:
    vit, graph = random_vit(tmp_path, edge=48, student=student)
    assert graph.standardize == student
    engine = OnnxEngine(graph, CPU, "fp32", step=8)
    check_parity(vit, graph, engine, random_tiles(n_tiles, 48))


@pytest.mark.parametrize(
    "changes",
    [
        {"qkv_bias": False},
        {"depth": 1},
        {"embed_dim": 192, "num_heads": 3, "mlp_ratio": 3},
    ],
    ids=["no qkv bias", "one block", "three heads"],
)
def test_other_architectures(tmp_path: Path, changes: dict[str, Any]) -> None:
    vit, graph = random_vit(tmp_path, edge=32, **changes)
    engine = OnnxEngine(graph, CPU, "fp32", step=5)
    check_parity(vit, graph, engine, random_tiles(5, 32))


def test_full_size_equals_timm() -> None:
    """ViT-S/16 at 224 px, one session for batches of 1, 3 and 16."""
    backbone = open_backbone("random:5")
    graph = InferenceGraph(backbone).eval()
    engine = OnnxEngine(graph, CPU, "fp32", step=16)
    for n_tiles in (1, 3, 16):
        check_parity(backbone.module, graph, engine, random_tiles(n_tiles, 224))


@pytest.mark.parametrize("level", [0.0, 0.1, 1 / 3, 0.7, 1.0])
def test_constant_tiles_are_standardised_to_zeros(tmp_path: Path, level: float) -> None:
    """A plain float32 mean of a constant misses it, which the division would make visible."""
    vit, graph = random_vit(tmp_path, edge=48, student=True)
    engine = OnnxEngine(graph, CPU, "fp32", step=1)
    found = engine(torch.full((1, 9, 256), level))
    with torch.no_grad():
        expected = vit(torch.zeros(1, 1, 48, 48))
    np.testing.assert_allclose(found, expected, rtol=0, atol=ATOL)


def test_faint_tiles_are_standardised_as_the_graph_does(tmp_path: Path) -> None:
    """A few grey levels of a 16-bit camera on a bright background."""
    vit, graph = random_vit(tmp_path, edge=48, student=True)
    tiles = 0.75 + torch.randint(0, 3, (4, 48, 48), generator=torch.Generator().manual_seed(0)) / (
        65535
    )
    with torch.no_grad():
        exact = vit.double()(torch.nn.InstanceNorm2d(1, eps=1e-12)(tiles.double()[:, None]))
    engine = OnnxEngine(graph, CPU, "fp32", step=4)
    # pixels themselves are rounded to float32, 2 ** -24 of 0.75 on levels 2 ** -16 apart
    np.testing.assert_allclose(engine(patches_of(tiles, 16)), exact, rtol=0, atol=1e-4)


def test_no_tiles_and_strided_patches(tmp_path: Path) -> None:
    _, graph = random_vit(tmp_path, edge=32)
    engine = OnnxEngine(graph, CPU, "fp32", step=4)
    assert engine(torch.empty(0, 4, 256)).shape == (0, 128)
    patches = torch.rand(6, 4, 256)
    np.testing.assert_array_equal(engine(patches[::2]), engine(patches[::2].clone()))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_refused_on_the_cpu(tmp_path: Path, precision: Precision) -> None:
    _, graph = random_vit(tmp_path, edge=32)
    with pytest.raises(UsageError, match=r"--precision fp32, or --engine compile") as caught:
        OnnxEngine(graph, CPU, precision, step=2)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_absent_cuda_provider_is_said(tmp_path: Path) -> None:
    _, graph = random_vit(tmp_path, edge=32)
    with pytest.raises(UsageError, match="pip install onnxruntime-gpu"):
        OnnxEngine(graph, torch.device("cuda"), "fp32", step=2)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_absent_packages_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    _, graph = random_vit(tmp_path, edge=32)
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(UsageError, match=f"^{package} is not installed: pip install {package}"):
        OnnxEngine(graph, CPU, "fp32", step=2)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("student", [False, True])
def test_model_is_valid_onnx_and_reproducible(
    tmp_path: Path, precision: Precision, student: bool
) -> None:
    _, graph = random_vit(tmp_path, edge=32, student=student)
    content = onnx_model(graph, precision, {"b": "2", "a": "1"})
    assert content == onnx_model(graph, precision, {"b": "2", "a": "1"})
    onnx.checker.check_model(content, full_check=True)  # shapes and types of every node
    model = onnx.load_from_string(content)
    assert [(p.key, p.value) for p in model.metadata_props] == [("b", "2"), ("a", "1")]
    assert {node.domain for node in model.graph.node} == {""}
    for value, name, shape in (
        (model.graph.input, "patches", ["N", 4, 256]),
        (model.graph.output, "features", ["N", 128]),
    ):
        (only,) = value
        dims = [d.dim_param or d.dim_value for d in only.type.tensor_type.shape.dim]
        assert (only.name, dims) == (name, shape)
        assert only.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def widen(model: Any) -> None:
    """Makes a bf16 model an fp32 one of the same, rounded, weights."""
    kinds = onnx.TensorProto
    for tensor in model.graph.initializer:
        if tensor.data_type == kinds.BFLOAT16:
            high = np.frombuffer(tensor.raw_data, np.uint16).astype(np.uint32)
            tensor.raw_data = (high << 16).tobytes()
            tensor.data_type = kinds.FLOAT
    casts = [node.attribute[0] for node in model.graph.node if node.op_type == "Cast"]
    assert sorted(cast.i for cast in casts) == [kinds.FLOAT, kinds.BFLOAT16]
    for cast in casts:
        cast.i = kinds.FLOAT


@pytest.mark.parametrize(
    ("precision", "cosine"),
    # weights of 8 and 11 bits through 3 blocks
    [("bf16", 0.999), ("fp16", 0.99999)],
)
@pytest.mark.parametrize("student", [False, True])
def test_half_precision_model_means_the_same(
    tmp_path: Path, precision: Precision, cosine: float, student: bool
) -> None:
    """Run by ONNX's own evaluator; before 1.23 it multiplies no bf16, so that model is widened."""
    from onnx.reference import ReferenceEvaluator

    _, graph = random_vit(tmp_path, edge=32, student=student)
    patches = torch.rand(2, 4, 256, generator=torch.Generator().manual_seed(2))
    model = onnx.load_from_string(onnx_model(graph, precision))
    if precision == "bf16":
        widen(model)
    result: Any = ReferenceEvaluator(model).run(None, {"patches": patches.numpy()})
    (found,) = result
    with torch.no_grad():
        expected = graph(patches).numpy()
    assert found.dtype == np.float32
    products = (found * expected).sum(axis=1)
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    assert (products / lengths).min() >= cosine


def test_weights_out_of_range_of_fp16_are_named(tmp_path: Path) -> None:
    _, graph = random_vit(tmp_path, edge=32)
    with torch.no_grad():
        graph.blocks[1].mlp.fc2.weight[0, 0] = 1e5
    with pytest.raises(UsageError, match=r"blocks\.1\.mlp\.fc2\.weight exceeds .* bf16"):
        onnx_model(graph, "fp16")


def test_weights_too_large_for_a_file_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, graph = random_vit(tmp_path, edge=32)
    monkeypatch.setattr("unidino_fast.engines.onnx_export._LIMIT_BYTES", 10**6)
    with pytest.raises(UsageError, match="2 GB") as caught:
        onnx_model(graph)
    assert "\n" not in str(caught.value)


@pytest.fixture
def count_nodes(tmp_path: Path) -> Callable[[InferenceGraph], dict[str, int]]:
    """Operators of the model that ONNX Runtime makes of a graph's."""
    onnxruntime = pytest.importorskip("onnxruntime")

    def count(graph: InferenceGraph) -> dict[str, int]:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(onnx_model(graph), options, providers=["CPUExecutionProvider"])
        counts: dict[str, int] = {}
        for node in onnx.load(tmp_path / "optimised.onnx").graph.node:
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
        return counts

    return count


def test_runtime_fuses_what_it_can(tmp_path: Path, count_nodes: Any) -> None:
    """No shape is computed while it runs, and each norm, GELU and softmax is one operator."""
    _, graph = random_vit(tmp_path, edge=32, depth=3)
    counts = count_nodes(graph)
    assert counts["LayerNormalization"] + counts.get("SkipLayerNormalization", 0) == 7
    assert counts.get("BiasGelu", 0) + counts.get("Gelu", 0) == 3
    assert counts["Softmax"] == 3
    assert not {"Shape", "Cast", "Erf", "Sqrt", "Expand", "Concat"} & set(counts)


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "cosine"), [("fp32", 0.99999), ("fp16", 0.999)])
def test_cuda_equals_cpu(tmp_path: Path, precision: Precision, cosine: float) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has no CUDA provider")
    _, graph = random_vit(tmp_path, edge=48)
    patches = torch.rand(5, 9, 256)
    with torch.no_grad():
        expected = graph(patches)
    found = OnnxEngine(graph, torch.device("cuda"), precision, step=2)(patches.cuda())
    assert found.is_cuda
    similar = torch.nn.functional.cosine_similarity(found.cpu(), expected)
    assert similar.min() >= cosine
