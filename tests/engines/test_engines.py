"""Engines give the reference's numbers, whatever stands beside a tile; a broken one is caught."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import timm
import torch
import zarr
from safetensors.torch import load_file

import unidino_fast as uf
from unidino_fast.config import EmbedOptions
from unidino_fast.engines import choose
from unidino_fast.engines.graph import InferenceGraph, patches_of
from unidino_fast.engines.selfcheck import SelfCheck, self_check
from unidino_fast.errors import EngineError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl

EDGE = 32


@pytest.fixture
def tiles() -> torch.Tensor:
    return torch.rand(37, EDGE, EDGE, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def expected(tiny_weights: Path) -> np.ndarray:
    """timm called directly, one tile at a time."""
    vit = timm.create_model(
        "vit_small_patch16_224",
        in_chans=1,
        img_size=EDGE,
        embed_dim=64,
        depth=2,
        num_heads=1,
        num_classes=0,
    ).eval()
    vit.load_state_dict(load_file(tiny_weights), strict=True)
    tiles = torch.rand(37, EDGE, EDGE, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return np.concatenate([vit(tile[None, None]).numpy() for tile in tiles])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int64"])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_pixels_are_no_tiles(tiny_weights: Path, dtype: str, as_tensor: bool) -> None:
    """Tiles of 0 to 255 would give features of something else, without a word."""
    model = uf.load_backbone(tiny_weights, device="cpu", engine="eager")
    pixels: Any = np.full((1, EDGE, EDGE), 100, dtype)
    with pytest.raises(UsageError, match=f"tiles of {dtype} hold 100 to 100, no .*embed_planes"):
        model.embed_tiles(torch.from_numpy(pixels) if as_tensor else pixels)


@pytest.mark.parametrize("engine", ["eager", "compile"])
def test_engine_equals_timm(
    tiny_weights: Path, tiles: torch.Tensor, expected: np.ndarray, engine: str
) -> None:
    model = uf.load_backbone(tiny_weights, device="cpu", engine=engine)
    np.testing.assert_allclose(model.embed_tiles(tiles), expected, rtol=0, atol=1e-5)


def test_graph_without_qkv_bias(tiles: torch.Tensor, tmp_path: Path) -> None:
    torch.manual_seed(1)
    vit: Any = timm.create_model(
        "vit_small_patch16_224",
        in_chans=1,
        img_size=EDGE,
        embed_dim=128,
        depth=3,
        num_heads=2,
        num_classes=0,
        qkv_bias=False,
    ).eval()
    torch.save(vit.state_dict(), tmp_path / "w.pth")
    model = uf.load_backbone(tmp_path / "w.pth", device="cpu")
    with torch.no_grad():
        direct = vit(tiles[:, None]).numpy()
    np.testing.assert_allclose(model.embed_tiles(tiles), direct, rtol=0, atol=1e-5)


def test_patches_of_is_the_convolution_of_a_patch_embedding(tiles: torch.Tensor) -> None:
    kernel = torch.rand(5, 1, 16, 16)
    convolved = torch.nn.functional.conv2d(tiles[:, None], kernel, stride=16)
    product = patches_of(tiles, 16) @ kernel.flatten(1).T
    torch.testing.assert_close(product, convolved.flatten(2).transpose(1, 2))


@pytest.mark.parametrize("engine", ["eager", "compile"])
def test_neighbours_and_order_do_not_change_a_bit(
    tiny_weights: Path, tiles: torch.Tensor, engine: str
) -> None:
    model = uf.load_backbone(tiny_weights, device="cpu", engine=engine)
    together = model.embed_tiles(tiles)
    alone = np.concatenate([model.embed_tiles(tile[None]) for tile in tiles])
    shuffled = model.embed_tiles(tiles.flip(0))[::-1]
    np.testing.assert_array_equal(alone, together)
    np.testing.assert_array_equal(shuffled, together)


def test_full_size_neighbours_do_not_change_a_bit() -> None:
    """ViT-S/16: matrix products large enough to be cut into blocks."""
    model = uf.load_backbone("random:1", device="cpu")
    tiles = torch.rand(19, 224, 224, generator=torch.Generator().manual_seed(4))
    together = model.embed_tiles(tiles)
    np.testing.assert_array_equal(model.embed_tiles(tiles[7:12]), together[7:12])


@pytest.mark.parametrize("engine", ["eager", "compile", "onnx"])
def test_cores_do_not_change_a_bit(request: pytest.FixtureRequest, engine: str) -> None:
    """ViT-S/16 width: torch would share these products among its threads."""
    tiles = torch.rand(19, 224, 224, generator=torch.Generator().manual_seed(4))
    found = []
    request.addfinalizer(lambda: torch.set_num_threads(1))
    for n_cores in (1, 2, 3):
        torch.set_num_threads(n_cores)
        model = uf.load_backbone("random:1", device="cpu", engine=engine)
        found.append(model.embed_tiles(tiles))
        assert torch.get_num_threads() == n_cores
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])


@pytest.mark.parametrize(
    ("device", "precision", "n_tiles", "chosen"),
    [
        ("cpu", "fp32", None, "eager"),
        ("cpu", "fp32", 100, "eager"),
        ("cpu", "fp32", 10**4, "onnx"),
        ("cpu", "bf16", 10**4, "eager"),
        ("cpu", "bf16", 10**7, "eager"),
        ("cuda", "bf16", 10**3, "eager"),
        ("cuda", "bf16", 10**4, "fused"),
        ("cuda", "fp8", 10**4, "eager"),
        ("cuda", "fp32", 10**7, "compile"),
    ],
)
def test_auto_goes_by_device_precision_and_size(
    device: str, precision: Any, n_tiles: int | None, chosen: str
) -> None:
    place = torch.device(device)
    assert choose.choose_engine("auto", place, precision, n_tiles) == chosen
    assert choose.choose_engine("tensorrt", place, precision, n_tiles) == "tensorrt"


def test_auto_says_why_once_a_job(
    tiny_weights: Path, tiles: torch.Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "unidino_fast")
    model = uf.load_backbone(tiny_weights, device="cpu", batch_size=8)
    model.embed_tiles(tiles)  # a job of unknown size; in five batches
    assert caplog.messages == []
    for n_tiles in (100, 10**4, 100, 10**4):
        engine = model.for_job(n_tiles).engine
        assert engine == ("eager" if n_tiles == 100 else "onnx")
    assert caplog.messages == [
        "engine auto is eager: 100 tiles in fp32 on cpu, onnx pays from 2000",
        "engine auto is onnx: 10000 tiles in fp32 on cpu, onnx pays from 2000",
    ]
    caplog.clear()
    choose.choose_engine("auto", torch.device("cpu"), "bf16", 10**7)
    assert caplog.messages == [
        "engine auto is eager: 10000000 tiles in bf16 on cpu, no other is faster"
    ]


def test_an_unknown_engine_is_named() -> None:
    with pytest.raises(UsageError, match="warp"):
        choose.choose_engine("warp", torch.device("cpu"), "fp32", 1)


@pytest.mark.parametrize(("dim", "step"), [(64, 512), (384, 512), (768, 256), (1280, 128)])
def test_steps_shrink_with_the_backbone(dim: int, step: int) -> None:
    assert choose.step_of(torch.device("cuda"), dim) == step


def test_self_check_goes_into_the_manifest(
    small_plate: tuple[Path, pl.DataFrame], tiny_weights: Path, tmp_path: Path
) -> None:
    model = uf.load_backbone(tiny_weights, device="cpu", engine="compile")
    plate = uf.open_plate(small_plate[0])
    uf.embed_to_folder(plate, model, tmp_path, EmbedOptions(tile=EDGE))
    check = json.loads((tmp_path / "small/manifest.json").read_text())["run"]["self_check"]
    assert check["engine"] == "compile"
    assert check["lowest_cosine"] >= check["limit"] == 0.99999
    assert check["n_tiles"] > 0
    assert 0 <= check["error_share"] < 1e-3


def test_a_run_says_that_its_engine_errs_much(
    small_plate: tuple[Path, pl.DataFrame],
    tiny_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = SelfCheck("compile", "bf16", 16, 0.9995, 0.999, 0.25)
    monkeypatch.setattr("unidino_fast.plate_run.self_check", lambda *_: found)
    model = uf.load_backbone(tiny_weights, device="cpu", engine="compile", precision="bf16")
    plate = uf.open_plate(small_plate[0])
    summary = uf.embed_to_folder(plate, model, tmp_path, EmbedOptions(tile=EDGE))
    assert found.warning is not None
    assert found.warning in summary.warnings
    assert "errs by 25% of what tells 16 tiles of this plate apart" in found.warning
    assert replace(found, error_share=0.24).warning is None
    assert replace(found, error_share=None).warning is None


@pytest.mark.parametrize("n_blank", [1, 6])
def test_self_check_looks_where_there_is_signal(
    plate_path: Path,
    tiny_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    n_blank: int,
) -> None:
    """An engine that mixes up patches would pass on the first well, which is blank."""

    class Broken:
        name = "compile"

        def __init__(self, graph: InferenceGraph, *_: Any, step: int) -> None:
            self.step, self.graph = step, graph

        def __call__(self, patches: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return self.graph(patches.flip(1))

    monkeypatch.setattr("unidino_fast.engines.compiled.CompiledEngine", Broken)
    for path in [plate_path / row / column for row in "AB" for column in "123"][:n_blank]:
        for site in "01":
            zarr.open_array(path / site / "0", mode="r+")[:] = 7
    model = uf.load_backbone(tiny_weights, device="cpu", engine="compile")
    plate = uf.open_plate(plate_path)
    if n_blank < len(plate.wells):
        with pytest.raises(EngineError, match=r"cosine 0\.\d+"):
            uf.embed_to_folder(plate, model, tmp_path / "out", EmbedOptions(tile=EDGE))
    else:
        uf.embed_to_folder(plate, model, tmp_path / "out", EmbedOptions(tile=EDGE))
        check = json.loads((tmp_path / "out/small/manifest.json").read_text())["run"]["self_check"]
        assert check["n_tiles"] == 16


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_self_check_sees_dim_tiles_confused(
    tiles: torch.Tensor, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """An engine that gives each tile the embedding of its neighbour, all of them nearly equal."""

    class Broken:
        name = "compile"

        def __init__(self, graph: InferenceGraph, *_: Any, step: int) -> None:
            self.step, self.graph = step, graph.float()

        def __call__(self, patches: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return self.graph(patches.float().roll(1, dims=0))

    monkeypatch.setattr("unidino_fast.engines.compiled.CompiledEngine", Broken)
    model = uf.load_backbone(tiny_weights, device="cpu", engine="compile", precision=precision)
    dim = 0.01 + 0.0005 * tiles[:8]
    patches = patches_of(dim, model.backbone.patch_size)
    if precision == "fp32":
        with pytest.raises(EngineError, match=r"error of \d+% of what tells tiles apart"):
            self_check(model, patches)
        return
    found = self_check(model, patches)
    assert found is not None
    assert found.lowest_cosine > found.limit  # by cosines it would pass
    right = uf.load_backbone(tiny_weights, device="cpu", engine="eager").embed_tiles(dim)
    error = np.linalg.norm(np.roll(right, 1, axis=0) - right)
    assert found.error_share == pytest.approx(
        error / np.linalg.norm(right - right.mean(0)), rel=0.1
    )
    assert found.warning is not None
    assert f"in bf16 errs by {found.error_share:.0%} of what tells 8 tiles" in found.warning


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_self_check_catches_a_perturbed_layer(
    small_plate: tuple[Path, pl.DataFrame],
    tiny_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
) -> None:
    """An engine whose second block's fc1 weights are off by a tenth of their spread."""

    class Broken:
        name = "compile"

        def __init__(self, graph: InferenceGraph, *_: Any, step: int) -> None:
            import copy

            self.step = step

            self.graph = copy.deepcopy(graph)
            weight = self.graph.blocks[1].mlp.fc1.weight
            noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
            with torch.no_grad():
                weight.add_(weight.std() * (3 if precision == "bf16" else 0.1) * noise)

        def __call__(self, patches: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return self.graph(patches.float())

    monkeypatch.setattr("unidino_fast.engines.compiled.CompiledEngine", Broken)
    model = uf.load_backbone(tiny_weights, device="cpu", engine="compile", precision=precision)
    plate = uf.open_plate(small_plate[0])
    with pytest.raises(
        EngineError, match=r"cosine 0\.\d+ .* below 0\.99.*--engine eager"
    ) as caught:
        uf.embed_to_folder(plate, model, tmp_path / "out", EmbedOptions(tile=EDGE))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
