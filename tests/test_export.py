"""Exported files: run by ONNX Runtime alone, they give timm's numbers; the manifest is true."""

from __future__ import annotations

import hashlib
import json
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import timm
import torch
from timm.layers.pos_embed import resample_abs_pos_embed

from unidino_fast.backbones import open_backbone
from unidino_fast.errors import OutputError, UnidinoError, UsageError, WeightsError
from unidino_fast.export import export_backbone

if TYPE_CHECKING:
    from pathlib import Path

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

EDGE = 32
PATCH = 16


def documented_layout(tile: np.ndarray) -> np.ndarray:
    """The manifest's words, on one tile."""
    g, p = len(tile) // PATCH, PATCH
    return tile.reshape(g, p, g, p).transpose(0, 2, 1, 3).reshape(g * g, p * p)


def run_file(path: Path, tiles: np.ndarray) -> np.ndarray:
    """What a stranger does with the file, given the manifest alone."""
    manifest = json.loads(path.with_name(f"{path.name}.json").read_text())
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    patches = np.stack([documented_layout(tile) for tile in tiles])
    assert list(patches.shape[1:]) == manifest["input"]["shape"][1:]
    (features,) = session.run(
        [manifest["output"]["name"]], {manifest["input"]["name"]: patches.astype(np.float32)}
    )
    assert list(features.shape[1:]) == manifest["output"]["shape"][1:]
    found: np.ndarray = features
    return found


@pytest.mark.parametrize("n_tiles", [1, 5])
def test_onnx_file_gives_timms_numbers(tiny_weights: Path, tmp_path: Path, n_tiles: int) -> None:
    out = tmp_path / "model.onnx"
    manifest = export_backbone(tiny_weights, out, to="onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx.json"]
    tiles = np.random.default_rng(n_tiles).random((n_tiles, EDGE, EDGE), np.float32)
    backbone = open_backbone(tiny_weights)
    with torch.no_grad():
        direct = backbone.module(torch.from_numpy(tiles)[:, None]).numpy()
    np.testing.assert_allclose(run_file(out, tiles), direct, rtol=0, atol=1e-5)
    assert json.loads((tmp_path / "model.onnx.json").read_text()) == manifest
    assert manifest["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert manifest["weights"]["digest"] == backbone.digest
    assert manifest["precision"] == "fp32"
    assert (manifest["tile"], manifest["patch"]) == (EDGE, PATCH)
    assert manifest["input_norm"].startswith("identity")
    properties = {p.key: p.value for p in onnx.load(out).metadata_props}
    assert properties["unidino_fast.weights_digest"] == backbone.digest
    assert properties["unidino_fast.tile"] == str(EDGE)
    assert properties["unidino_fast.input_layout"] == manifest["input"]["layout"]


def test_equal_exports_are_equal_bytes(tiny_weights: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        export_backbone(tiny_weights, tmp_path / name, to="onnx")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_other_tile_resamples_the_positions(tiny_weights: Path, tmp_path: Path) -> None:
    """Against timm's own resampling on a network that takes any size."""
    out = tmp_path / "model.onnx"
    assert export_backbone(tiny_weights, out, to="onnx", tile=64)["tile"] == 64
    module: Any = open_backbone(tiny_weights).module
    tiles = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        x = module.patch_embed.proj(tiles).flatten(2).transpose(1, 2)
        x = torch.cat([module.cls_token.expand(2, -1, -1), x], dim=1)
        x = x + resample_abs_pos_embed(module.pos_embed, (4, 4))
        direct = module.norm(module.blocks(x))[:, 0].numpy()
    np.testing.assert_allclose(run_file(out, tiles[:, 0].numpy()), direct, rtol=0, atol=1e-5)


def test_standardisation_travels_with_the_file(tiny_weights: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    state = {f"module.backbone.{name}": x for name, x in load_file(tiny_weights).items()}
    torch.save({"student": state}, tmp_path / "morphem.pth")
    out = tmp_path / "model.onnx"
    manifest = export_backbone(tmp_path / "morphem.pth", out, to="onnx")
    assert manifest["input_norm"] == "per_tile (inside the file)"
    tiles = torch.rand(3, 1, EDGE, EDGE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        normalised = torch.nn.InstanceNorm2d(1, eps=1e-12)(tiles)
        direct = open_backbone(tiny_weights).module(normalised).numpy()
    np.testing.assert_allclose(run_file(out, tiles[:, 0].numpy()), direct, rtol=0, atol=1e-5)


def test_half_precision_is_half_the_file(tiny_weights: Path, tmp_path: Path) -> None:
    sizes = {}
    for precision in ("fp32", "bf16", "fp16"):
        out = tmp_path / precision
        manifest = export_backbone(tiny_weights, out, to="onnx", precision=precision)
        assert manifest["precision"] == precision
        sizes[precision] = out.stat().st_size
    assert sizes["bf16"] == pytest.approx(sizes["fp32"] / 2, rel=0.1)
    assert sizes["fp16"] == pytest.approx(sizes["fp32"] / 2, rel=0.1)


@pytest.mark.skipif(find_spec("tensorrt_rtx_bindings") is None, reason="no TensorRT for RTX")
@pytest.mark.skipif(torch.cuda.is_available(), reason="builds for this GPU instead")
def test_tensorrt_file_without_a_gpu(tiny_weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.plan"
    manifest = export_backbone(tiny_weights, out, to="tensorrt", batch_size=8)
    assert out.read_bytes()[:4] == b"vtrt"
    assert manifest["precision"] == "bf16"
    assert manifest["engine"]["builder"] == "tensorrt_rtx"
    assert manifest["engine"]["batch_size"] == {"least": 1, "largest": 8}
    assert manifest["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_tensorrt_needs_its_gpu(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unidino_fast.engines.tensorrt_library import TensorRT

    found = TensorRT(None, "tensorrt", "11.4", None)
    monkeypatch.setattr("unidino_fast.export.load_tensorrt", lambda **_: found)
    with pytest.raises(UsageError, match=r"there is none here: .*unidino_fast\[tensorrt-rtx\]"):
        export_backbone(tiny_weights, tmp_path / "model.plan", to="tensorrt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"to": "coreml"}, UsageError, "use onnx or tensorrt"),
        ({"precision": "fp8"}, UsageError, "auto, fp32, bf16, fp16"),
        ({"to": "tensorrt", "batch_size": 0}, UsageError, "1 or more"),
        ({"batch_size": 8}, UsageError, "omit it"),
        ({"tile": 40}, UsageError, "--tile 32 or 48"),
        ({"out": "absent/model.onnx"}, OutputError, "a folder that exists"),
        ({"out": "."}, OutputError, "name a file"),
        ({"weights": "absent.pth"}, WeightsError, "does not exist"),
    ],
)
def test_faults_are_one_line_and_leave_nothing(
    tiny_weights: Path,
    tmp_path: Path,
    options: dict[str, Any],
    error: type[UnidinoError],
    said: str,
) -> None:
    given = {"weights": tiny_weights, "out": "model.onnx", "to": "onnx", **options}
    weights, out = given.pop("weights"), tmp_path / given.pop("out")
    with pytest.raises(error, match=said) as caught:
        export_backbone(weights, out, **given)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_weights_of_several_channels_are_refused(tmp_path: Path) -> None:
    vit: Any = timm.create_model(
        "vit_small_patch16_224", in_chans=5, img_size=32, embed_dim=64, depth=1, num_classes=0,
        num_heads=1,
    )  # fmt: skip
    torch.save(vit.state_dict(), tmp_path / "w.pth")
    with pytest.raises(UsageError, match="5 channels at once"):
        export_backbone(tmp_path / "w.pth", tmp_path / "model.onnx", to="onnx")


def test_disk_that_fails_leaves_the_former_file(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model.onnx"
    out.write_text("former")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OutputError, match="No space left"):
        export_backbone(tiny_weights, out, to="onnx")
    assert out.read_text() == "former"
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
