from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from unidino_fast.backbones import Backbone, open_backbone, save_backbone
from unidino_fast.errors import OutputError, WeightsError


@pytest.fixture
def backbone(make_vit: Any, tmp_path: Path) -> Backbone:
    path = tmp_path / "source.pth"
    torch.save({"student": make_vit().state_dict()}, path)
    return open_backbone(path)


def test_round_trip(backbone: Backbone, tiles: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "saved.safetensors"
    save_backbone(backbone, path, {"commit": "abc"})
    again = open_backbone(path)
    assert again.digest == backbone.digest
    assert (again.family, again.name) == ("unidino_fast", "saved.safetensors")
    assert (again.input_norm, again.notes, again.licence) == ("per_tile", (), None)
    assert (again.dim, again.patch_size, again.image_size) == (128, 16, 64)
    with torch.inference_mode():
        assert torch.equal(again.module(tiles), backbone.module(tiles))
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["unidino_fast"])
    assert header["provenance"] == {"commit": "abc"}
    assert header["origin"]["family"] == "morphem"
    assert header["architecture"]["depth"] == 2


def test_same_backbone_same_bytes(backbone: Backbone, tmp_path: Path) -> None:
    paths = tmp_path / "a", tmp_path / "b"
    for path in paths:
        save_backbone(backbone, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_notes_of_random_weights_travel_along(tmp_path: Path) -> None:
    random = open_backbone("random:3")
    save_backbone(random, tmp_path / "random.safetensors")
    again = open_backbone(tmp_path / "random.safetensors")
    assert again.notes == random.notes
    assert again.digest == random.digest


def test_intensity_travels_along(backbone: Backbone, tmp_path: Path) -> None:
    assert backbone.intensity is None
    save_backbone(replace(backbone, intensity="percentile"), tmp_path / "w")
    assert open_backbone(tmp_path / "w").intensity == "percentile"


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ('{"data": [{"intensity": "percentile"}, {"intensity": "percentile"}]}', "percentile"),
        ('{"data": [{"intensity": "percentile"}, {"intensity": "dtype"}]}', None),
        ('{"data": [{"intensity": "\\u001b[2J"}]}', None),
        ('{"data": [{"intensity": ["percentile"]}]}', None),
        ('{"data": []}', None),
        ('{"data": 3}', None),
        ("[" * 100_000, None),
        ("{", None),
    ],
)
def test_intensity_of_the_training(
    config: str, wanted: str | None, backbone: Backbone, tmp_path: Path
) -> None:
    """Files of before it had a place of its own have the configuration of their training."""
    save_backbone(backbone, tmp_path / "w", {"config": config})
    assert open_backbone(tmp_path / "w").intensity == wanted


def test_another_tile_size_is_saved_as_it_is(backbone: Backbone, tmp_path: Path) -> None:
    wide = backbone.with_tile(96)
    save_backbone(wide, tmp_path / "wide")
    again = open_backbone(tmp_path / "wide")
    assert again.image_size == 96
    tiles = torch.rand(2, 1, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(again.module(tiles), wide.module(tiles))


def test_input_norm_may_be_overruled(backbone: Backbone, tmp_path: Path) -> None:
    save_backbone(backbone, tmp_path / "x")
    other = open_backbone(tmp_path / "x", input_norm="identity")
    assert other.input_norm == "identity"
    assert other.digest != backbone.digest


def test_changed_weights_do_not_pass(backbone: Backbone, tmp_path: Path, refuse: Any) -> None:
    path = tmp_path / "x"
    save_backbone(backbone, path)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    assert "digest" in refuse(path)


def test_writing_is_whole_or_not_at_all(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out" / "x.safetensors"
    with pytest.raises(OutputError, match="choose another place"):
        save_backbone(backbone, path)
    path.parent.mkdir()
    path.write_bytes(b"before")

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(OutputError, match="No space left"):
            save_backbone(backbone, path)
    assert [file.name for file in path.parent.iterdir()] == ["x.safetensors"]
    assert path.read_bytes() == b"before"
    save_backbone(backbone, path)
    assert open_backbone(path).digest == backbone.digest
    assert path.stat().st_mode & stat.S_IRUSR


def test_half_is_half_the_size_and_loads_as_the_rounded_weights(
    backbone: Backbone, tmp_path: Path
) -> None:
    whole, half = tmp_path / "whole", tmp_path / "half"
    save_backbone(backbone, whole)
    save_backbone(backbone, half, half=True)
    assert half.stat().st_size < 0.55 * whole.stat().st_size
    again = open_backbone(half)
    before, after = backbone.module.state_dict(), again.module.state_dict()
    assert all(value.dtype == torch.float32 for value in after.values())
    assert all(torch.equal(after[name], before[name].half().float()) for name in before)
    assert again.digest != backbone.digest  # other numbers
    save_backbone(again, half, half=True)
    assert open_backbone(half).digest == again.digest


def test_half_refuses_weights_that_it_cannot_hold(backbone: Backbone, tmp_path: Path) -> None:
    with torch.no_grad():
        backbone.module.norm.weight[0] = 1e6  # type: ignore[union-attr,operator]
    with pytest.raises(WeightsError, match=r"norm\.weight holds weights above 65504"):
        save_backbone(backbone, tmp_path / "x", half=True)
