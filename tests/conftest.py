"""Fixtures that several test files share."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import timm
import torch

from unidino_fast.backbones import open_backbone, save_backbone
from unidino_fast.simulate import simulate_plate

if TYPE_CHECKING:
    from types import ModuleType

    import polars as pl


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """Networks here are tiny: threads that wait for each other would only slow them down."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def real_data_dir() -> Path:
    """Folder of real images and tables; tests that need it skip where it is absent."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("UNIDINO_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"real data are not at {folder} (set UNIDINO_DATA)")
    return folder


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone file small enough for whole-plate tests: 32 px tiles, 64 features."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    module = timm.create_model(
        "vit_small_patch16_224",
        in_chans=1,
        img_size=32,
        embed_dim=64,
        depth=2,
        num_heads=1,
        num_classes=0,
    )
    torch.save(module.state_dict(), folder / "flat.pth")
    save_backbone(open_backbone(folder / "flat.pth"), folder / "tiny.safetensors")
    return folder / "tiny.safetensors"


@pytest.fixture(scope="session")
def small_plate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pl.DataFrame]:
    """A simulated plate of 2 x 3 wells, 2 fields of 70 x 100 px, 3 channels; and its platemap."""
    path = tmp_path_factory.mktemp("plates") / "small.zarr"
    platemap = simulate_plate(
        path, rows=2, columns=3, n_fields=2, size=(70, 100), channels=("DNA", "ER", "Mito")
    )
    return path, platemap


@pytest.fixture(scope="session")
def plates() -> ModuleType:
    """`plate_factory.py`: in importlib mode, test modules cannot import one another."""
    path = Path(__file__).parent / "plate_factory.py"
    spec = importlib.util.spec_from_file_location("unidino_plate_factory", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
