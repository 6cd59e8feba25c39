"""The formula against torch's counter, which looks at the operators as they run."""

from __future__ import annotations

import pytest
import timm
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from unidino_fast.backbones import Backbone, open_backbone
from unidino_fast.benchmarks.flops import VitSize, size_of, tile_flops
from unidino_fast.engines.graph import InferenceGraph, patches_of


@pytest.fixture(scope="module", params=[0, 2], ids=["plain", "registers"])
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """Odd in all that may be odd: depth 3, 9 patches, a hidden layer of 3 times the features."""
    path = tmp_path_factory.mktemp("flops") / "w.pth"
    vit = timm.create_model(
        "vit_small_patch16_224", in_chans=1, img_size=48, embed_dim=128, depth=3, num_heads=2,
        mlp_ratio=3, num_classes=0, reg_tokens=request.param, no_embed_class=request.param > 0,
    )  # fmt: skip
    torch.save(vit.state_dict(), path)
    return open_backbone(path)


def counted(run: torch.nn.Module, inputs: torch.Tensor) -> int:
    # the mathematical form of attention is made of matrix products, which the counter knows
    with (
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        run(inputs)
    return counter.get_total_flops()


def test_plain_model(backbone: Backbone) -> None:
    tile = torch.rand(1, 1, 48, 48)
    expected = counted(backbone.module, tile)
    assert tile_flops(size_of(backbone), class_token_only=False) == expected


def test_class_token_only(backbone: Backbone) -> None:
    tile = torch.rand(1, 48, 48)
    expected = counted(InferenceGraph(backbone).eval(), patches_of(tile, 16))
    assert tile_flops(size_of(backbone), class_token_only=True) == expected


def test_vit_small() -> None:
    """The figures that are quoted: 9.1 and 8.4 GFLOP a tile of 224 px."""
    size = VitSize(dim=384, depth=12, heads=6, tokens=197, mlp_dim=1536, patch_pixels=256)
    assert tile_flops(size, class_token_only=False) / 1e9 == pytest.approx(9.1, abs=0.1)
    assert tile_flops(size, class_token_only=True) / 1e9 == pytest.approx(8.4, abs=0.05)
