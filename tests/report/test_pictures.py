"""Pictures: the plate's pixels, as small as they must be, in the contrast of the embedding."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import pytest
import torch
from report_tables import on_pixels, table

import unidino_fast as uf
from unidino_fast.preprocess import tiles_of
from unidino_fast.report import pictures
from unidino_fast.report.gather import read_results
from unidino_fast.simulate import simulate_plate

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("edge", [7, 16, 40, 500])
def test_shrunk_pixels_are_means_of_blocks(edge):
    planes = np.random.default_rng(0).integers(0, 65536, (2, 61, 40), dtype=np.uint16)
    small = pictures.shrink(planes, edge)
    assert max(small.shape[1:]) == min(edge, 61)
    _, rows, columns = small.shape
    for row in range(rows):
        for column in range(columns):
            y = slice(row * 61 // rows, (row + 1) * 61 // rows)
            x = slice(column * 40 // columns, (column + 1) * 40 // columns)
            assert small[:, row, column] == pytest.approx(planes[:, y, x].mean(axis=(1, 2)))


@pytest.mark.parametrize("intensity", ["dtype", "percentile"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_contrast_is_that_of_the_embedding(intensity, dtype):
    """At full size a picture is the tile that the network gets, but for eight bits."""
    rng = np.random.default_rng(0)
    planes = rng.gamma(2, 0.08, (2, 64, 64)).clip(0, 1)
    if dtype != np.float32:
        planes = planes * np.iinfo(dtype).max
    planes = planes.astype(dtype)
    tile = tiles_of(torch.from_numpy(planes), intensity, tile=64, stride=64)[:, 0].numpy()
    found = pictures.as_embedded(planes, intensity, 64)
    assert np.abs(found / 255 - tile).max() <= 0.5 / 255 + 1e-6


@pytest.fixture
def plate(tmp_path: Path) -> Path:
    """A plate of 2 x 3 wells, two fields each, and results that name it."""
    simulate_plate(
        tmp_path / "P1.zarr", rows=2, columns=3, n_fields=2, size=(64, 96), channels=("DNA", "ER")
    )
    on_pixels(tmp_path / "out" / "P1", tmp_path / "P1.zarr", table(rows=2, columns=3))
    return tmp_path / "P1.zarr"


def test_each_field_and_channel_is_there(plate):
    taken = pictures.take_pictures(read_results(plate.parent / "out" / "P1"), ())
    held = taken.document
    assert sorted(held["wells"]) == ["A01", "A02", "A03", "B01", "B02", "B03"]
    assert [field["site"] for field in held["wells"]["A01"]] == ["0", "1"]
    assert [channel for channel, _ in held["wells"]["A01"][0]["shots"]] == [0, 1]
    assert held["grid"] == {"tile": 32, "stride": 32}
    assert "maximum of the stored type" in held["note"]
    data = base64.b64decode(held["wells"]["B03"][1]["shots"][1][1])
    shown = imagecodecs.webp_decode(data)[..., 0]
    field = uf.open_plate(plate).wells[5].fields[1]
    from unidino_fast.reading import FieldReader

    pixels = FieldReader(uf.open_plate(plate).storage).read(field, time=0, channels=[1], z="max")
    expected = pictures.as_embedded(pixels, "dtype", 256)[0]
    assert shown.shape == expected.shape
    assert np.abs(shown.astype(float) - expected).mean() < 4  # WebP is lossy


def test_fields_and_edge_follow_from_budgets(plate, monkeypatch):
    monkeypatch.setattr(pictures, "_MOST_PIXELS", 6 * 2 * 64 * 96)
    results = read_results(plate.parent / "out" / "P1")
    held = pictures.take_pictures(results, ()).document
    assert all(len(fields) == 1 for fields in held["wells"].values())
    assert "6 of the plate's 12 fields are shown" in held["note"]
    monkeypatch.setattr(pictures, "_MOST_BYTES", 6 * 2 * 420)
    held = pictures.take_pictures(results, ()).document
    shots = [shot for fields in held["wells"].values() for f in fields for _, shot in f["shots"]]
    assert sum(len(base64.b64decode(shot)) for shot in shots) <= 6 * 2 * 420


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda plate: plate.rename(plate.parent / "gone"), "say where it is by --plate"),
        (
            lambda plate: (plate / ".zattrs").write_text(
                (plate / ".zattrs").read_text().replace("0.4", "0.3")
            ),
            "has changed since it was embedded",
        ),
    ],
)
def test_a_plate_that_is_not_there_is_said_in_one_line(plate, change, reason):
    change(plate)
    taken = pictures.take_pictures(read_results(plate.parent / "out" / "P1"), ())
    assert taken.document is None
    assert reason in taken.reason
    assert "\n" not in taken.reason


def test_a_plate_can_be_found_elsewhere(plate):
    moved = plate.rename(plate.parent / "moved.zarr")
    results = read_results(plate.parent / "out" / "P1")
    assert pictures.take_pictures(results, [str(moved)]).document is not None


def test_a_broken_chunk_leaves_one_field_out(plate):
    [chunk, *_] = sorted(
        path for path in (plate / "A" / "1" / "0" / "0").rglob("0") if path.is_file()
    )
    chunk.write_bytes(b"nonsense")
    taken = pictures.take_pictures(read_results(plate.parent / "out" / "P1"), ())
    assert len(taken.document["wells"]["A01"]) == 1
    assert any(line.startswith("no picture of A01/0") for line in taken.warnings)


def test_nearly_black_channels_are_said(plate):
    taken = pictures.take_pictures(read_results(plate.parent / "out" / "P1"), ())
    bright = {channel: [] for channel in ("DNA", "ER")}
    opened = uf.open_plate(plate)
    from unidino_fast.reading import FieldReader

    for field in opened.fields:
        pixels = FieldReader(opened.storage).read(field, time=0, channels=[0, 1], z="max")
        for channel, plane in zip(bright, pixels, strict=True):
            bright[channel].append(np.percentile(plane, 99) / 65535)
    for channel, values in bright.items():
        said = any(f"channel {channel} uses less" in line for line in taken.warnings)
        assert said == (np.median(values) < 0.04)
