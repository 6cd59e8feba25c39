"""The backbone that ships with the package."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from unidino_fast.backbones import open_backbone
from unidino_fast.backbones.opening import _SHIPPED
from unidino_fast.benchmarks import stains
from unidino_fast.engines import load_backbone
from unidino_fast.training.config import load_config

ROOT = Path(__file__).parents[2]
CONFIGS = ("default-backbone-1.toml", "default-backbone-2.toml")


def test_default_is_a_small_trained_vit() -> None:
    backbone = open_backbone("default")
    assert (backbone.dim, backbone.in_chans, backbone.patch_size) == (192, 1, 16)
    assert (backbone.image_size, backbone.family) == (224, "unidino_fast")
    assert (backbone.name, backbone.licence) == ("default", "BSD-3-Clause")
    assert backbone.notes == ()  # no advice to give by hand what is done by itself
    assert backbone.intensity == "percentile"
    assert backbone.intensity == "percentile"
    tiles = torch.rand(2, 1, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = backbone.module(tiles)
    assert bool(torch.isfinite(features).all())
    assert float((features[0] - features[1]).abs().max()) > 1e-3


def test_the_file_is_small_and_names_no_machine() -> None:
    assert _SHIPPED.stat().st_size < 45e6
    with safe_open(_SHIPPED, "pt") as file:
        dtypes = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
        header = "".join(file.metadata().values())
    assert dtypes == {torch.float16}
    assert not re.search(r"(^|[\"\s:])/\w", header)


@pytest.mark.parametrize("name", CONFIGS)
def test_its_configurations_load(name: str, tmp_path: Path) -> None:
    document = tomllib.loads((ROOT / "configs" / name).read_text())
    names = [source["name"] for source in document["data"]]
    config = load_config(ROOT / "configs" / name, data=dict.fromkeys(names, str(tmp_path)))
    backbone = open_backbone("default")
    assert (config.model.dim, config.model.depth) == (backbone.dim, 12)
    assert not set(names) & {"sbs_plate", "nf1_plate2"}  # held out


@pytest.mark.real_data
def test_default_tells_stains_apart_where_a_random_network_does_not(real_data_dir: Path) -> None:
    """A lab whose images no training saw; measured: .937, random .793, intensities .763."""
    tiles = stains.read_tiles(real_data_dir / "nf1_plate2", stains.PATTERN)
    found = {}
    for name in ("default", "random:0"):
        model = load_backbone(name, engine="eager", device="cpu")
        found[name] = stains.accuracy(model.embed_tiles(tiles.pixels).astype(np.float64), tiles)
    assert found["default"] >= 0.9
    assert found["random:0"] < 0.85
