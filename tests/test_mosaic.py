"""Plates of one stitched image a well, with a table of its fields."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from unidino_fast.plate import open_plate
from unidino_fast.plate_model import Region
from unidino_fast.reading import FieldReader

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


V3 = {"zarr_format": 3, "ngff": "0.5"}


ROIS = {
    "FOV_1": (0.0, 0.0, 13.0, 19.5),
    "FOV_2": (13.0, 0.0, 13.0, 19.5),
    "FOV_3": (0.0, 19.5, 26.0, 13.0),
}


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_mosaic_is_split_into_its_fields(
    zarr_format: int, plates: ModuleType, tmp_path: Path
) -> None:
    """Site `1`, so that it can be mistaken for the column of well A/1."""
    ngff = {2: "0.4", 3: "0.5"}[zarr_format]
    written = plates.write_plate(tmp_path / "p", {"A/1": ["1"]}, zarr_format=zarr_format, ngff=ngff)
    plates.write_roi_table(tmp_path / "p/A/1/1", zarr_format, ROIS)
    plate = open_plate(tmp_path / "p", strict=True)
    [well] = plate.wells
    assert plate.warnings == ()
    assert [field.site for field in well.fields] == ["1/FOV_1", "1/FOV_2", "1/FOV_3"]
    assert [field.region for field in well.fields] == [
        Region(0, 0, 20, 30), Region(20, 0, 20, 30), Region(0, 30, 40, 20),
    ]  # fmt: skip
    reader = FieldReader(plate.storage)
    for field in well.fields:
        y, x, h, w = (getattr(field.region, name) for name in ("y", "x", "height", "width"))
        read = reader.read(field, time=0, channels=(0, 1, 2), z="max")
        np.testing.assert_array_equal(read, written["A/1/1"][:, y : y + h, x : x + w])
    plates.write_roi_table(tmp_path / "p/A/1/1", zarr_format, {"FOV_1": ROIS["FOV_1"]})
    assert open_plate(tmp_path / "p").digest != plate.digest


def test_a_mosaic_table_in_csv(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]}, **V3)
    table = tmp_path / "p/A/1/0/tables/FOV_ROI_table"
    attributes = {"type": "roi_table", "backend": "csv", "index_key": "FieldIndex"}
    document = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    plates.write_json(table / "zarr.json", document)
    (table / "table.csv").write_text(
        "FieldIndex,x_micrometer,y_micrometer,len_x_micrometer,len_y_micrometer\n"
        "FOV_1,0.0,0.0,13.0,6.5\n"
    )
    assert [f.region for f in open_plate(tmp_path / "p").fields] == [Region(0, 0, 10, 20)]


def test_each_acquisition_may_be_a_mosaic(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p", {"A/1": [("0", 0), ("1", 1)]})
    for site in ("0", "1"):
        plates.write_roi_table(tmp_path / "p/A/1" / site, 2, ROIS)
    sites = [field.site for field in open_plate(tmp_path / "p").fields]
    assert sites == [f"{site}/{name}" for site in "01" for name in ROIS]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ({"F": (0.0, 0.0, 99.0, 13.0)}, "field F lies outside the image"),
        ({"F": (-5.0, 0.0, 13.0, 13.0)}, "field F has no place"),
        ({"F": (float("nan"), 0.0, 13.0, 13.0)}, "cannot convert float NaN"),
        ({"F": (0.0, 0.0, float("inf"), 13.0)}, "cannot convert float infinity"),
    ],
)
def test_a_table_that_does_not_fit_leaves_the_image_whole(
    rows: Any, reason: str, plates: ModuleType, tmp_path: Path
) -> None:
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]})
    plates.write_roi_table(tmp_path / "p/A/1/0", 2, rows)
    plate = open_plate(tmp_path / "p")
    [field] = plate.fields
    assert (field.site, field.region) == ("0", None)
    [warning] = plate.warnings
    assert warning.startswith("A/1/0/tables/FOV_ROI_table cannot be used (")
    assert reason in warning
    assert warning.isprintable()


def test_a_broken_table_leaves_the_image_whole(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p", {"A/1": ["0"], "A/2": ["0"]}, pixel_size=None)
    plates.write_roi_table(tmp_path / "p/A/1/0", 2, ROIS)
    plates.write_roi_table(tmp_path / "p/A/2/0", 2, ROIS)
    shutil.rmtree(tmp_path / "p/A/2/0/tables/FOV_ROI_table/X")
    plate = open_plate(tmp_path / "p")
    assert [field.region for field in plate.fields] == [None, None]
    assert "the image has no pixel size" in plate.warnings[0]
    assert len(plate.warnings) == 2


def test_fractal(plates: ModuleType, tmp_path: Path) -> None:
    """0.4: one mosaic a well in `0`, zero-padded columns, `tables` with their own list."""
    written = plates.write_plate(tmp_path / "p.zarr", {"B/03": [("0", 0)]}, axes="czyx",
                                 sizes={"z": 1}, chunks=(1, 1, 20, 30))  # fmt: skip
    plates.write_roi_table(tmp_path / "p.zarr/B/03/0", 2, ROIS)
    plates.write_roi_table(tmp_path / "p.zarr/B/03/0", 2, {"well_1": (0, 0, 20, 20)},
                           table="well_ROI_table")  # fmt: skip
    tables = {"tables": ["FOV_ROI_table", "well_ROI_table"]}
    plates.write_json(tmp_path / "p.zarr/B/03/0/tables/.zattrs", tables)
    plate = open_plate(tmp_path / "p.zarr", strict=True)
    assert [(w.name, len(w.fields)) for w in plate.wells] == [("B03", 3)]
    reader = FieldReader(plate.storage)
    read = reader.read(plate.fields[1], time=0, channels=(2,), z="mean")
    np.testing.assert_array_equal(read, written["B/03/0"][2:, 0, 20:40, 0:30])
