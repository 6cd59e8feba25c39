"""Datasets: crops are the pixels that were written, and no more is decoded than they need."""

from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile

from unidino_fast.errors import TrainingError
from unidino_fast.storage import FolderStorage
from unidino_fast.training.config import SourceConfig
from unidino_fast.training.sources import Box, Source, open_source
from unidino_fast.training.survey import survey

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

BOXES = [Box(0, 0, 16), Box(3, 7, 16), Box(29, 35, 16), Box(5, 5, 8), Box(5, 5, 8)]
"""Within 45 x 51 px; the third ends at the image's corner."""


def opened(path: Path, smallest: int = 16, **more: Any) -> Source:
    config = SourceConfig(name="d", path=str(path), **more)
    return open_source(config, smallest=smallest, cache_bytes=10**6)


@pytest.mark.parametrize("layout", [{}, {"zarr_format": 3, "ngff": "0.5"}, {"axes": "tczyx"}])
def test_crops_of_a_plate(layout: dict[str, Any], plates: ModuleType, tmp_path: Path) -> None:
    written = plates.write_plate(tmp_path / "p", {"A/1": ["0", "1"]}, chunks=None, **layout)
    source = pickle.loads(pickle.dumps(opened(tmp_path / "p")))  # as a worker gets it
    seen = set()
    for index in range(len(source)):
        crops = source.crops(index, BOXES)
        whole = next(  # the plane that it is, found by its first crop
            (key, place, plane)
            for key, pixels in written.items()
            for place, plane in planes_of(pixels)
            if np.array_equal(plane[:16, :16], crops[0])
        )
        seen.add(whole[:2])
        for box, crop in zip(BOXES, crops, strict=True):
            part = whole[2][box.y : box.y + box.size, box.x : box.x + box.size]
            np.testing.assert_array_equal(crop, part)
    n_times = 2 if "t" in layout.get("axes", "") else 1
    assert len(seen) == len(source) == 2 * 3 * n_times


def planes_of(pixels: np.ndarray) -> list[tuple[tuple[int, ...], np.ndarray]]:
    """Planes (time and channel, pixels), the maximum along z."""
    if pixels.ndim == 3:
        return [((c,), pixels[c]) for c in range(len(pixels))]
    flat = pixels.max(axis=2)
    return [((t, c), flat[t, c]) for t in range(flat.shape[0]) for c in range(flat.shape[1])]


def test_only_touched_chunks_are_read(
    plates: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]}, chunks=(1, 10, 10))
    source = opened(tmp_path / "p")
    keys: list[str] = []
    grab, fetch = FolderStorage.grab, FolderStorage.fetch

    def grabbed(self: FolderStorage, key: str, *others: Any) -> Any:
        keys.append(key)
        return grab(self, key, *others)

    def fetched(self: FolderStorage, key: str, *others: Any) -> Any:
        keys.append(key)
        return fetch(self, key, *others)

    monkeypatch.setattr(source._storage, "files", None)  # else compiled code reads them
    monkeypatch.setattr(FolderStorage, "grab", grabbed)
    monkeypatch.setattr(FolderStorage, "fetch", fetched)
    boxes = [Box(4, 9, 12), Box(0, 12, 16), Box(29, 35, 16)]
    source.crops(1, boxes)
    touched = {
        f"A/1/0/0/1/{y // 10}/{x // 10}"
        for box in boxes
        for y in range(box.y, box.y + box.size)
        for x in range(box.x, box.x + box.size)
    }
    assert sorted(keys) == sorted(touched)  # each once


def test_channels_of_a_plate(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]})
    source = opened(tmp_path / "p", channels=("ER",))
    assert len(source) == 1
    assert "channel ER" in source.describe(0)
    with pytest.raises(TrainingError, match="dataset d: channel 'XY' is not in plate plate one"):
        opened(tmp_path / "p", channels=("XY",))


def test_crops_of_images(image_folders: dict[str, Path]) -> None:
    source = pickle.loads(pickle.dumps(opened(image_folders["large"])))
    assert len(source) == 9  # the thumbnail is left out
    for index in range(9):
        whole = tifffile.imread(image_folders["large"] / "deep" / f"{index}.tif")
        for _ in range(2):  # decoded, then kept
            [crop] = source.crops(index, [Box(5, 3, 16)])
            np.testing.assert_array_equal(crop, whole[5:21, 3:19])
        assert source.shape(index) == whole.shape


@pytest.mark.parametrize("kind", ["plate", "images"])
def test_bounds_of_both_intensities(kind: str, plates: ModuleType, tmp_path: Path) -> None:
    pixels = plates.write_plate(tmp_path / "p", {"A/1": ["0"]})["A/1/0"]
    (tmp_path / "i").mkdir()
    for channel in range(3):
        tifffile.imwrite(tmp_path / "i" / f"{channel}.tif", pixels[channel])
    path = tmp_path / {"plate": "p", "images": "i"}[kind]
    assert opened(path).bounds(1) == (0.0, 65535.0)
    low, high = np.percentile(pixels[1], [0.1, 99.9])
    # numpy's percentiles; the epsilon of the stretch is far below a grey level
    assert opened(path, intensity="percentile").bounds(1) == pytest.approx((low, high - low))


def test_small_images_are_counted_and_small_datasets_refused(tmp_path: Path) -> None:
    for index, size in enumerate((20, 40, 12)):
        image = np.arange(size * size, dtype=np.uint16).reshape(size, size) * 30
        tifffile.imwrite(tmp_path / f"{index}.tif", image)
    source = opened(tmp_path, smallest=16)
    assert (len(source), source.n_small) == (2, 1)
    [line] = survey([source], size=16)
    assert line == "dataset d: 1 of 3 images are smaller than 16 x 16 px and left out"
    with pytest.raises(TrainingError, match=r"dataset d at .* is too small: none of its 3 images"):
        opened(tmp_path, smallest=50)


def test_dark_datasets_are_named(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for index in range(3):
        image = generator.integers(0, 900, (20, 20), dtype=np.uint16)
        tifffile.imwrite(tmp_path / f"{index}.tif", image)
    [line] = survey([opened(tmp_path)], size=16)
    assert line.startswith("dataset d is dark: its brightest pixels reach 1.3")
    assert 'intensity = "percentile"' in line
    assert survey([opened(tmp_path, intensity="percentile")], size=16) == []
    for index in range(3):
        tifffile.imwrite(tmp_path / f"{index}.tif", np.full((20, 20), 7, np.uint16))
    with pytest.raises(
        TrainingError, match=r"dataset d is too dark: 3 of its images, such as .*0\.tif"
    ):
        survey([opened(tmp_path)], size=16)


@pytest.mark.parametrize(("low", "high"), [(0.0, 60_000.0), (-5.0, 0.5)])
def test_floating_point_pixels_beyond_the_range_are_named(
    low: float, high: float, tmp_path: Path
) -> None:
    """As `embed` refuses them: they would be clipped to one value."""
    image = np.linspace(low, high, 400, dtype=np.float32).reshape(20, 20)
    tifffile.imwrite(tmp_path / "a.tif", image)
    with pytest.raises(
        TrainingError, match=r"dataset d: floating-point .*a\.tif run from"
    ) as caught:
        survey([opened(tmp_path)], size=16)
    assert f"run from {low:g} to {high:g}" in str(caught.value)
    assert survey([opened(tmp_path, intensity="percentile")], size=16) == []


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.ones((20, 20), np.uint8))
    os.mkfifo(tmp_path / "pipe.tif")  # would be waited for
    assert len(opened(tmp_path)) == 1
    (tmp_path / "b.tif").symlink_to(tmp_path / "gone.tif")
    with pytest.raises(TrainingError, match=r"dataset d: .*b\.tif cannot be read as an image"):
        opened(tmp_path)


def test_channels_of_images_are_refused(image_folders: dict[str, Path]) -> None:
    with pytest.raises(TrainingError, match="dataset d: channels DNA are asked for, but a folder"):
        opened(image_folders["small"], channels=("DNA",))


def test_nan_is_named(tmp_path: Path) -> None:
    image = np.ones((20, 20), np.float32)
    image[3, 4] = np.nan
    tifffile.imwrite(tmp_path / "a.tif", image)
    with pytest.raises(TrainingError, match=r"dataset d: .*a\.tif holds NaN or infinite pixels"):
        survey([opened(tmp_path)], size=16)


def test_unreadable_datasets_are_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"dataset d: .*none is no folder"):
        opened(tmp_path / "none")
    with pytest.raises(TrainingError, match="dataset d: no TIFF or PNG file in"):
        opened(tmp_path)
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(TrainingError, match=r"dataset d: .*bad\.png cannot be read as an image"):
        opened(tmp_path)
    with pytest.raises(TrainingError, match=r"dataset d: .*not an OME-Zarr plate"):
        opened(tmp_path, kind="plate")
