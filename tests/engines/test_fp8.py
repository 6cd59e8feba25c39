"""Float8 layers give what a naive oracle gives; embeddings stay close; refusals say why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

import unidino_fast as uf
from unidino_fast.backbones import open_backbone
from unidino_fast.engines import choose
from unidino_fast.engines.compiled import CompiledEngine
from unidino_fast.engines.eager import EagerEngine
from unidino_fast.engines.fp8 import (
    Fp8Linear,
    fp8_graph,
    scaled_product,
    scaled_product_reference,
)
from unidino_fast.engines.graph import InferenceGraph, patches_of
from unidino_fast.engines.onnx_export import onnx_model
from unidino_fast.engines.onnx_runtime import OnnxEngine
from unidino_fast.engines.selfcheck import LIMITS
from unidino_fast.errors import UsageError
from unidino_fast.kernels import quantize_rows_reference

if TYPE_CHECKING:
    from pathlib import Path

CPU = torch.device("cpu")
BF16_EPS = 2.0**-8


def e4m3_grid() -> np.ndarray:
    """All finite magnitudes in order: 4 bits of exponent (bias 7), 3 of mantissa, no infinity."""
    small = [m / 8 * 2.0**-6 for m in range(8)]
    large = [(1 + m / 8) * 2.0 ** (e - 7) for e in range(1, 16) for m in range(8)]
    return np.array([*small, *large[:-1]])  # the last code is NaN


def naive_e4m3(value: float) -> float:
    """The nearest, the even code of two as near; what is larger than all becomes the largest."""
    grid = e4m3_grid()
    distance = np.abs(grid - abs(value))
    best = np.flatnonzero(distance == distance.min())
    code = next((code for code in best if code % 2 == 0), best[0])
    return float(np.copysign(grid[code], value))


def naive_rows(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantised values and scales of rows, in float32 where the definition says so."""
    values, scales = np.zeros(x.shape), np.zeros(len(x), np.float32)
    for i, row in enumerate(x.astype(np.float32)):
        scales[i] = np.float32(max(np.abs(row).max(), np.float32(1e-12))) / np.float32(448)
        values[i] = [naive_e4m3(float(item / scales[i])) for item in row]
    return values, scales


def linear_of(k: int, c: int, *, bias: bool = True, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    layer = nn.Linear(k, c, bias=bias)
    with torch.no_grad():
        layer.weight *= torch.logspace(-2, 2, c)[:, None]
    return layer


def rows_of(n: int, k: int, seed: int = 1) -> torch.Tensor:
    x = torch.randn(n, k, generator=torch.Generator().manual_seed(seed))
    return x * torch.logspace(-3, 3, n)[:, None]


def naive_linear(layer: nn.Linear, x: torch.Tensor) -> np.ndarray:
    weight, weight_scales = naive_rows(layer.weight.detach().numpy())
    values, scales = naive_rows(x.float().numpy())
    out = (values * scales[:, None].astype(float)) @ (weight * weight_scales[:, None]).T
    return out if layer.bias is None else out + layer.bias.detach().bfloat16().double().numpy()


def test_grid_is_torchs() -> None:
    codes = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn)
    np.testing.assert_array_equal(e4m3_grid(), codes.double().numpy())
    assert naive_e4m3(1e9) == 448


@pytest.mark.parametrize("shape", [(1, 1), (3, 17), (7, 64), (131, 5)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_rows_equal_the_naive_ones(shape: tuple[int, int], dtype: torch.dtype) -> None:
    x = rows_of(*shape).to(dtype)
    values, scales = quantize_rows_reference(x)
    expected, expected_scales = naive_rows(x.float().numpy())
    np.testing.assert_array_equal(values.double().numpy(), expected)
    np.testing.assert_array_equal(scales.numpy(), expected_scales)


def test_ties_go_to_even_and_the_largest_is_448() -> None:
    x = torch.tensor([[448.0, 17.0, 19.0, -21.0, 2.0**-10, 3 * 2.0**-10, 0.0, -0.0]])
    values, scales = quantize_rows_reference(x)
    assert scales.item() == 1
    assert values[0].tolist() == [448.0, 16.0, 20.0, -20.0, 0.0, 2 * 2.0**-9, 0.0, 0.0]


@pytest.mark.parametrize("scale", [0.0, 1e-44, 1e-30, 1e30, 3e38])
def test_rows_of_any_magnitude_stay_finite(scale: float) -> None:
    x = torch.tensor([[1.0, -0.5, 0.0]]) * scale
    values, scales = quantize_rows_reference(x)
    assert bool(torch.isfinite(values.float()).all())
    assert 0 < scales.item() < float("inf")
    back = values.double() * scales.double()
    assert float((back - x.double()).abs().max()) <= max(1e-12, scale * 2.0**-4)


def test_nan_is_not_hidden() -> None:
    values, scales = quantize_rows_reference(torch.tensor([[1.0, float("nan")], [1.0, 2.0]]))
    assert bool((values[0].float() * scales[0]).isnan().any())
    assert bool(torch.isfinite(values[1].float()).all())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("n", [1, 13])
def test_layer_equals_the_naive_one(n: int, bias: bool) -> None:
    layer, x = linear_of(48, 32, bias=bias), rows_of(n, 48)
    x[0, :] = 0
    found = Fp8Linear(layer)(x)
    assert found.dtype == torch.bfloat16
    expected = naive_linear(layer, x)
    size = np.abs(x.numpy()) @ np.abs(layer.weight.detach().numpy()).T
    # one rounding to bf16, and sums of 48 float32 terms
    allowed = BF16_EPS * np.abs(expected) + 48 * 2.0**-24 * size + 1e-12
    assert bool((np.abs(found.double().detach().numpy() - expected) <= allowed).all())


def test_layer_keeps_leading_dimensions_and_reads_views() -> None:
    layer = Fp8Linear(linear_of(32, 16))
    x = rows_of(2 * 3 * 5, 64).view(5, 2, 3, 64)
    view = x.permute(1, 0, 2, 3)[..., ::2]
    found = layer(view)
    assert found.shape == (2, 5, 3, 16)
    assert torch.equal(found, layer(view.contiguous()))
    for index in range(5):  # a row's numbers do not depend on the rows beside it
        assert torch.equal(layer(view[:, index]), found[:, index])


def test_huge_and_nan_inputs_show() -> None:
    layer = Fp8Linear(linear_of(16, 16, bias=False))
    x = torch.ones(3, 16)
    x[0] *= 1e30
    x[1, 3] = float("nan")
    found = layer(x)
    torch.testing.assert_close(found[0].float() / 1e30, found[2].float(), rtol=2 * BF16_EPS, atol=0)
    assert bool(found[1].isnan().all())


def cosines(found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cosine_similarity(found.double(), expected.double(), dim=-1)


def waves(n: int, edge: int) -> torch.Tensor:
    """Tiles that differ in brightness and texture."""
    generator = torch.Generator().manual_seed(5)
    frequency, phase, level = torch.rand(3, n, 1, 1, generator=generator)
    ramp = torch.linspace(0, 1, edge)
    sines = torch.sin(40 * frequency * ramp[None, :, None] + 30 * phase * ramp[None, None, :])
    return level * (0.5 + 0.4 * sines) + 0.1 * torch.rand(n, edge, edge, generator=generator)


def test_vit_small_keeps_its_embeddings() -> None:
    """At full size with the layers' plain products: what is lost is lost in rounding alone."""
    graph = InferenceGraph(open_backbone("random:1")).eval()
    patches = patches_of(waves(6, 224), 16)
    expected = EagerEngine(graph, CPU, "fp32", step=8)(patches)
    found = EagerEngine(fp8_graph(graph), CPU, "fp8", step=8)(patches)
    lowest = float(cosines(found, expected).min())
    assert LIMITS["fp8"] == 0.995 <= lowest < 1 - 1e-7
    assert torch.equal(EagerEngine(graph, CPU, "fp32", step=8)(patches), expected)  # left as it was


def test_which_layers_are_swapped(tiny_weights: Path) -> None:
    graph = InferenceGraph(open_backbone(tiny_weights)).eval()
    swapped: Any = fp8_graph(graph)
    layers = [name for name, one in swapped.named_modules() if isinstance(one, Fp8Linear)]
    assert layers == [
        f"blocks.0.{name}" for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    ]
    assert not any(isinstance(one, Fp8Linear) for one in graph.modules())
    own: Any = graph
    assert swapped.blocks[-1].mlp.fc1.weight is own.blocks[-1].mlp.fc1.weight
    assert swapped.positions is own.positions


def test_layers_of_odd_size_stay_as_they_are(tiny_weights: Path) -> None:
    graph: Any = InferenceGraph(open_backbone(tiny_weights)).eval()
    graph.blocks[0].mlp.fc1 = nn.Linear(64, 40)
    graph.blocks[0].mlp.fc2 = nn.Linear(40, 64)
    swapped: Any = fp8_graph(graph)
    assert isinstance(swapped.blocks[0].mlp.fc1, nn.Linear)
    assert isinstance(swapped.blocks[0].attn.proj, Fp8Linear)


@pytest.mark.slow
def test_compiles_in_one_piece(tiny_weights: Path) -> None:
    graph = fp8_graph(InferenceGraph(open_backbone(tiny_weights)).eval())
    patches = patches_of(waves(4, 32), 16)
    found = CompiledEngine(graph, CPU, "fp8", step=8)(patches)
    assert (
        float(cosines(found, EagerEngine(graph, CPU, "fp8", step=8)(patches)).min()) > LIMITS["fp8"]
    )


@pytest.mark.parametrize("engine", ["auto", "eager", "compile", "fused", "onnx", "tensorrt"])
def test_refused_on_the_cpu(tiny_weights: Path, engine: str) -> None:
    with pytest.raises(
        UsageError, match=r"8\.9 or later, and cpu is none: use --precision bf16"
    ) as e:
        uf.load_backbone(tiny_weights, device="cpu", engine=engine, precision="fp8")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("capability", "lack"),
    [((8, 0), "an A100 has 8.0"), ((8, 6), "8.6"), ((8, 9), ""), ((9, 0), ""), ((12, 0), "")],
)
def test_refused_on_older_gpus(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], lack: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "an A100")
    cuda = torch.device("cuda")
    if lack:
        with pytest.raises(UsageError, match=f"{lack}: use --precision bf16"):
            choose.choose_precision("fp8", cuda)
    else:
        assert choose.choose_precision("fp8", cuda) == "fp8"
    assert choose.choose_precision("auto", cuda) == "bf16"


@pytest.mark.parametrize("engine", ["onnx", "tensorrt"])
def test_engines_without_it_refuse(tiny_weights: Path, engine: Any) -> None:
    graph = InferenceGraph(open_backbone(tiny_weights)).eval()
    with pytest.raises(
        UsageError, match=rf"engine {engine} .* --precision bf16, or --engine eager"
    ):
        choose.build_engine(engine, graph, CPU, "fp8", 4)
    with pytest.raises(UsageError, match="fp8 is not written to ONNX files: use --precision bf16"):
        onnx_model(graph, "fp8")
    with pytest.raises(UsageError, match="does not compute in fp8"):
        OnnxEngine(graph, CPU, "fp8", step=2)


needs_fp8 = pytest.mark.skipif(
    not torch.cuda.is_available() or bool(choose.lacks_fp8(torch.device("cuda"))),
    reason="needs a CUDA device that multiplies float8",
)


@pytest.mark.gpu
@needs_fp8
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 64, 64), (197 * 3, 384, 1152), (1009, 1536, 384)], ids=str)
def test_product_on_cuda(shape: tuple[int, int, int], bias: bool) -> None:
    n, k, c = shape
    layer = Fp8Linear(linear_of(k, c, bias=bias))
    values, scales = quantize_rows_reference(rows_of(n, k))
    arguments = (values, scales[:, None], layer.weight, layer.scales, layer.bias)
    expected = scaled_product_reference(*arguments).double()
    found = scaled_product(*(None if one is None else one.cuda() for one in arguments))  # type: ignore[arg-type]
    error = (found.cpu().double() - expected).norm() / expected.norm()
    assert float(error) < BF16_EPS


@pytest.mark.gpu
@needs_fp8
@pytest.mark.parametrize("engine", ["eager", "compile"])
def test_engines_on_cuda(engine: str) -> None:
    tiles = waves(9, 224)
    expected = uf.load_backbone("random:1", device="cpu").embed_tiles(tiles)
    model = uf.load_backbone("random:1", device="cuda", engine=engine, precision="fp8")
    found = torch.from_numpy(model.embed_tiles(tiles))
    assert float(cosines(found, torch.from_numpy(expected)).min()) >= LIMITS["fp8"]
