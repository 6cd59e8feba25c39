"""Opening plates as they are found: layouts, faults, and how much is read for it."""

from __future__ import annotations

import json
import shutil
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unidino_fast.errors import PlateError, UnidinoError, UsageError
from unidino_fast.plate import open_plate
from unidino_fast.plate_model import Region
from unidino_fast.plate_reader import unique_labels
from unidino_fast.reading import FieldReader
from unidino_fast.storage import FolderStorage

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from unidino_fast.plate_model import Plate

V3 = {"zarr_format": 3, "ngff": "0.5"}
NAMELESS = {"axes": "tczyx", "axes_style": "none", "pixel_size": None}
VERSIONS: dict[str, dict[str, Any]] = {
    "0.1": {**NAMELESS, "ngff": "0.1", "separator": "."},
    "0.2": {**NAMELESS, "ngff": "0.2"},
    "0.3": {"ngff": "0.3", "axes": "zcyx", "axes_style": "strings", "pixel_size": None},
    "0.4": {},
    "0.4-upper": {"axes": "tczyx", "axes_style": "upper"},
    "0.4-untyped": {"axes": "czyx", "axes_style": "untyped"},
    "0.5": V3,
    "0.6": {**V3, "ngff": "0.6", "axes_style": "systems", "dataset": "s0"},
    "0.6rc0": {**V3, "ngff": "0.6rc0", "axes": "tczyx", "axes_style": "systems"},
    "0.6.dev4": {**V3, "ngff": "0.6.dev4", "axes_style": "systems"},
}  # fmt: skip


def pixels_of(plate: Plate) -> dict[str, np.ndarray]:
    reader = FieldReader(plate.storage.zarr_store())
    return {
        field.array_path: reader.read(
            field, time=0, channels=tuple(range(field.length("c"))), z="max"
        )
        for field in plate.fields
    }


def refusal(location: Any, kind: type[UnidinoError] = PlateError, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        open_plate(location, **options)
    message = str(caught.value)
    assert message.isprintable(), message
    assert len(message) < 1000
    return message


@pytest.mark.parametrize("version", VERSIONS)
def test_versions(version: str, plates: ModuleType, tmp_path: Path) -> None:
    layout = plates.Layout(**VERSIONS[version])
    plates.write_plate(tmp_path / "p.zarr", {"A/1": ["0", "1"], "B/12": ["0"]}, layout)
    plate = open_plate(tmp_path / "p.zarr", strict=True)
    assert (plate.name, plate.ngff_version, plate.zarr_format) == (
        "plate one", layout.ngff, layout.zarr_format,
    )  # fmt: skip
    assert [(well.name, [field.site for field in well.fields]) for well in plate.wells] == [
        ("A01", ["0", "1"]), ("B12", ["0"]),
    ]  # fmt: skip
    assert plate.channels == ("DNA", "ER", "AGP")
    assert plate.pixel_size_um == layout.pixel_size
    assert {field.axes for field in plate.fields} == {layout.axes}
    assert (plate.missing, plate.warnings) == ((), ())
    assert plate.fields[0].length("z") == (4 if "z" in layout.axes else 1)


@pytest.mark.parametrize("version", ["0.7", "banana", None])
def test_an_unknown_version_is_read_with_a_warning(
    version: str | None, plates: ModuleType, tmp_path: Path
) -> None:
    plates.write_plate(tmp_path / "p", ngff=version)
    [warning] = open_plate(tmp_path / "p").warnings
    assert warning.startswith(f"NGFF version {version!r} is unknown")


@pytest.mark.parametrize("inside", ["plate", "p.zarr", "some name"])
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_plate_one_folder_down(
    inside: str, version: str, plates: ModuleType, tmp_path: Path
) -> None:
    root = tmp_path / "out"
    written = plates.write_plate(root / inside, None, **VERSIONS[version])
    (root / "OME").mkdir()
    (root / "OME" / "METADATA.ome.xml").write_text("<OME/>")
    plate = open_plate(root, strict=True)
    assert plate.root == inside
    read = pixels_of(plate)
    assert read.keys() == {f"{inside}/{path}/0" for path in written}
    for path, pixels in written.items():
        np.testing.assert_array_equal(read[f"{inside}/{path}/0"], pixels)


def test_two_plates_in_a_folder(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "one.zarr")
    plates.write_plate(tmp_path / "two.zarr")
    plates.write_plate(tmp_path / ".three.zarr.partial")
    assert "holds 2 plates: open one of one.zarr, two.zarr" in refusal(tmp_path)


def test_what_stands_beside_the_rows_does_not_count(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p")
    for name in ("OME", "tables", "A/99", "labels"):
        plates.write_json(tmp_path / "p" / name / ".zgroup", {"zarr_format": 2})
    plate = open_plate(tmp_path / "p", strict=True)
    assert [well.name for well in plate.wells] == ["A01", "B02"]


def test_well_paths_and_order(plates: ModuleType, tmp_path: Path) -> None:
    wells = {path: ["0"] for path in ("AA/12", "B/10", "B/02", "A/1", "b/3")}
    plates.write_plate(tmp_path / "p", wells)
    plate = open_plate(tmp_path / "p", strict=True)
    assert [well.name for well in plate.wells] == ["A01", "B02", "B03", "B10", "AA12"]
    assert [well.path for well in plate.wells] == ["A/1", "B/02", "b/3", "B/10", "AA/12"]
    assert (plate.wells[4].position.row, plate.wells[4].position.column) == (26, 12)


@pytest.mark.parametrize(
    ("path", "entry", "name"),
    [
        ("well_17", {"rowIndex": 1, "columnIndex": 2}, "B03"),
        ("row1/col2", {"rowIndex": 0, "columnIndex": 1}, "C07"),
        ("x/B05", {}, "B05"),
        ("D/4", {"rowIndex": 0, "columnIndex": 0}, "D04"),
    ],
)
def test_a_well_is_placed_by_path_or_by_index(
    path: str, entry: dict[str, int], name: str, plates: ModuleType, tmp_path: Path
) -> None:
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]})
    (tmp_path / "p" / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "p/A/1").rename(tmp_path / "p" / path)

    def change(document: dict[str, Any]) -> None:
        document["plate"]["wells"] = [{"path": path, **entry}]
        if path == "row1/col2":
            document["plate"]["rows"] = [{"name": "C"}]
            document["plate"]["columns"] = [{"name": "6"}, {"name": "7"}]
        else:
            document["plate"]["rows"] = document["plate"]["columns"] = []

    plates.edit_json(tmp_path / "p/.zattrs", change)
    assert [well.name for well in open_plate(tmp_path / "p").wells] == [name]


@pytest.mark.parametrize(
    "entry", [{"path": "well_1"}, {"path": "w", "rowIndex": -1, "columnIndex": 0},
              {"path": "w", "rowIndex": 10**9, "columnIndex": 0}],
)  # fmt: skip
def test_a_well_without_a_place(entry: Any, plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p")
    plates.edit_json(tmp_path / "p/.zattrs", lambda d: d["plate"]["wells"].append(entry))
    assert "is no well name and has no row and column index" in refusal(tmp_path / "p")


def test_field_paths_are_any_strings(plates: ModuleType, tmp_path: Path) -> None:
    sites = ["0", "fov0", "000000", "field 7", "10"]
    plates.write_plate(tmp_path / "p", {"A/1": sites}, labels=None)
    [well] = open_plate(tmp_path / "p", strict=True).wells
    assert [field.site for field in well.fields] == sites


def test_acquisitions(plates: ModuleType, tmp_path: Path) -> None:
    wells = {"A/1": [("0", 0), ("1", 0), ("2", 3)], "B/1": [("0", 0), ("1", 3)], "C/1": [("0", 0)]}
    plates.write_plate(tmp_path / "p", wells)
    plate = open_plate(tmp_path / "p")
    assert plate.acquisitions == (0, 3)
    assert [len(well.fields) for well in plate.wells] == [3, 2, 1]
    assert any("acquisitions 0, 3, all used" in warning for warning in plate.warnings)
    third = open_plate(tmp_path / "p", acquisition=3)
    assert [(well.name, [f.site for f in well.fields]) for well in third.wells] == [
        ("A01", ["2"]), ("B01", ["1"]),
    ]  # fmt: skip
    assert third.fields[0].acquisition == 3
    assert "acquisition 1 is not in the plate: it has 0, 3" in refusal(
        tmp_path / "p", UsageError, acquisition=1
    )
    plates.write_plate(tmp_path / "q")
    assert "it has none" in refusal(tmp_path / "q", UsageError, acquisition=0)


def test_wells_and_fields_that_are_absent(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p", {f"A/{c}": ["0", "1"] for c in (1, 2, 3, 4)})
    shutil.rmtree(tmp_path / "p/A/2")
    shutil.rmtree(tmp_path / "p/A/3/1")
    shutil.rmtree(tmp_path / "p/A/4/0/0")
    shutil.rmtree(tmp_path / "p/A/4/1/0")
    plate = open_plate(tmp_path / "p")
    assert [(well.name, len(well.fields)) for well in plate.wells] == [("A01", 2), ("A03", 1)]
    assert plate.missing == (
        "well A02 (A/2) is listed but absent",
        "field A03/1 (A/3/1) is listed but absent",
        "array of field A04/0 (A/4/0/0) is listed but absent",
        "array of field A04/1 (A/4/1/0) is listed but absent",
        "well A04 (A/4) has no readable field",
    )
    assert "well A02 (A/2) is listed but absent" in refusal(tmp_path / "p", strict=True)
    shutil.rmtree(tmp_path / "p/A")
    assert "has no readable well: well A01 (A/1) is listed but absent" in refusal(tmp_path / "p")


def test_an_empty_plate_or_well(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p", {"A/1": []})
    assert "well A01 (A/1) lists no field" in refusal(tmp_path / "p")
    plates.write_plate(tmp_path / "q", {})
    assert "its list of wells is empty" in refusal(tmp_path / "q")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_all_faults_are_raised_together(
    zarr_format: int, plates: ModuleType, tmp_path: Path
) -> None:
    ngff = {2: "0.4", 3: "0.5"}[zarr_format]
    group, array = {2: (".zattrs", ".zarray"), 3: ("zarr.json", "zarr.json")}[zarr_format]
    wells = {f"A/{column}": ["0", "1"] for column in range(1, 9)}
    plates.write_plate(tmp_path / "p", wells, zarr_format=zarr_format, ngff=ngff)
    (tmp_path / f"p/A/1/{group}").write_text("{not json")
    (tmp_path / f"p/A/2/0/{group}").write_text("[]")
    (tmp_path / f"p/A/3/0/0/{array}").write_text("null")
    (tmp_path / f"p/A/4/0/{group}").write_bytes(b"\xff\xfe{}")
    message = refusal(tmp_path / "p")
    assert "well A01: metadata at A/1: is not JSON" in message
    assert "field A02/0: metadata at A/2/0: is not a JSON object" in message
    assert message.endswith("; and 1 more")
    plate = open_plate(tmp_path / "p", on_error="skip")
    assert [(w.name, len(w.fields)) for w in plate.wells] == [
        ("A02", 1), ("A03", 1), ("A04", 1), ("A05", 2), ("A06", 2), ("A07", 2), ("A08", 2),
    ]  # fmt: skip
    assert len(plate.warnings) == 4
    assert "array of field A03/0: metadata at A/3/0/0: is not a JSON object" in plate.warnings


def test_metadata_that_cannot_be_read(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p")
    document = tmp_path / "p/A/1/.zattrs"
    document.unlink()
    document.symlink_to(document)
    assert "well A01: metadata at A/1: Too many levels of symbolic links" in refusal(tmp_path / "p")


PATHS = ["../..", "/etc", "A\\1", "https://x/y", "C:\\x", "..", "", "A/../../B", "x\ny", "\ud800"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("place", ["well", "image", "dataset"])
def test_paths_that_leave_the_plate(
    path: str, place: str, plates: ModuleType, tmp_path: Path
) -> None:
    plates.write_plate(tmp_path / "p", {"A/1": ["0"], "B/1": ["0"]})
    if place == "well":
        plates.edit_json(tmp_path / "p/.zattrs", lambda d: d["plate"]["wells"][0].update(path=path))
    elif place == "image":
        plates.edit_json(
            tmp_path / "p/A/1/.zattrs", lambda d: d["well"]["images"][0].update(path=path)
        )
    else:
        plates.edit_json(
            tmp_path / "p/A/1/0/.zattrs",
            lambda d: d["multiscales"][0]["datasets"][0].update(path=path),
        )
    assert "leaves the plate or names nothing: refused" in refusal(tmp_path / "p")
    assert [w.name for w in open_plate(tmp_path / "p", on_error="skip").wells] == ["B01"]


def test_wells_and_fields_listed_twice(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p")
    plates.edit_json(tmp_path / "p/.zattrs", lambda d: d["plate"]["wells"].append({"path": "A/01"}))
    plates.edit_json(
        tmp_path / "p/B/2/.zattrs", lambda d: d["well"]["images"].append({"path": "./0"})
    )
    message = refusal(tmp_path / "p")
    assert "well A01 is listed twice (A/1, A/01)" in message
    assert "well B02 (B/2) lists a field twice" in message


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "3", '"plate"', "{", "[" * 100_000, '{"a":' * 100_000, "NaN", "\x00"],
    ids=lambda text: text[:8] or "empty",
)
@pytest.mark.parametrize("name", [".zattrs", "zarr.json"])
def test_a_root_that_is_no_json_object(text: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert "is no readable plate: metadata at its root: is not" in refusal(tmp_path)


@pytest.mark.parametrize("depth", [100, 300, 500, 800, 950, 990])
@pytest.mark.parametrize("key", ["extra", "coordinateTransformations"])
def test_deeply_nested_metadata(depth: int, key: str, plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p")
    path = tmp_path / "p/A/1/0/.zattrs"
    link = '{"type":"sequence","transformations":['
    nested = "[" * depth + "]" * depth if key == "extra" else f"[{link * depth}{']}' * depth}]"
    text = path.read_text().replace('"datasets"', f'"{key}": {nested}, "datasets"')
    path.write_text(text)
    message = ""
    try:
        open_plate(tmp_path / "p")
    except PlateError as error:
        message = str(error)
    assert message.isprintable()


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"plate": None}, "`plate` is malformed"),
        ({"plate": []}, "`plate` is malformed"),
        ({"plate": {}}, "`plate.wells` is malformed"),
        ({"plate": {"wells": [{"path": 5}]}}, "`plate.wells.0.path` is malformed"),
        ({"plate": {"wells": {"A/1": {}}}}, "`plate.wells` is malformed"),
        ({"multiscales": []}, "is a single image"),
        ({"well": {}}, "is a single well"),
        ({}, "is not an OME-Zarr plate"),
    ],
)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_root_that_describes_no_plate(
    attributes: Any, reason: str, zarr_format: int, plates: ModuleType, tmp_path: Path
) -> None:
    layout = plates.Layout(zarr_format=zarr_format, ngff="0.5")
    plates.write_group(tmp_path / "p", layout, attributes)
    message = refusal(tmp_path / "p")
    assert message.startswith(str(tmp_path / "p"))
    assert reason in message


def test_a_folder_of_images_names_the_converter(tmp_path: Path) -> None:
    (tmp_path / "r01c01f01p01-ch1sk1fk1fl1.tiff").write_bytes(b"II*\0")
    assert "unidino-fast convert" in refusal(tmp_path)
    assert "unidino-fast convert" in refusal(tmp_path / "r01c01f01p01-ch1sk1fk1fl1.tiff")


def test_both_zarr_versions_in_one_root(plates: ModuleType, tmp_path: Path) -> None:
    """A plate converted in place: the group that describes a plate counts."""
    plates.write_plate(tmp_path / "p")
    plates.write_json(tmp_path / "p/zarr.json", {"zarr_format": 3, "node_type": "group"})
    assert open_plate(tmp_path / "p").zarr_format == 2
    plates.write_plate(tmp_path / "p", **V3)
    assert open_plate(tmp_path / "p").zarr_format == 3


def test_v3_metadata_beside_ome(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p", **V3)
    for path in (tmp_path / "p").rglob("zarr.json"):
        plates.edit_json(
            path, lambda d: d.update(attributes=d.get("attributes", {}).get("ome", {}))
        )
    assert len(open_plate(tmp_path / "p").wells) == 2


def test_channels(plates: ModuleType, tmp_path: Path) -> None:
    layout = plates.Layout
    wells = {
        "A/1": [("0", None, layout(labels=("DNA", "DNA", ...)))],
        "A/2": [("0", None, layout(labels=None, sizes={"c": 2}))],
        "A/3": [("0", None, layout(labels=("DNA",)))],
        "A/4": [("0", None, layout(labels=("Metadata", "Metadata_x", "a\nb")))],
        "A/5": [("0", None, layout(axes="yx", labels=("ER",)))],
        "A/6": [("0", None, layout(sizes={"c": 1, "y": 7, "x": 9}, labels=("ER",)))],
    }
    plates.write_plate(tmp_path / "p", wells)
    plate = open_plate(tmp_path / "p")
    assert [field.channels for field in plate.fields] == [
        ("DNA", "DNA_2", "ch2"), ("ch0", "ch1"), ("ch0", "ch1", "ch2"),
        ("ch_Metadata", "ch_Metadata_x", "a b"), ("ER",), ("ER",),
    ]  # fmt: skip
    assert plate.channels == ("DNA", "DNA_2", "ch2", "ch0", "ch1", "ch_Metadata", "ch_Metadata_x",
                              "a b", "ER")  # fmt: skip
    assert (plate.fields[5].height, plate.fields[5].width) == (7, 9)
    assert plate.warnings == (
        "1 fields (first A03/0) name another number of channels than they hold:"
        " theirs are called ch0, ch1, ...",
    )


@given(st.lists(st.sampled_from([None, "a", "a_2", "ch0", "ch1", "Metadata_a", "ch_Metadata_a"])))
def test_channel_names_are_unique_and_visible(labels: list[str | None]) -> None:
    names = unique_labels(labels)
    assert len(set(names)) == len(names) == len(labels)
    assert not any(f"{name}_".startswith("Metadata_") for name in names)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [10**12, 45, 51], "chunks": [1, 45, 51]},
        {"shape": [3, 10**400, 51]},
        {"shape": [3, 45]},
        {"shape": [3, 45, 51, 2], "chunks": [1, 1, 1, 1]},
    ],
)
def test_absurd_shapes_are_refused(
    change: dict[str, Any], plates: ModuleType, tmp_path: Path
) -> None:
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]})
    plates.edit_json(tmp_path / "p/A/1/0/0/.zarray", lambda d: d.update(change))
    assert "field A01/0 (A/1/0/0)" in refusal(tmp_path / "p")


@pytest.mark.parametrize("axis", [0, 2])
def test_absurd_stacks_are_refused(axis: int, plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]}, axes="tczyx")

    def change(document: dict[str, Any]) -> None:
        document["shape"][axis] = 10**12

    plates.edit_json(tmp_path / "p/A/1/0/0/.zarray", change)
    assert "is 1000000000000 long" in refusal(tmp_path / "p")


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    keys: list[str] = []
    read = FolderStorage.read

    def counted(self: FolderStorage, key: str, *span: Any) -> Any:
        keys.append(key)
        return read(self, key, *span)

    monkeypatch.setattr(FolderStorage, "read", counted)
    return keys


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(("n_wells", "n_fields"), [(1, 2), (4, 3), (3, 1)])
def test_each_document_is_read_once(
    n_wells: int,
    n_fields: int,
    zarr_format: int,
    plates: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wells = {f"A/{column + 1}": [str(f) for f in range(n_fields)] for column in range(n_wells)}
    ngff = {2: "0.4", 3: "0.5"}[zarr_format]
    plates.write_plate(tmp_path / "p", wells, zarr_format=zarr_format, ngff=ngff)
    keys = count_reads(monkeypatch)
    plate = open_plate(tmp_path / "p")
    tables = n_wells if n_fields == 1 else 0
    assert len(keys) == 2 + n_wells + 2 * n_wells * n_fields + tables
    assert len(set(keys)) == len(keys)
    before = len(keys)
    pixels_of(plate)
    assert len(keys) == before


def test_the_digest_knows_the_metadata_alone(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p")
    first = open_plate(tmp_path / "p").digest
    for path in (tmp_path / "p").rglob(".z*"):
        document = json.loads(path.read_text())
        path.write_text(json.dumps(dict(reversed(document.items())), indent=4))
    assert open_plate(tmp_path / "p").digest == first
    plates.edit_json(tmp_path / "p/B/2/0/0/.zarray", lambda d: d.update(fill_value=1))
    assert open_plate(tmp_path / "p").digest != first


def test_a_plate_without_a_name_takes_its_folders(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "BR001.ome.zarr", name=None)
    plates.write_plate(tmp_path / "BR002.zarr", name=" \n")
    assert open_plate(tmp_path / "BR001.ome.zarr").name == "BR001"
    assert open_plate(f"{tmp_path}/BR002.zarr/").name == "BR002"


# Mosaics


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
    reader = FieldReader(plate.storage.zarr_store())
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


# As writers lay them out, by hand


def test_bioformats2raw(plates: ModuleType, tmp_path: Path) -> None:
    """0.4: upper levels, `OME/` with XML, five axes, `field_count` and acquisitions."""
    root = tmp_path / "plate.ome.zarr"
    layout = plates.Layout(axes="tczyx", sizes={"t": 1, "z": 1}, n_datasets=2, dtype=">u2",
                           codec="blosc-lz4-shuffle", chunks=(1, 1, 1, 32, 32))  # fmt: skip
    written = plates.write_plate(root, {"A/1": [("0", 0), ("1", 0)], "H/12": [("0", 0)]}, layout)
    plates.edit_json(
        root / ".zattrs",
        lambda d: d["plate"].update(
            acquisitions=[{"id": 0}], field_count=2, **{"bioformats2raw.layout": 3}
        ),
    )
    plates.write_json(root / "OME/.zgroup", {"zarr_format": 2})
    plates.write_json(root / "OME/.zattrs", {"series": ["A/1/0", "A/1/1", "H/12/0"]})
    plate = open_plate(root, strict=True)
    assert ([w.name for w in plate.wells], plate.warnings) == (["A01", "H12"], ())
    read = pixels_of(plate)
    np.testing.assert_array_equal(read["H/12/0/0"], written["H/12/0"][0, :, 0])


def test_iohub(plates: ModuleType, tmp_path: Path) -> None:
    """0.4: upper-case axes, positions `000000`, rows and columns without padding, no units."""
    written = plates.write_plate(
        tmp_path / "p.zarr", {"A/1": ["000000", "000001"]}, axes="tczyx", axes_style="upper",
        sizes={"t": 1}, chunks=(1, 1, 4, 45, 51), pixel_size=None, name=None,
    )  # fmt: skip
    plate = open_plate(tmp_path / "p.zarr", strict=True)
    assert [f.site for f in plate.fields] == ["000000", "000001"]
    read = pixels_of(plate)["A/1/000001/0"]
    np.testing.assert_array_equal(read, written["A/1/000001"][0].max(axis=1))


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
    reader = FieldReader(plate.storage.zarr_store())
    read = reader.read(plate.fields[1], time=0, channels=(2,), z="mean")
    np.testing.assert_array_equal(read, written["B/03/0"][2:, 0, 20:40, 0:30])


def test_ome_zarr_py(plates: ModuleType, tmp_path: Path) -> None:
    """0.5: `s0` levels, shards, no labels of channels, a version beside `ome.plate` alone."""
    plates.write_plate(
        tmp_path / "p.zarr", {"A/1": ["0"]}, **V3, dataset="s0", labels=None,
        chunks=(1, 16, 16), shards=(1, 48, 64),
    )  # fmt: skip
    plate = open_plate(tmp_path / "p.zarr", strict=True)
    assert (plate.channels, plate.ngff_version) == (("ch0", "ch1", "ch2"), "0.5")


# Consolidated metadata: only where a read costs a trip, so opened as if it did


def as_remote(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(FolderStorage, "is_remote", True)
    return count_reads(monkeypatch)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_consolidated_metadata_saves_the_reads(
    zarr_format: int, plates: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ngff = {2: "0.4", 3: "0.5"}[zarr_format]
    wells = {"A/1": ["0", "1"], "B/1": ["0", "1"]}
    plates.write_plate(tmp_path / "p", wells, zarr_format=zarr_format, ngff=ngff)
    plain = open_plate(tmp_path / "p")
    if zarr_format == 3:  # rows are groups too
        for row in "AB":
            plates.write_group(tmp_path / "p" / row, plates.Layout(**V3), {})
        with pytest.warns(match="Consolidated metadata"):
            zarr.consolidate_metadata(str(tmp_path / "p"))
    else:
        for row in "AB":
            plates.write_json(tmp_path / "p" / row / ".zgroup", {"zarr_format": 2})
        zarr.consolidate_metadata(str(tmp_path / "p"))
    keys = as_remote(monkeypatch)
    plate = open_plate(tmp_path / "p", strict=True)
    assert len(keys) == (3 if zarr_format == 2 else 2)
    assert plate == plain
    assert plate.digest == plain.digest


@pytest.mark.parametrize(
    "held",
    [
        None, [], "x", {"metadata": None}, {"metadata": {"A/1": 5}},
        {"metadata": {"A/1/.zattrs": 5, "A/1/zarr.json": None}},
    ],
)  # fmt: skip
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_consolidated_metadata_that_is_of_no_use(
    held: Any, zarr_format: int, plates: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ngff = {2: "0.4", 3: "0.5"}[zarr_format]
    plates.write_plate(tmp_path / "p", zarr_format=zarr_format, ngff=ngff)
    if zarr_format == 2:
        plates.write_json(tmp_path / "p/.zmetadata", held)
    else:
        plates.edit_json(tmp_path / "p/zarr.json", lambda d: d.update(consolidated_metadata=held))
    as_remote(monkeypatch)
    assert len(open_plate(tmp_path / "p", strict=True).wells) == 2


def test_consolidated_metadata_that_lacks_a_well(
    plates: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plates.write_plate(tmp_path / "p")
    documents = {
        str(path.relative_to(tmp_path / "p")): json.loads(path.read_text())
        for path in (tmp_path / "p").rglob(".z*")
        if "B" not in path.parts
    }
    plates.write_json(tmp_path / "p/.zmetadata", {"metadata": documents})
    keys = as_remote(monkeypatch)
    assert len(open_plate(tmp_path / "p", strict=True).wells) == 2
    assert sum(key.startswith("A/1") for key in keys) == 1  # the table of fields, which is not
    assert sum(key.startswith("B/2") for key in keys) == 4


# Whatever stands in the files


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items: Any = ()
    if isinstance(document, dict):
        items = document.items()
    elif isinstance(document, list):
        items = enumerate(document)
    found = [path] if path else []
    for key, value in items:
        found += places(value, (*path, key))
    return found


@pytest.fixture(scope="module")
def fuzzed(plates: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("fuzzed")
    plates.write_plate(folder / "two", {"A/1": [("0", 1)]}, sizes={"y": 8, "x": 8})
    plates.write_roi_table(folder / "two/A/1/0", 2, {"F": (0.0, 0.0, 2.6, 2.6)})
    plates.write_plate(folder / "three", {"A/1": [("0", 1)]}, sizes={"y": 8, "x": 8}, **V3)
    return [folder / "two", folder / "three"]


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_changed_plate_opens_and_reads_or_is_refused_in_one_line(
    data: st.DataObject, fuzzed: list[Path]
) -> None:
    root = data.draw(st.sampled_from(fuzzed))
    files = [p for p in sorted(root.rglob("*")) if p.name in (".zattrs", ".zarray", "zarr.json")]
    path = data.draw(st.sampled_from(files))
    text = path.read_text()
    document = json.loads(text)
    spot = data.draw(st.sampled_from(places(document) or [()]))
    inner = document
    for key in spot[:-1]:
        inner = inner[key]
    if not spot or (isinstance(inner, dict) and data.draw(st.booleans())):
        document = data.draw(JUNK) if not spot else (inner.pop(spot[-1]), document)[1]
    else:
        inner[spot[-1]] = data.draw(JUNK)
    path.write_text(json.dumps(document))
    try:
        plate = open_plate(root, on_error=data.draw(st.sampled_from(["fail", "skip"])))
        pixels_of(plate)
        said = "".join((plate.name, *plate.channels, *plate.warnings, *plate.missing))
    except UnidinoError as error:
        said = str(error)
    finally:
        path.write_text(text)
    assert said.isprintable()


def test_a_zip_opens_like_its_folder(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p")
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as file:
        for path in sorted((tmp_path / "p").rglob("*")):
            file.write(path, path.relative_to(tmp_path / "p"))
    assert open_plate(tmp_path / "p.zip").digest == open_plate(tmp_path / "p").digest
