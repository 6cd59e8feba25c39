"""DINOv2's files, against timm's DINOv2 (a ViT with layer scales) called directly."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import timm
import torch

import unidino_fast as uf
from unidino_fast.backbones import open_backbone

if TYPE_CHECKING:
    from pathlib import Path

# float32; the last product of a branch is rounded once less or once more than with the scale apart.
ATOL = 1e-5
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


@pytest.fixture
def tiles() -> torch.Tensor:
    return torch.rand(3, 1, 56, 56, generator=torch.Generator().manual_seed(7))


def dinov2(make_vit: Any, channels: int) -> Any:
    vit = make_vit(channels, img_size=56, patch_size=14, depth=3, init_values=1.0)
    assert "blocks.2.ls2.gamma" in vit.state_dict()
    return vit


def chunked(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As DINOv2 saves blocks in chunks of two: the index goes on over the chunks."""
    return {
        re.sub(r"blocks\.(\d+)\.", lambda m: f"blocks.{int(m[1]) // 2}.{m[1]}.", name): tensor
        for name, tensor in state.items()
    }


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_layer_scales_multiply_in(
    make_vit: Any, tiles: torch.Tensor, tmp_path: Path, channels: int, is_chunked: bool
) -> None:
    vit = dinov2(make_vit, channels)
    state = {**vit.state_dict(), "mask_token": torch.zeros(1, 128)}
    torch.save(chunked(state) if is_chunked else state, tmp_path / "dinov2.pth")
    backbone = open_backbone(tmp_path / "dinov2.pth")
    assert (backbone.family, backbone.patch_size, backbone.in_chans) == ("dinov2", 14, 1)
    assert "mask_token" in backbone.dropped
    assert any("layer scales" in note for note in backbone.notes)
    with torch.inference_mode():
        seen = tiles if channels == 1 else (tiles.expand(-1, 3, -1, -1) - MEAN) / STD
        assert float((backbone.module(tiles) - vit(seen)).abs().max()) <= ATOL


def test_teacher_of_a_training_checkpoint(
    make_vit: Any, tiles: torch.Tensor, tmp_path: Path
) -> None:
    vit = dinov2(make_vit, 1)
    teacher = {f"backbone.{name}": tensor for name, tensor in vit.state_dict().items()}
    heads = {"dino_head.mlp.0.weight": torch.ones(2), "ibot_head.mlp.0.weight": torch.ones(2)}
    torch.save({"teacher": teacher | heads}, tmp_path / "a.pth")
    model = uf.load_backbone(tmp_path / "a.pth", engine="eager", device="cpu", precision="fp32")
    assert model.backbone.family == "dinov2"
    with torch.inference_mode():
        theirs = vit(tiles).numpy()
    assert float(abs(model.embed_tiles(tiles[:, 0]) - theirs).max()) <= ATOL


def test_timm_models_with_layer_scales(
    make_vit: Any, tiles: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    vit = dinov2(make_vit, 1)
    vit.pretrained_cfg |= {"mean": (0.2,), "std": (0.5,)}
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: vit)
    backbone = open_backbone("timm:vit_small_patch14_dinov2.lvd142m")
    with torch.inference_mode():
        assert float((backbone.module(tiles) - vit((tiles - 0.2) / 0.5)).abs().max()) <= ATOL


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("blocks.1.ls1.gamma", torch.ones(5), r"unknown: blocks\.1\.ls1\.gamma \(5,\)"),
        ("blocks.7.ls1.gamma", torch.ones(128), r"unknown: blocks\.7\.ls1\.gamma \(128,\)"),
        ("blocks.0.ls2.gamma", torch.full((128,), torch.nan), "fc2.* NaN or infinite"),
        ("blocks.0.1.norm1.bias", torch.ones(128), r"unknown: blocks\.0\.1\.norm1\.bias"),
    ],
)
def test_what_does_not_fit_is_named(
    make_vit: Any, tmp_path: Path, refuse: Any, name: str, change: torch.Tensor, said: str
) -> None:
    torch.save({**dinov2(make_vit, 1).state_dict(), name: change}, tmp_path / "a.pth")
    assert re.search(said, refuse(tmp_path / "a.pth"))
