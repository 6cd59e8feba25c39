"""Strictness: every difference from a plain ViT is named."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from pathlib import Path


def save(state: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    path = tmp_path / "x.pth"
    torch.save(state, path)
    return path


def test_another_architecture(tmp_path: Path, refuse: Any) -> None:
    state = {f"layer{i}.0.conv1.weight": torch.ones(4, 3, 3, 3) for i in range(20)}
    message = refuse(save({"conv1.weight": torch.ones(4, 3, 7, 7), **state}, tmp_path))
    assert "another architecture (no cls_token, pos_embed" in message
    assert "conv1.weight (4, 3, 7, 7)" in message
    assert "(21 in all)" in message


def test_missing_and_unknown_keys_are_listed(make_vit: Any, tmp_path: Path, refuse: Any) -> None:
    state = make_vit().state_dict()
    state["blocks.1.mystery"] = torch.ones(5)
    del state["blocks.1.mlp.fc2.bias"]
    message = refuse(save(state, tmp_path))
    assert "missing: blocks.1.mlp.fc2.bias" in message
    assert "unknown: blocks.1.mystery (5,)" in message


def test_long_lists_end_in_a_count(make_vit: Any, tmp_path: Path, refuse: Any) -> None:
    state = make_vit().state_dict()
    state |= {f"extra.{i}": torch.ones(1) for i in range(30)}
    message = refuse(save(state, tmp_path))
    assert "(30 in all)" in message
    assert len(re.findall(r"extra\.\d+", message)) == 8


def test_a_block_that_is_missing(make_vit: Any, tmp_path: Path, refuse: Any) -> None:
    state = make_vit(depth=4).state_dict()
    state = {name: value for name, value in state.items() if not name.startswith("blocks.2.")}
    message = refuse(save(state, tmp_path))
    assert "ViT of 4 blocks" in message
    assert "missing: blocks.2.norm1.weight" in message
    assert "unknown" not in message


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("blocks.0.attn.qkv.weight", (380, 128), "(380, 128) instead of (384, 128)"),
        ("blocks.1.mlp.fc1.bias", (3,), "(3,) instead of (512,)"),
        ("norm.weight", (), "() instead of (128,)"),
        ("cls_token", (128,), "unusual shapes"),
        ("cls_token", (1, 1, 100), "100 features, not a multiple of the 64"),
        ("cls_token", (1, 1, 0), "0 features"),
        ("pos_embed", (1, 16, 128), "16 tokens"),
        ("pos_embed", (1, 0, 128), "0 tokens"),
        ("pos_embed", (1, 21, 128), "21 tokens"),
        ("patch_embed.proj.weight", (128, 1, 16, 8), "16 x 8 pixels"),
        ("patch_embed.proj.weight", (128, 1, 1, 16, 16), "unusual shapes"),
        ("patch_embed.proj.weight", (128, 1, 0, 0), "unusual shapes"),
        ("blocks.9999999999.norm1.weight", (128,), "missing"),
    ],
)
def test_wrong_shapes(
    make_vit: Any, tmp_path: Path, refuse: Any, name: str, shape: tuple[int, ...], said: str
) -> None:
    state = make_vit().state_dict()
    state[name] = torch.zeros(shape)
    assert said in refuse(save(state, tmp_path))


@pytest.mark.parametrize(
    "changes",
    [
        {"reg_tokens": 4},
        {"qk_norm": True},
        {"pre_norm": True},
        {"global_pool": "avg"},
        {"class_token": False, "global_pool": "avg"},
    ],
)
def test_variants_of_the_vit_are_refused(
    make_vit: Any, tmp_path: Path, refuse: Any, changes: dict[str, Any]
) -> None:
    assert "another architecture" in refuse(save(make_vit(**changes).state_dict(), tmp_path))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_values_that_are_no_numbers(
    make_vit: Any, tmp_path: Path, refuse: Any, value: float
) -> None:
    state = make_vit().state_dict()
    state["blocks.1.attn.proj.bias"] = torch.full((128,), value, dtype=torch.float64)
    assert "blocks.1.attn.proj.bias holds NaN or infinite" in refuse(save(state, tmp_path))


def test_sparse_and_integer_tensors(make_vit: Any, tmp_path: Path, refuse: Any) -> None:
    for odd in (torch.ones(128).to_sparse(), torch.ones(128, dtype=torch.int64)):
        state = make_vit().state_dict()
        state["norm.bias"] = odd
        assert "norm.bias is" in refuse(save(state, tmp_path))
