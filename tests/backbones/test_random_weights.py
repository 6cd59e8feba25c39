from __future__ import annotations

import pytest
import torch

from unidino_fast.backbones import open_backbone
from unidino_fast.errors import UsageError

# Computed once (x86-64, numpy 2.x); the same on every machine and library version, or a profile
# made with random:0 could not be compared with another.
DIGEST_0 = "3799d816b94bbd795a5576b129c9e2035ffbd1969d5c3fced7d03f5c157e2346"


def test_random_0_is_the_same_everywhere() -> None:
    backbone = open_backbone("random:0")
    assert backbone.digest == DIGEST_0
    assert (backbone.dim, backbone.in_chans, backbone.patch_size) == (384, 1, 16)
    assert (backbone.image_size, backbone.family, backbone.name) == (224, "random", "random:0")
    assert "baseline, not a trained backbone" in backbone.notes[0]
    assert open_backbone("random").digest == DIGEST_0


def test_parameters_are_distributed_as_documented() -> None:
    state = open_backbone("random:1").module.state_dict()
    for name, values in state.items():
        mean, std = float(values.mean()), float(values.std())
        if name.startswith("patch_embed.proj"):
            assert float(values.abs().max()) < 1 / 16
            assert std == pytest.approx(1 / 16 / 3**0.5, rel=0.1)
        elif name == "cls_token":
            assert std == pytest.approx(1e-6, rel=0.1)
        elif name == "pos_embed" or values.ndim == 2:
            assert std == pytest.approx(0.02, rel=0.01)
            assert abs(mean) < 4 * std / values.numel() ** 0.5
        else:
            assert torch.equal(values, torch.full_like(values, float(".weight" in name)))
    flat = state["blocks.0.attn.qkv.weight"].flatten()
    other = state["blocks.1.attn.qkv.weight"].flatten()
    assert abs(float(torch.corrcoef(torch.stack([flat, other]))[0, 1])) < 0.01


def test_seeds_differ_and_reach_to_63_bits() -> None:
    seeds = ("random:1", "random:2", f"random:{2**32 + 1}", f"random:{2**63 - 1}")
    digests = {open_backbone(weights).digest for weights in seeds}
    assert len(digests) == 4


@pytest.mark.parametrize("seed", ["-1", "x", "", "1.5", "1_0", "²", str(2**63), "9" * 5000])
def test_seeds_that_are_none(seed: str) -> None:
    with pytest.raises(UsageError, match="random:") as caught:
        open_backbone(f"random:{seed}")
    assert len(str(caught.value).splitlines()) == 1


def test_random_embeddings_are_finite_and_tell_tiles_apart() -> None:
    tiles = torch.rand(2, 1, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = open_backbone("random").module(tiles)
    assert features.shape == (2, 384)
    assert bool(torch.isfinite(features).all())
    assert float((features[0] - features[1]).abs().max()) > 1e-3
