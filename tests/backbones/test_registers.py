"""Register tokens, against timm's ViTs with registers called directly."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import safetensors
import timm
import torch
from timm.layers.pos_embed import resample_abs_pos_embed

import unidino_fast as uf
from unidino_fast.backbones import open_backbone, save_backbone
from unidino_fast.cluster.travel import plain_module
from unidino_fast.engines.graph import InferenceGraph, patches_of

if TYPE_CHECKING:
    from pathlib import Path

    State = dict[str, torch.Tensor]

ATOL = 1e-5  # float32, as in test_dinov2.py
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


@pytest.fixture
def tiles() -> torch.Tensor:
    return torch.rand(3, 1, 56, 56, generator=torch.Generator().manual_seed(7))


def with_registers(channels: int = 1) -> Any:
    """timm's DINOv2 with 4 registers, narrow; all parameters random."""
    vit: Any = timm.create_model(
        "vit_small_patch14_reg4_dinov2",
        pretrained=False,
        in_chans=channels,
        img_size=56,
        num_classes=0,
        embed_dim=128,
        depth=3,
        num_heads=2,
    )
    generator = torch.Generator().manual_seed(channels)
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    assert vit.reg_token.shape == (1, 4, 128)
    assert vit.pos_embed.shape == (1, 16, 128)  # patches alone
    return vit.eval().requires_grad_(False)


def as_published(vit: Any) -> State:
    """The same weights as DINOv2 saves them: the class token has a position, blocks in chunks."""
    state = dict(vit.state_dict())
    first = torch.randn(1, 1, 128, generator=torch.Generator().manual_seed(3))
    state["register_tokens"] = state.pop("reg_token")
    state["cls_token"] = state["cls_token"] - first
    state["pos_embed"] = torch.cat([first, state["pos_embed"]], dim=1)
    state["mask_token"] = torch.zeros(1, 128)
    return {
        re.sub(r"blocks\.(\d+)\.", lambda m: f"blocks.{int(m[1]) // 2}.{m[1]}.", name): tensor
        for name, tensor in state.items()
    }


def saved(state: State, folder: Path) -> Path:
    torch.save(state, folder / "reg.pth")
    return folder / "reg.pth"


def seen(tiles: torch.Tensor, channels: int) -> torch.Tensor:
    return tiles if channels == 1 else (tiles.expand(-1, 3, -1, -1) - MEAN) / STD


def original(state: State, tiles: torch.Tensor, vit: Any) -> torch.Tensor:
    """`prepare_tokens_with_masks` of DINOv2's repository, and timm's blocks."""
    x = vit.patch_embed(tiles)
    x = torch.cat([state["cls_token"].expand(len(x), -1, -1), x], dim=1) + state["pos_embed"]
    registers = state["register_tokens"].expand(len(x), -1, -1)
    x = torch.cat([x[:, :1], registers, x[:, 1:]], dim=1)
    features: torch.Tensor = vit.norm(vit.blocks(x))[:, 0]
    return features


@pytest.mark.parametrize(
    ("engine", "channels", "published"),
    [
        *(
            (engine, n, form)
            for engine in ("eager", "onnx")
            for n in (1, 3)
            for form in (False, True)
        ),
        ("compile", 3, True),
    ],
)
def test_engines_equal_timm(
    tiles: torch.Tensor, tmp_path: Path, *, engine: str, channels: int, published: bool
) -> None:
    vit = with_registers(channels)
    state = as_published(vit) if published else vit.state_dict()
    model = uf.load_backbone(saved(state, tmp_path), engine=engine, device="cpu", precision="fp32")
    backbone = model.backbone
    assert (backbone.family, backbone.patch_size, backbone.in_chans) == ("dinov2", 14, 1)
    assert backbone.image_size == 56
    theirs = vit(seen(tiles, channels))
    assert float((backbone.module(tiles) - theirs).abs().max()) <= ATOL
    assert float(abs(model.embed_tiles(tiles[:, 0]) - theirs.numpy()).max()) <= ATOL
    if published:
        again = original(state, seen(tiles, channels), vit)
        assert float((backbone.module(tiles) - again).abs().max()) <= ATOL


def test_registers_matter(tiles: torch.Tensor, tmp_path: Path) -> None:
    """What the comparisons above would miss if registers did not reach the class token."""
    vit = with_registers()
    before = open_backbone(saved(vit.state_dict(), tmp_path))
    state = vit.state_dict() | {"reg_token": vit.reg_token.flip(2)}
    after = open_backbone(saved(state, tmp_path))
    assert before.digest != after.digest
    assert float((before.module(tiles) - after.module(tiles)).abs().max()) > 100 * ATOL


@pytest.mark.parametrize("published", [False, True])
def test_other_tile_resamples_positions_of_patches_alone(
    tmp_path: Path, *, published: bool
) -> None:
    vit = with_registers()
    state = as_published(vit) if published else vit.state_dict()
    path = saved(state, tmp_path)
    tiles = torch.rand(2, 84, 84, generator=torch.Generator().manual_seed(0))
    found = uf.load_backbone(path, engine="eager", device="cpu", tile=84).embed_tiles(tiles)
    x = vit.patch_embed.proj(tiles[:, None]).flatten(2).transpose(1, 2)
    x = x + resample_abs_pos_embed(vit.pos_embed, (6, 6), num_prefix_tokens=0)
    x = torch.cat([vit.cls_token.expand(2, -1, -1), vit.reg_token.expand(2, -1, -1), x], dim=1)
    theirs = vit.norm(vit.blocks(x))[:, 0]
    assert float(abs(found - theirs.numpy()).max()) <= ATOL


def test_saved_and_opened_again(tiles: torch.Tensor, tmp_path: Path) -> None:
    backbone = open_backbone(saved(as_published(with_registers(3)), tmp_path))
    save_backbone(backbone, tmp_path / "own.safetensors")
    again = open_backbone(tmp_path / "own.safetensors")
    assert again.digest == backbone.digest
    assert torch.equal(again.module(tiles), backbone.module(tiles))
    with safetensors.safe_open(tmp_path / "own.safetensors", "pt") as file:
        header = json.loads(file.metadata()["unidino_fast"])
    assert header["architecture"]["n_registers"] == 4


def test_files_without_registers_do_not_speak_of_them(make_vit: Any, tmp_path: Path) -> None:
    torch.save(make_vit().state_dict(), tmp_path / "plain.pth")
    save_backbone(open_backbone(tmp_path / "plain.pth"), tmp_path / "own.safetensors")
    assert b"regist" not in (tmp_path / "own.safetensors").read_bytes()
    assert b"reg_token" not in (tmp_path / "own.safetensors").read_bytes()


def test_timm_models(tiles: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    vit = with_registers()
    vit.pretrained_cfg |= {"mean": (0.2,), "std": (0.5,)}
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: vit)
    backbone = open_backbone("timm:vit_small_patch14_reg4_dinov2.lvd142m")
    assert float((backbone.module(tiles) - vit((tiles - 0.2) / 0.5)).abs().max()) <= ATOL


def test_plain_containers_give_the_same_graph(tiles: torch.Tensor, tmp_path: Path) -> None:
    """What workers of a cluster build their graph of."""
    backbone = open_backbone(saved(with_registers().state_dict(), tmp_path))
    patches = patches_of(tiles[:, 0], 14)
    expected = InferenceGraph(backbone)(patches)
    object.__setattr__(backbone, "module", plain_module(backbone.module))
    assert torch.equal(InferenceGraph(backbone)(patches), expected)


@pytest.mark.parametrize(
    ("published", "name", "change", "said"),
    [
        (False, "reg_token", torch.ones(2, 4, 128), r"reg_token \(2, 4, 128\) instead of \(1, 4"),
        (False, "reg_token", torch.ones(1, 4, 64), r"reg_token \(1, 4, 64\) instead of \(1, 4"),
        (False, "reg_token", torch.ones(4, 128), "16 tokens, not one class token and a square"),
        (False, "reg_token", torch.ones(1, 0, 128), "16 tokens, not one class token and a square"),
        (False, "reg_token", torch.full((1, 4, 128), torch.nan), "reg_token holds NaN"),
        (
            False,
            "pos_embed",
            torch.ones(1, 17, 128),
            r"17 tokens, not a square grid alone, as beside 4",
        ),
        (
            False,
            "pos_embed",
            torch.ones(1, 21, 128),
            r"21 tokens, not a square grid alone, as beside 4",
        ),
        (False, "register_tokens", torch.ones(1, 4, 128), "unknown: register_tokens"),
        (True, "register_tokens", torch.ones(2, 4, 128), r"\(2, 4, 128\) instead of \(1, 4"),
        (
            True,
            "register_tokens",
            torch.ones(4, 128),
            "16 tokens, not one class token and a square",
        ),
        (True, "register_tokens", torch.full((1, 4, 128), torch.inf), "reg_token holds .*infinite"),
        (True, "register_tokens", torch.ones(1, 4, 128, dtype=torch.int64), "reg_token is"),
        (True, "cls_token", torch.ones(1, 1, 64), "unknown: register_tokens"),
        (True, "cls_token", torch.full((1, 1, 128), torch.nan), "cls_token holds NaN"),
        (True, "pos_embed", torch.ones(1, 16, 128), "16 tokens, not one class token and"),
        (True, "pos_embed", torch.ones(1, 21, 128), "21 tokens, not one class token and"),
        (True, "pos_embed", torch.ones(1, 0, 128), "0 tokens, not one class token and"),
        (True, "pos_embed", torch.ones(1, 1, 128), "1 tokens, not one class token and"),
        (True, "pos_embed", torch.ones(1, 17, 64), "unknown: register_tokens"),
    ],
)
def test_strange_registers_are_named(
    tmp_path: Path, refuse: Any, *, published: bool, name: str, change: torch.Tensor, said: str
) -> None:
    vit = with_registers()
    state = as_published(vit) if published else vit.state_dict()
    assert re.search(said, refuse(saved(state | {name: change}, tmp_path)))
