"""The network is never used: timm and the hub's client are replaced, or told to be offline."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub import errors
from safetensors.torch import save_file

from unidino_fast.backbones import open_backbone
from unidino_fast.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


class FakeHub:
    """Serves a folder as if it were one repository, and counts what is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[tuple[str, str, str | None]] = []

    def download(self, repo: str, filename: str, revision: str | None, **_: Any) -> str:
        self.asked.append((repo, filename, revision))
        if not (self.folder / filename).exists():
            raise errors.EntryNotFoundError(f"no {filename}\nmore lines")
        return str(self.folder / filename)

    def list(self, repo: str, revision: str | None) -> list[str]:
        return [path.name for path in self.folder.iterdir()]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(tmp_path / "repository")
    fake.folder.mkdir()
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake.download)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", fake.list)
    return fake


def test_repository_of_timm_format(make_vit: Any, hub: FakeHub, tiles: torch.Tensor) -> None:
    vit = make_vit(3)
    save_file(vit.state_dict(), hub.folder / "model.safetensors")
    pretrained = {"mean": [0.5] * 3, "std": [0.25] * 3}
    (hub.folder / "config.json").write_text(json.dumps({"pretrained_cfg": pretrained}))
    backbone = open_backbone("hf:lab/vit@v1")
    assert hub.asked == [("lab/vit", "model.safetensors", "v1"), ("lab/vit", "config.json", "v1")]
    assert (backbone.name, backbone.family) == ("hf:lab/vit@v1", "timm")
    with torch.inference_mode():
        theirs = vit((tiles.expand(-1, 3, -1, -1) - 0.5) / 0.25)
        assert float((backbone.module(tiles) - theirs).abs().max()) <= 1e-5


def test_candidates_and_named_files(make_vit: Any, hub: FakeHub, refuse: Any) -> None:
    torch.save(make_vit().state_dict(), hub.folder / "only.pth")
    assert open_backbone("hf:lab/x").family == "dino"
    assert [file for _, file, _ in hub.asked[:3]] == [
        "model.safetensors",
        "pytorch_model.bin",
        "only.pth",
    ]
    assert open_backbone("hf:lab/x:only.pth").family == "dino"
    assert "has no file other.pth" in refuse("hf:lab/x:other.pth")
    torch.save(make_vit().state_dict(), hub.folder / "second.pth")
    message = refuse("hf:lab/x")
    assert "only.pth" in message
    assert "second.pth" in message
    for file in hub.folder.iterdir():
        file.unlink()
    assert "no weights file known here" in refuse("hf:lab/x")
    for malformed in ("hf:", "hf:a b", "timm:"):
        assert "malformed" in refuse(malformed, UsageError)


def test_the_client_of_the_hub_is_quiet(
    hub: FakeHub, refuse: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = logging.getLogger("huggingface_hub.utils._http")

    def unreachable(*_: Any, **__: Any) -> str:
        log.warning("Retrying in 1s [Retry 1/5].")
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    assert "hf:lab/x cannot be fetched (no route to host)" in refuse("hf:lab/x")
    assert caplog.records == []
    log.warning("heard again")
    assert [record.getMessage() for record in caplog.records] == ["heard again"]


def test_morphem_by_name_brings_its_norm_and_licence(make_vit: Any, hub: FakeHub) -> None:
    save_file(make_vit().state_dict(), hub.folder / "model.safetensors")
    backbone = open_backbone("morphem")
    assert hub.asked[0][0] == "CaicedoLab/MorphEm"
    assert (backbone.family, backbone.input_norm, backbone.licence) == (
        "morphem",
        "per_tile",
        "MIT",
    )
    assert (backbone.name, backbone.notes) == ("morphem", ())


def test_unreachable_hub_still_gives_what_is_cached(
    make_vit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(make_vit().state_dict(), tmp_path / "pytorch_model.bin")
    trials: list[tuple[str, bool]] = []

    def download(_: str, filename: str, local_files_only: bool, **__: Any) -> str:
        trials.append((filename, local_files_only))
        if filename != "pytorch_model.bin":
            raise errors.LocalEntryNotFoundError("cannot reach the hub")
        return str(tmp_path / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert open_backbone("hf:lab/x").dim == 128
    assert trials[:2] == [("model.safetensors", False), ("pytorch_model.bin", True)]


@pytest.mark.parametrize(
    "error",
    [
        errors.LocalEntryNotFoundError("cannot reach\nthe hub"),
        errors.OfflineModeIsEnabled("offline\nmode"),
        errors.HFValidationError("bad name\n..."),
        ConnectionError("refused\n..."),
    ],
)
def test_no_connection(monkeypatch: pytest.MonkeyPatch, refuse: Any, error: Exception) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    assert "download lab/x elsewhere" in refuse("hf:lab/x")
    monkeypatch.setattr(timm, "create_model", fail)
    assert "pass its model.safetensors" in refuse("timm:vit_small_patch16_224.dino")


def test_really_offline() -> None:
    """In a process of its own: the client reads its settings when it is imported."""
    program = """
from unidino_fast.backbones import open_backbone
from unidino_fast.errors import WeightsError
for weights in ("hf:lab/x", "hf:lab/x:a.pth", "timm:vit_small_patch16_224.dino", "dino-vits16"):
    try:
        open_backbone(weights)
    except WeightsError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    assert all("cannot be fetched" in line for line in lines)
    assert lines[0].startswith("hf:lab/x cannot")
    assert "huggingface.co/timm/vit_small_patch16_224.dino" in lines[2]


def test_timm_model_folds_its_own_mean_and_std(
    make_vit: Any, tiles: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    vit = make_vit(3, embed_dim=96, num_heads=3)  # heads that no shape tells
    vit.pretrained_cfg |= {"mean": (0.1, 0.2, 0.3), "std": (0.3, 0.2, 0.1), "license": "mit"}
    asked: list[Any] = []

    def create(name: str, **options: Any) -> Any:
        asked.append((name, options))
        return vit

    monkeypatch.setattr(timm, "create_model", create)
    backbone = open_backbone("timm:vit_small_patch16_224.dino")
    options = {"pretrained": True, "num_classes": 0}
    assert asked == [("vit_small_patch16_224.dino", options)]
    mean, std = (torch.tensor(vit.pretrained_cfg[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    with torch.inference_mode():
        theirs = vit((tiles.expand(-1, 3, -1, -1) - mean) / std)
        assert float((backbone.module(tiles) - theirs).abs().max()) <= 1e-5
    assert (backbone.family, backbone.licence, backbone.in_chans) == ("timm", "mit", 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"act_layer": "quick_gelu"},
        {"global_pool": "avg", "fc_norm": False},
        {"reg_tokens": 2},
    ],
)
def test_timm_models_that_compute_something_else(
    make_vit: Any, monkeypatch: pytest.MonkeyPatch, refuse: Any, changes: dict[str, Any]
) -> None:
    vit = make_vit(3, **changes)
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: vit)
    assert "another architecture" in refuse("timm:vit_small_patch16_224.dino")


def test_timm_models_of_other_kinds(monkeypatch: pytest.MonkeyPatch, refuse: Any) -> None:
    for name in ("resnet10t", "gmixer_12_224"):
        other = timm.create_model(name, pretrained=False, num_classes=0)
        with monkeypatch.context() as patch:
            patch.setattr(timm, "create_model", lambda *_, model=other, **__: model)
            assert "another architecture" in refuse(f"timm:{name}")


def test_names_that_timm_lacks(refuse: Any) -> None:
    assert "did you mean vit_small_patch16_224" in refuse("timm:vit_smal_patch16_224.dino")
    assert "Invalid pretrained tag" in refuse("timm:vit_small_patch16_224.nonsense")
