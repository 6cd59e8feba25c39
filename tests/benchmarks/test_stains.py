"""Tiles of known stains, told apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

from unidino_fast.benchmarks.stains import PATTERN, Tiles, accuracy, main, read_tiles
from unidino_fast.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two wells in two stains, one of which is coarse and mostly dark."""
    folder = tmp_path_factory.mktemp("stains")
    rng = np.random.default_rng(0)
    for well in ("A1", "B2"):
        for stain, grain in (("DAPI", 1), ("GFP", 32)):
            values = rng.random((480 // grain, 704 // grain)) ** (1 if grain == 1 else 4)
            plane = (60_000 * values).astype(np.uint16)
            plane = np.kron(plane, np.ones((grain, grain), np.uint16))
            tifffile.imwrite(folder / f"{well}_01_1_1_{stain}_001.tif", plane)
    (folder / "README.txt").write_text("no image")
    return folder


def test_tiles_are_cut_from_the_top_left_and_stretched(folder: Path) -> None:
    tiles = read_tiles(folder, PATTERN)
    assert tiles.pixels.shape == (4 * 2 * 3, 224, 224)
    assert sorted(set(zip(tiles.field.tolist(), tiles.stain.tolist(), strict=True))) == [
        ("A1", "DAPI"),
        ("A1", "GFP"),
        ("B2", "DAPI"),
        ("B2", "GFP"),
    ]
    plane = tifffile.imread(folder / "A1_01_1_1_DAPI_001.tif").astype(np.float64)
    low, high = np.percentile(plane, (0.1, 99.9))
    wanted = np.clip((plane[224:448, 448:672] - low) / (high - low), 0, 1)
    np.testing.assert_allclose(tiles.pixels[5], wanted, atol=1e-5)


def test_accuracy_is_that_of_a_loop() -> None:
    rng = np.random.default_rng(5)
    field, stain = rng.choice(["A", "B", "C"], 40), rng.choice(["x", "y"], 40)
    features = rng.standard_normal((40, 6)) + (stain == "x")[:, None]
    median = np.median(features, axis=0)
    scaled = (features - median) / np.median(np.abs(features - median), axis=0)
    right = 0
    for query in range(40):
        others = [n for n in range(40) if field[n] != field[query]]
        cosines = [
            scaled[n] @ scaled[query] / np.linalg.norm(scaled[n]) / np.linalg.norm(scaled[query])
            for n in others
        ]
        right += stain[others[int(np.argmax(cosines))]] == stain[query]
    tiles = Tiles(np.empty((40, 1, 1), np.float32), field, stain)
    assert accuracy(features, tiles) == pytest.approx(right / 40)


def test_weights_stand_beside_statistics_and_random_ones(
    folder: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(folder), str(tiny_weights)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "24 tiles of 2 stains"
    assert float(lines[1].removeprefix("intensity statistics: ")) > 0.9  # by chance 0.5
    assert lines[2].startswith(f"{tiny_weights}: ")
    assert lines[3].startswith("random ViT, same size: ")


def test_names_that_fit_nothing(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"no image in .* fits pattern"):
        read_tiles(folder, "(?P<field>Q)(?P<stain>Q)")
