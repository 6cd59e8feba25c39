"""What `info` says of plates, sound and odd."""

from __future__ import annotations

import json
import shutil
import zipfile
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pytest

from unidino_fast.errors import UsageError
from unidino_fast.info import describe, render, validate
from unidino_fast.plate import open_plate
from unidino_fast.writing import PlateWriter

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

V3 = {"zarr_format": 3, "ngff": "0.5"}


def lines_of(facts: dict[str, Any]) -> dict[str, str]:
    return {line[:12].strip(): line[13:] for line in render(facts).splitlines()}


def test_a_sound_plate(plates: ModuleType, tmp_path: Path) -> None:
    wells = {"A/1": ["0", "1"], "C/12": ["0", "1"]}
    written = plates.write_plate(tmp_path / "p", wells, sizes={"y": 300, "x": 500})
    facts = describe(open_plate(tmp_path / "p"))
    assert json.loads(json.dumps(facts)) == facts
    stored = sum(
        f.stat().st_size for f in (tmp_path / "p").rglob("*") if f.is_file() and f.name.isdigit()
    )
    expected = {
        "name": "plate one", "ngff_version": "0.4", "zarr_format": 2, "n_wells": 2,
        "rows": ["A", "C"], "columns": [1, 12], "n_fields": 4, "fields_per_well": [2, 2],
        "channels": ["DNA", "ER", "AGP"], "pixel_size_um": 0.65, "image_size": [[300, 500]],
        "n_z": [1], "n_timepoints": [1], "dtype": ["uint16"], "axes": ["cyx"],
        "chunks": [[1, 300, 500]], "shards": [], "codec": ["blosc-zstd"], "tiles_per_field": [2],
        "pixel_bytes": sum(pixels.nbytes for pixels in written.values()), "stored_bytes": stored,
        "n_chunks": 12, "absent_chunks": 0, "acquisitions": [], "missing": [], "warnings": [],
    }  # fmt: skip
    assert facts == {**expected, "location": str(tmp_path / "p")}
    lines = lines_of(facts)
    assert lines["plate"] == "plate one  (NGFF 0.4, Zarr v2)"
    assert lines["wells"] == "2  (rows A-C, columns 1-12)"
    assert lines["image"] == "300 x 500 px, uint16"
    assert lines["chunks"] == "1 x 300 x 500 (cyx), blosc-zstd"
    assert lines["sound"] == "nothing is missing or odd"
    assert "z planes" not in lines
    assert "shards" not in lines


def test_fields_that_differ(plates: ModuleType, tmp_path: Path) -> None:
    layout = plates.Layout
    wells = {
        "A/1": [("0", None, layout()), ("1", None, layout())],
        "A/2": [("0", None, layout(axes="tczyx", dtype="|u1", codec="zstd", labels=None))],
        "AA/1": [("0", None, layout(sizes={"y": 9, "x": 9}, pixel_size=None))],
    }
    plates.write_plate(tmp_path / "p", wells, name=None)
    facts = describe(open_plate(tmp_path / "p"))
    assert facts["rows"] == ["A", "AA"]
    assert facts["image_size"] == [[45, 51], [9, 9]]
    assert (facts["n_z"], facts["n_timepoints"], facts["dtype"]) == (
        [1, 4],
        [1, 2],
        ["uint16", "uint8"],
    )
    lines = lines_of(facts)
    assert lines["fields"] == "4  (1 to 2 a well)"
    assert lines["image"] == "45 x 51 or 9 x 9 px, uint16 or uint8"
    assert lines["z planes"] == "1 or 4"
    assert lines["channels"] == "6  (DNA, ER, AGP, ch0, ch1, ch2)"


@pytest.mark.parametrize(
    "layout",
    [
        {}, {"separator": "."}, {**V3}, {**V3, "separator": "."}, {**V3, "v2_keys": True},
        {**V3, "chunks": (1, 15, 17), "shards": (1, 45, 51)},
    ],
)  # fmt: skip
def test_absent_chunks_are_counted(
    layout: dict[str, Any], plates: ModuleType, tmp_path: Path
) -> None:
    plates.write_plate(tmp_path / "p", {"A/1": ["0", "1"]}, **layout, absent=((1, 0, 0),))
    (tmp_path / "p/A/1/0/0/.DS_Store").write_bytes(b"junk")
    facts = describe(open_plate(tmp_path / "p"))
    assert (facts["n_chunks"], facts["absent_chunks"]) == (6, 2)
    assert lines_of(facts)["absent"].startswith("2 of 6 ")
    assert "sound" not in lines_of(facts)


def test_shards_and_unknowns(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]}, **V3, pixel_size=None, codec="none",
                       chunks=(1, 15, 17), shards=(3, 45, 51))  # fmt: skip
    lines = lines_of(describe(open_plate(tmp_path / "p")))
    assert lines["shards"] == "3 x 45 x 51"
    assert lines["chunks"] == "1 x 15 x 17 (cyx), none"
    assert lines["pixel size"] == "unknown"


def test_what_is_missing_is_listed_briefly(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p", {"A/1": [str(i) for i in range(20)]})
    for i in range(1, 20):
        shutil.rmtree(tmp_path / f"p/A/1/{i}")
    facts = describe(open_plate(tmp_path / "p"))
    assert len(facts["missing"]) == 19
    text = render(facts)
    assert text.count("missing ") == 10
    assert "and 9 more: --json lists them all" in text


def test_a_zip_is_described_like_its_folder(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p", **V3, absent=((0, 0, 0),))
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as file:
        for path in sorted((tmp_path / "p").rglob("*")):
            file.write(path, path.relative_to(tmp_path / "p"))
    facts, of_zip = (describe(open_plate(tmp_path / name)) for name in ("p", "p.zip"))
    assert {k for k in facts if facts[k] != of_zip[k]} == {"location"}


def test_a_plate_that_cannot_be_listed(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p", {"A/1": ["0", "1"]})
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "p"), "/info/p.zarr", recursive=True)
    try:
        plate = open_plate("memory://info/p.zarr")
        facts, fault = describe(plate), validate(plate)
    finally:
        memory.rm("/info", recursive=True)
    assert (facts["stored_bytes"], facts["absent_chunks"], facts["n_chunks"]) == (None, None, 6)
    assert lines_of(facts)["sound"].startswith("nothing is missing or odd (chunks were not counted")
    assert lines_of(facts)["bytes"] == "27.5 KB of pixels"
    assert fault is not None  # no version in `well`, no window in `omero`
    assert "\n" not in fault


def test_absurd_sizes_are_described(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p", {"A/1": ["0", "1"]})
    huge = {"shape": [3, 2**62, 2**62], "chunks": [1, 1, 1]}
    plates.edit_json(tmp_path / "p/A/1/0/0/.zarray", lambda d: d.update(huge))
    assert "chunks" in render(describe(open_plate(tmp_path / "p")))


def write_own(path: Path, ngff: Any) -> None:
    with PlateWriter(
        path, name="own", channels=["DNA", "ER"], ngff=ngff, pixel_size_um=0.5
    ) as plate:
        for well in ("A01", "B02"):
            plate.add_field(well, "0", np.ones((2, 16, 16), np.uint16))


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
def test_the_strict_validator_passes_what_we_write(ngff: str, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "own.zarr"
    write_own(path, ngff)
    if zipped:
        with zipfile.ZipFile(tmp_path / "own.zip", "w") as file:
            for part in sorted(path.rglob("*")):
                file.write(part, part.relative_to(tmp_path))
        path = tmp_path / "own.zip"
    assert validate(open_plate(path)) is None


@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
def test_the_strict_validator_says_what_is_broken(
    ngff: str, plates: ModuleType, tmp_path: Path
) -> None:
    write_own(tmp_path / "own.zarr", ngff)

    def change(document: dict[str, Any]) -> None:
        plate = (document["attributes"]["ome"] if ngff == "0.5" else document)["plate"]
        del plate["rows"]

    name = "zarr.json" if ngff == "0.5" else ".zattrs"
    plates.edit_json(tmp_path / "own.zarr" / name, change)
    fault = validate(open_plate(tmp_path / "own.zarr"))
    assert fault is not None
    assert "rows" in fault
    assert "\n" not in fault


def test_the_strict_validator_knows_two_versions(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p", ngff="0.3")
    with pytest.raises(UsageError, match=r"--validate knows NGFF 0.4 and 0.5, not 0.3"):
        validate(open_plate(tmp_path / "p"))
