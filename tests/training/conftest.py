"""A training small enough for seconds: 32 px views, one block, images of random blobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pytest
import tifffile

from unidino_fast.training.config import TrainConfig, parse_config
from unidino_fast.training.loop import train

if TYPE_CHECKING:
    from pathlib import Path


class MakeConfig(Protocol):
    def __call__(self, **changes: Any) -> TrainConfig: ...


def blobs(generator: np.random.Generator, shape: tuple[int, int], top: int) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.full(shape, 0.05)
    for _ in range(6):
        cy, cx = generator.random(2) * shape
        image += np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * generator.uniform(2, 6) ** 2))
    return np.minimum(image / image.max() * top, top)


@pytest.fixture(scope="session")
def image_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`small`: 5 images of 8 bits; `large`: 9 images of 16 bits, and a thumbnail."""
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(5)
    kinds: dict[str, tuple[int, tuple[int, int], Any]] = {
        "small": (5, (40, 51), np.uint8),
        "large": (9, (48, 37), np.uint16),
    }
    for name, (count, shape, dtype) in kinds.items():
        (root / name / "deep").mkdir(parents=True)
        for index in range(count):
            image = blobs(generator, shape, np.iinfo(dtype).max).astype(dtype)
            tifffile.imwrite(root / name / "deep" / f"{index}.tif", image)
    tifffile.imwrite(root / "large" / "0_thumb.tif", np.zeros((40, 40), np.uint8))
    return {name: root / name for name in kinds}


@pytest.fixture
def make_config(image_folders: dict[str, Path]) -> MakeConfig:
    """A run on the two folders; `changes` go into the document by `section__key`."""

    def make(**changes: Any) -> TrainConfig:
        document: dict[str, Any] = {
            "name": "tiny",
            "data": [{"name": name, "path": str(path)} for name, path in image_folders.items()],
            "model": {"dim": 64, "depth": 2, "heads": 1, "patch": 8, "mlp_ratio": 2},
            "views": {"global_size": 32, "local_size": 16, "n_local": 2},
            "dino": {
                "out_dim": 32,
                "hidden_dim": 48,
                "bottleneck_dim": 16,
                "teacher_temperature_epochs": 2,
                "freeze_last_layer_epochs": 1,
                "teacher_momentum": 0.9,
            },
            "optim": {"epochs": 2, "batch": 6, "warmup_epochs": 1, "lr": 0.05},
            "machine": {"device": "cpu", "log_steps": 2},
        }
        for key, value in changes.items():
            section, _, name = key.rpartition("__")
            (document.setdefault(section, {}) if section else document)[name] = value
        return parse_config(document)

    return make


@pytest.fixture
def whole(make_config: MakeConfig, tmp_path: Path) -> Path:
    """A run of 6 steps in one go, with stochastic depth."""
    train(make_config(), tmp_path / "whole")
    return tmp_path / "whole"


@pytest.fixture(scope="session")
def labelled_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images `PLATE/WELL_LABEL_FIELD.tif`: 3 perturbations in 2 wells of each of 2 plates.

    A perturbation is how bright the images are, under blobs that each has to itself.
    """
    root = tmp_path_factory.mktemp("labelled")
    generator = np.random.default_rng(7)
    levels = {"dmso": 0.1, "a": 0.4, "b": 0.8}
    for plate in ("p1", "p2"):
        (root / plate).mkdir()
        for row, (label, level) in zip("ABC", levels.items(), strict=True):
            for well in ("01", "02"):
                for field in range(2):
                    image = 255 * level + 0.2 * blobs(generator, (40, 44), 255)
                    name = f"{row}{well}_{label}_{field}.tif"
                    tifffile.imwrite(root / plate / name, image.astype(np.uint8))
    return root


@pytest.fixture
def make_labelled(make_config: MakeConfig, labelled_folder: Path) -> MakeConfig:
    """`make_config` for labelled images and the method that needs them."""
    data = {
        "name": "labelled",
        "path": str(labelled_folder),
        "pattern": r"^(?P<plate>p\d)/(?P<well>[A-C]\d\d)_(?P<label>[a-z]+)_",
    }

    def make(**changes: Any) -> TrainConfig:
        small = {"hidden_dim": 32, "out_dim": 16}
        given = {"method": "supcon", "data": [data], "supcon": small, **changes}
        return make_config(**given)

    return make
