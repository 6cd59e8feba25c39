"""The fused network is the graph's network; its engine is CUDA's alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import timm
import torch
from torch.nn import functional

import unidino_fast as uf
from unidino_fast.backbones import open_backbone
from unidino_fast.engines.fused import FusedNetwork, Product
from unidino_fast.engines.graph import InferenceGraph
from unidino_fast.engines.selfcheck import LIMITS
from unidino_fast.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

EDGE = 48
N_PATCHES = (EDGE // 16) ** 2
MODELS = {
    "two heads": {"embed_dim": 64, "num_heads": 2},
    "more heads than are asked together": {"embed_dim": 576, "num_heads": 9},
    "no bias of queries": {"embed_dim": 64, "num_heads": 2, "qkv_bias": False},
    "registers": {"embed_dim": 64, "num_heads": 1, "reg_tokens": 4, "no_embed_class": True},
}


def graph_of(folder: Path, options: dict[str, Any]) -> InferenceGraph:
    torch.manual_seed(1)
    vit: Any = timm.create_model(
        "vit_small_patch16_224", in_chans=1, img_size=EDGE, depth=3, num_classes=0, **options
    ).eval()
    for parameter in vit.parameters():  # timm begins with biases of zero, which hide mistakes
        torch.nn.init.normal_(parameter, std=0.2)
    torch.save(vit.state_dict(), folder / "w.pth")
    return InferenceGraph(open_backbone(folder / "w.pth")).eval()


def patches(n_tiles: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n_tiles, N_PATCHES, 256, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_network_is_the_graphs(tmp_path: Path, name: str) -> None:
    graph = graph_of(tmp_path, MODELS[name])
    network = FusedNetwork(graph, torch.float32, stream=torch.float32)
    for n_tiles in (1, 1, 5):  # one tile twice: what it starts from must not be changed
        given = patches(n_tiles, n_tiles)
        torch.testing.assert_close(network(given), graph(given), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_tiles_are_standardised_where_weights_want_it(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, MODELS["two heads"])
    graph.standardize = True
    network = FusedNetwork(graph, torch.float32, stream=torch.float32)
    assert FusedNetwork(graph, torch.bfloat16, stream=torch.float16).patch_dtype == torch.float32
    torch.testing.assert_close(network(patches(3)), graph(patches(3)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("weights", ["default", "random:0"])
@torch.no_grad()
def test_half_precision_is_no_further_off_than_autocast(weights: str) -> None:
    graph = InferenceGraph(open_backbone(weights)).eval()
    given = torch.rand(4, 196, 256, generator=torch.Generator().manual_seed(2))
    expected = graph(given).double()
    network = FusedNetwork(graph, torch.bfloat16, stream=torch.float16)
    with torch.autocast("cpu", torch.bfloat16):
        usual = graph(given).double()
    found = network(given.to(torch.bfloat16)).double()
    cosine = functional.cosine_similarity(found, expected, dim=1)
    assert float(cosine.min()) > LIMITS["bf16"]
    assert float((found - expected).norm()) < 1.5 * float((usual - expected).norm())


@pytest.mark.parametrize("weights", ["default", "random:0"])
@torch.no_grad()
def test_gelu_as_cublas_has_it_moves_little(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU computes the exact form, so the other one takes its place here."""
    graph = InferenceGraph(open_backbone(weights)).eval()
    given = torch.rand(4, 196, 256, generator=torch.Generator().manual_seed(2))
    expected = graph(given).double()
    with torch.autocast("cpu", torch.bfloat16):
        usual = graph(given).double()
    monkeypatch.setattr(
        Product, "gelu", lambda self, rows: functional.gelu(self(rows), approximate="tanh")
    )
    found = FusedNetwork(graph, torch.float32, stream=torch.float32)(given).double()
    moved = float((found - expected).norm() / expected.norm())
    assert 1e-6 < moved < float((usual - expected).norm() / expected.norm()) / 5
    narrow = FusedNetwork(graph, torch.bfloat16, stream=torch.float16)(given.bfloat16()).double()
    assert float((narrow - expected).norm()) < 1.5 * float((usual - expected).norm())


@pytest.mark.parametrize("precision", ["fp32", "fp8"])
def test_only_half_precision_on_cuda(precision: str) -> None:
    with pytest.raises(UsageError, match=r"engine fused comp|fp8 needs a CUDA device"):
        uf.load_backbone("random:0", device="cpu", engine="fused", precision=precision).embed_tiles(
            np.zeros((1, 224, 224), np.float32)
        )


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("weights", ["default", "random:1"])
def test_engine_on_cuda(weights: str, precision: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    tiles = torch.rand(531, 224, 224, generator=torch.Generator().manual_seed(3)).numpy()
    exact = uf.load_backbone(weights, device="cuda", engine="eager", precision="fp32")
    model = uf.load_backbone(weights, device="cuda", engine="fused", precision=precision)
    expected, found = exact.embed_tiles(tiles), model.embed_tiles(tiles)
    lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)
    assert ((expected * found).sum(axis=1) / lengths).min() > LIMITS["bf16"]
    np.testing.assert_array_equal(model.embed_tiles(tiles[7:20]), found[7:20])
