"""Small image folders with known pixels, and a reader that shares nothing with the package."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import zarr


def pixels_for(seed, shape=(17, 23), dtype="uint16"):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def write_tiff(path, pixels, **options):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, pixels, **{"photometric": "minisblack", **options})
    return pixels


def read_field(plate, well, field, level=0):
    return np.asarray(zarr.open_array(str(Path(plate) / well / field / str(level)), mode="r")[...])


def attributes(path):
    """Attributes of a group, the `ome` of NGFF 0.5 taken off."""
    found = dict(zarr.open_group(str(path), mode="r").attrs)
    return found.get("ome", found)


@pytest.fixture
def kit():
    return SimpleNamespace(
        pixels=pixels_for, write=write_tiff, read=read_field, attributes=attributes
    )


@pytest.fixture
def opera(tmp_path):
    """2 wells x 2 fields x 3 channels (ch1, ch2, ch10) with Harmony names: folder and pixels."""
    folder = tmp_path / "MyPlate__2024-01-02T03_04_05-Measurement 1" / "Images"
    truth = {}
    for row, column in ((1, 1), (2, 12)):
        for site in (1, 3):
            for channel in (1, 2, 10):
                name = f"r{row:02d}c{column:02d}f{site:02d}p01-ch{channel}sk1fk1fl1.tiff"
                truth[row, column, site, channel] = write_tiff(
                    folder / name, pixels_for(len(truth))
                )
    return SimpleNamespace(folder=folder, truth=truth)
