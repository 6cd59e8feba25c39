from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

from unidino_fast.backbones import Backbone, open_backbone
from unidino_fast.errors import UsageError


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return open_backbone("random:0")


def test_with_tile_agrees_with_timm(backbone: Backbone) -> None:
    resized = backbone.with_tile(160)
    # timm's other way: a model built for 160 px, its position embedding filtered at load time.
    oracle: Any = timm.create_model(
        "vit_small_patch16_224", pretrained=False, num_classes=0, in_chans=1, img_size=160
    ).eval()
    state = backbone.module.state_dict()
    oracle.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(state, oracle))
    tiles = torch.rand(2, 1, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        difference = (resized.module(tiles) - oracle(tiles)).abs().max()
    assert float(difference) <= 1e-5
    assert resized.image_size == 160
    assert resized.digest == backbone.digest
    assert not any(p.requires_grad for p in resized.module.parameters())
    assert not resized.module.training


def test_with_tile_leaves_the_original_alone(backbone: Backbone) -> None:
    assert backbone.with_tile(224) is backbone
    tiles = torch.rand(1, 1, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before = backbone.module(tiles)
        backbone.with_tile(96)
        assert torch.equal(backbone.module(tiles), before)


@pytest.mark.parametrize(
    ("tile", "near"), [(100, "96 or 112"), (8, "use --tile 16"), (0, "16"), (-16, "16")]
)
def test_tiles_that_do_not_fit(backbone: Backbone, tile: int, near: str) -> None:
    with pytest.raises(UsageError, match=near):
        backbone.with_tile(tile)
