"""Every layout, written as its authors write it, against timm called directly."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from unidino_fast.backbones import Backbone, open_backbone
from unidino_fast.errors import UsageError, WeightsError

# float32, the same operations in the same order up to folding: rounding alone.
ATOL = 1e-5
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


def difference(backbone: Backbone, oracle: Any, tiles: torch.Tensor, scaled: Any = None) -> float:
    with torch.inference_mode():
        ours, theirs = backbone.module(tiles), oracle(tiles if scaled is None else scaled)
    assert ours.shape == theirs.shape == (len(tiles), backbone.dim)
    assert ours.dtype == torch.float32
    return float((ours - theirs).abs().max())


def dino_head(prefix: str) -> dict[str, torch.Tensor]:
    names = ("mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias", "mlp.4.weight")
    names += ("mlp.4.bias", "last_layer.weight_g", "last_layer.weight_v")
    return {f"{prefix}head.{name}": torch.ones(2) for name in names}


def training_checkpoint(student: Any, teacher: Any, wrapped: str = "module.") -> dict[str, Any]:
    """As DINO's training loop saves it, numpy learning rates and all."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))])
    optimizer.param_groups[0]["lr"] = np.linspace(0, 1, 5)[2]
    states = {
        "student": {f"{wrapped}backbone.{k}": v for k, v in student.state_dict().items()},
        "teacher": {f"backbone.{k}": v for k, v in teacher.state_dict().items()},
    }
    states["student"] |= dino_head(wrapped)
    states["teacher"] |= dino_head("")
    args = argparse.Namespace(arch="vit_small", out=Path("/somewhere"), scale=np.ones(2))
    return {
        **states,
        "optimizer": optimizer.state_dict(),
        "epoch": 100,
        "args": args,
        "dino_loss": {"center": torch.zeros(1, 4)},
    }


@pytest.mark.parametrize("wrapped", ["module.", ""])
@pytest.mark.parametrize("zipped", [True, False])
def test_training_checkpoint(
    make_vit: Any, tiles: torch.Tensor, tmp_path: Path, wrapped: str, zipped: bool
) -> None:
    student, teacher = make_vit(seed=1), make_vit(seed=2)
    path = tmp_path / "checkpoint.pth"
    torch.save(
        training_checkpoint(student, teacher, wrapped),
        path,
        _use_new_zipfile_serialization=zipped,
    )
    backbone = open_backbone(path)
    assert difference(backbone, teacher, tiles) <= ATOL
    assert (backbone.family, backbone.input_norm, backbone.in_chans) == ("unidino", "identity", 1)
    assert (backbone.dim, backbone.patch_size, backbone.image_size) == (128, 16, 64)
    assert backbone.name == "checkpoint.pth"
    dropped = ("head.* (8 tensors)", "student", "optimizer", "epoch", "args", "dino_loss")
    assert backbone.dropped == dropped
    assert not backbone.module.training
    assert not any(p.requires_grad for p in backbone.module.parameters())

    assert difference(open_backbone(f"{path}#teacher"), teacher, tiles) <= ATOL
    other = open_backbone(f"{path}#student")
    assert difference(other, student, tiles) <= ATOL
    assert other.name == "checkpoint.pth#student"
    assert other.digest != backbone.digest


def test_a_file_may_have_a_hash_in_its_name(
    make_vit: Any, tiles: torch.Tensor, tmp_path: Path
) -> None:
    student, teacher = make_vit(seed=1), make_vit(seed=2)
    path = tmp_path / "run#student"
    torch.save(training_checkpoint(student, teacher), path)
    assert difference(open_backbone(str(path)), teacher, tiles) <= ATOL
    assert difference(open_backbone(f"{path}#student"), student, tiles) <= ATOL


def test_vit_small_at_full_size(make_vit: Any, tmp_path: Path) -> None:
    vit = make_vit(embed_dim=384, depth=12, num_heads=6, img_size=224)
    reducer = {"backbone.cls_reducer.0.weight": torch.ones(2), "cls_reducer.3.bias": torch.ones(2)}
    state = {f"backbone.{k}": v for k, v in vit.state_dict().items()} | reducer
    path = tmp_path / "unidino.pth"
    torch.save({"teacher": state, "epoch": 1}, path)
    backbone = open_backbone(path)
    batch = torch.rand(2, 1, 224, 224, generator=torch.Generator().manual_seed(1))
    assert difference(backbone, vit, batch) <= ATOL
    assert (backbone.dim, backbone.image_size) == (384, 224)
    assert backbone.dropped[:2] == ("cls_reducer.0.* (1 tensor)", "cls_reducer.3.* (1 tensor)")


@pytest.mark.parametrize(
    ("channels", "family"), [(1, "unidino"), (2, "dino"), (4, "dino"), (5, "cellpaintssl")]
)
def test_channels_of_training_checkpoints(
    make_vit: Any, tmp_path: Path, channels: int, family: str
) -> None:
    vit = make_vit(channels)
    path = tmp_path / "x.pth"
    torch.save(training_checkpoint(vit, vit), path)
    backbone = open_backbone(path)
    assert (backbone.in_chans, backbone.family, backbone.input_norm) == (
        channels,
        family,
        "identity",
    )
    batch = torch.rand(2, channels, 64, 64, generator=torch.Generator().manual_seed(1))
    assert difference(backbone, vit, batch) <= ATOL


def test_morphem_wants_standardised_tiles(
    make_vit: Any, tiles: torch.Tensor, tmp_path: Path
) -> None:
    vit = make_vit()
    state = {f"module.backbone.{k}": v for k, v in vit.state_dict().items()}
    path = tmp_path / "morphem.pth"
    torch.save({"student": state | dino_head("module."), "epoch": 3}, path)
    backbone = open_backbone(path)
    assert (backbone.family, backbone.input_norm) == ("morphem", "per_tile")
    assert difference(backbone, vit, tiles) <= ATOL
    other = open_backbone(path, input_norm="identity")
    assert other.input_norm == "identity"
    assert other.digest != backbone.digest


@pytest.mark.parametrize("asked", ["auto", "imagenet", "identity", "per_tile"])
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_dino_rgb_weights_fold_exactly(
    make_vit: Any, tiles: torch.Tensor, tmp_path: Path, asked: Any, wrapper: str | None
) -> None:
    vit = make_vit(3)
    path = tmp_path / "dino_deitsmall16_pretrain.pth"
    torch.save(vit.state_dict() if wrapper is None else {wrapper: vit.state_dict()}, path)
    backbone = open_backbone(path, input_norm=asked)
    rgb = tiles.expand(-1, 3, -1, -1)
    scaled = (rgb - MEAN) / STD if asked in ("auto", "imagenet") else rgb
    assert difference(backbone, vit, tiles, scaled) <= ATOL
    assert (backbone.in_chans, backbone.family) == (1, "dino")
    assert backbone.input_norm == ("per_tile" if asked == "per_tile" else "identity")
    assert any("RGB weights summed to one channel" in note for note in backbone.notes)


def test_dino_fold_at_full_size(make_vit: Any, tmp_path: Path) -> None:
    vit = make_vit(3, embed_dim=384, depth=12, num_heads=6, img_size=224)
    path = tmp_path / "dino.pth"
    torch.save(vit.state_dict(), path)
    batch = torch.rand(2, 1, 224, 224, generator=torch.Generator().manual_seed(1))
    scaled = (batch.expand(-1, 3, -1, -1) - MEAN) / STD
    assert difference(open_backbone(path), vit, batch, scaled) <= ATOL


def test_timm_safetensors_takes_mean_and_std_from_config(
    make_vit: Any, tiles: torch.Tensor, tmp_path: Path
) -> None:
    vit = make_vit(3)
    head = {"head.weight": torch.ones(10, 128), "head.bias": torch.ones(10)}
    save_file(vit.state_dict() | head, tmp_path / "model.safetensors")
    assumed = open_backbone(tmp_path / "model.safetensors")
    rgb = tiles.expand(-1, 3, -1, -1)
    assert difference(assumed, vit, tiles, (rgb - MEAN) / STD) <= ATOL
    assert "ImageNet's, assumed" in assumed.notes[-1]
    assert (assumed.family, assumed.dropped) == ("timm", ("head.* (2 tensors)",))

    pretrained = {"mean": [0.5, 0.4, 0.3], "std": [0.5, 0.25, 0.5], "license": "apache-2.0"}
    config = {"architecture": "vit_small_patch16_224", "pretrained_cfg": pretrained}
    (tmp_path / "config.json").write_text(json.dumps(config))
    told = open_backbone(tmp_path / "model.safetensors")
    mean, std = (torch.tensor(pretrained[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    assert difference(told, vit, tiles, (rgb - mean) / std) <= ATOL
    assert told.licence == "apache-2.0"
    assert "assumed" not in told.notes[-1]
    forced = open_backbone(tmp_path / "model.safetensors", input_norm="imagenet")
    assert difference(forced, vit, tiles, (rgb - MEAN) / STD) <= ATOL


def test_one_channel_timm_weights_fold_their_own_scaling(
    make_vit: Any, tiles: torch.Tensor, tmp_path: Path
) -> None:
    vit = make_vit(1)
    path = tmp_path / "model.safetensors"
    save_file(vit.state_dict(), path)
    config = {"pretrained_cfg": {"mean": [0.3], "std": [0.2]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    backbone = open_backbone(path)
    assert difference(backbone, vit, tiles, (tiles - 0.3) / 0.2) <= ATOL
    assert backbone.family == "timm"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"pretrained_cfg": {"mean": [0.5], "std": [0.0]}}', "std above 0"),
        ('{"pretrained_cfg": {"mean": [0.5], "std": [NaN]}}', "std above 0"),
        ('{"pretrained_cfg": {"mean": "abc", "std": "abc"}}', "one number a channel"),
        ('{"pretrained_cfg": {"mean": [0.5], "std": [0.5]}}', "for 1 channels"),
    ],
)
def test_broken_config(make_vit: Any, tmp_path: Path, config: str, said: str) -> None:
    path = tmp_path / "model.safetensors"
    save_file(make_vit(3).state_dict(), path)
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(WeightsError, match=said) as caught:
        open_backbone(path)
    assert len(str(caught.value).splitlines()) == 1


def test_foreign_config_is_left_alone(make_vit: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(make_vit(3).state_dict(), path)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    assert "assumed" in open_backbone(path).notes[-1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(
    make_vit: Any, tiles: torch.Tensor, tmp_path: Path, dtype: torch.dtype
) -> None:
    vit = make_vit().to(dtype)
    path = tmp_path / "half.safetensors"
    save_file(vit.state_dict(), path)
    assert difference(open_backbone(path), vit.float(), tiles) <= ATOL


@pytest.mark.parametrize(
    "changes",
    [
        {"qkv_bias": False},
        {"mlp_ratio": 2.0},
        {"patch_size": 8},
        {"depth": 11},
        {"img_size": 32, "patch_size": 32},
    ],
)
def test_architecture_comes_from_the_shapes(
    make_vit: Any, tmp_path: Path, changes: dict[str, Any]
) -> None:
    vit = make_vit(**changes)
    path = tmp_path / "x.pth"
    torch.save(vit.state_dict(), path)
    backbone = open_backbone(path)
    edge = changes.get("img_size", 64)
    batch = torch.rand(2, 1, edge, edge, generator=torch.Generator().manual_seed(1))
    assert difference(backbone, vit, batch) <= ATOL
    assert (backbone.image_size, backbone.family) == (edge, "dino")
    assert "one input channel" in backbone.notes[0]


def test_bytes_decide_not_the_extension(make_vit: Any, tiles: torch.Tensor, tmp_path: Path) -> None:
    vit = make_vit()
    torch.save(vit.state_dict(), tmp_path / "pickle.safetensors")
    save_file(vit.state_dict(), tmp_path / "safe.pth")
    assert difference(open_backbone(tmp_path / "pickle.safetensors"), vit, tiles) <= ATOL
    assert difference(open_backbone(tmp_path / "safe.pth"), vit, tiles) <= ATOL


def test_loading_leaves_no_trace(make_vit: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save(training_checkpoint(make_vit(), make_vit()), path)
    allowed = set(torch.serialization.get_safe_globals())
    state = torch.get_rng_state()
    open_backbone(path)
    open_backbone("random:5")
    assert torch.equal(torch.get_rng_state(), state)
    with torch.serialization.safe_globals([argparse.Namespace]):
        open_backbone(path)
        assert argparse.Namespace in torch.serialization.get_safe_globals()
    assert set(torch.serialization.get_safe_globals()) == allowed


def test_branch_that_is_not_there(make_vit: Any, tmp_path: Path, refuse: Any) -> None:
    vit = make_vit()
    flat, lone = tmp_path / "flat.pth", tmp_path / "lone.pth"
    torch.save(vit.state_dict(), flat)
    torch.save({"student": vit.state_dict()}, lone)
    assert "leave it out" in refuse(f"{flat}#teacher", UsageError)
    assert "use #student" in refuse(f"{lone}#teacher", UsageError)
    assert "#student" in refuse(f"{lone}#ema", UsageError)


def test_input_norm_that_does_not_fit(make_vit: Any, tmp_path: Path, refuse: Any) -> None:
    path = tmp_path / "one.pth"
    torch.save(make_vit(1).state_dict(), path)
    assert "3 channels" in refuse(path, UsageError, input_norm="imagenet")
    with pytest.raises(UsageError, match="unknown: use auto"):
        open_backbone(path, input_norm="zscore")  # type: ignore[arg-type]
