"""Opening plates as they are found: every layout that real writers use."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unidino_fast.errors import UsageError
from unidino_fast.plate import open_plate
from unidino_fast.plate_reader import unique_labels

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


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


def test_a_plate_is_shown_in_a_line(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p\n.zarr", {"A/1": ["0", "1"], "B/12": ["0"]}, plates.Layout())
    assert repr(open_plate(tmp_path / "p\n.zarr")) == (
        "<Plate 'plate one': 2 wells, 3 fields,"
        f" channels ['DNA', 'ER', 'AGP'] at '{tmp_path}/p\\n.zarr'>"
    )


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
    read = plates.pixels_of(plate)
    assert read.keys() == {f"{inside}/{path}/0" for path in written}
    for path, pixels in written.items():
        np.testing.assert_array_equal(read[f"{inside}/{path}/0"], pixels)


def test_two_plates_in_a_folder(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "one.zarr")
    plates.write_plate(tmp_path / "two.zarr")
    plates.write_plate(tmp_path / ".three.zarr.partial")
    assert "holds 2 plates: open one of one.zarr, two.zarr" in plates.refusal(tmp_path)


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
    assert "is no well name and has no row and column index" in plates.refusal(tmp_path / "p")


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
    assert "acquisition 1 is not in the plate: it has 0, 3" in plates.refusal(
        tmp_path / "p", UsageError, acquisition=1
    )
    plates.write_plate(tmp_path / "q")
    assert "it has none" in plates.refusal(tmp_path / "q", UsageError, acquisition=0)


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
    assert "well A02 (A/2) is listed but absent" in plates.refusal(tmp_path / "p", strict=True)
    shutil.rmtree(tmp_path / "p/A")
    assert "has no readable well: well A01 (A/1) is listed but absent" in plates.refusal(
        tmp_path / "p"
    )


def test_an_empty_plate_or_well(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p", {"A/1": []})
    assert "well A01 (A/1) lists no field" in plates.refusal(tmp_path / "p")
    plates.write_plate(tmp_path / "q", {})
    assert "its list of wells is empty" in plates.refusal(tmp_path / "q")


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


def test_a_plate_without_a_name_takes_its_folders(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "BR001.ome.zarr", name=None)
    plates.write_plate(tmp_path / "BR002.zarr", name=" \n")
    assert open_plate(tmp_path / "BR001.ome.zarr").name == "BR001"
    assert open_plate(f"{tmp_path}/BR002.zarr/").name == "BR002"


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
    read = plates.pixels_of(plate)
    np.testing.assert_array_equal(read["H/12/0/0"], written["H/12/0"][0, :, 0])


def test_iohub(plates: ModuleType, tmp_path: Path) -> None:
    """0.4: upper-case axes, positions `000000`, rows and columns without padding, no units."""
    written = plates.write_plate(
        tmp_path / "p.zarr", {"A/1": ["000000", "000001"]}, axes="tczyx", axes_style="upper",
        sizes={"t": 1}, chunks=(1, 1, 4, 45, 51), pixel_size=None, name=None,
    )  # fmt: skip
    plate = open_plate(tmp_path / "p.zarr", strict=True)
    assert [f.site for f in plate.fields] == ["000000", "000001"]
    read = plates.pixels_of(plate)["A/1/000001/0"]
    np.testing.assert_array_equal(read, written["A/1/000001"][0].max(axis=1))


def test_ome_zarr_py(plates: ModuleType, tmp_path: Path) -> None:
    """0.5: `s0` levels, shards, no labels of channels, a version beside `ome.plate` alone."""
    plates.write_plate(
        tmp_path / "p.zarr", {"A/1": ["0"]}, **V3, dataset="s0", labels=None,
        chunks=(1, 16, 16), shards=(1, 48, 64),
    )  # fmt: skip
    plate = open_plate(tmp_path / "p.zarr", strict=True)
    assert (plate.channels, plate.ngff_version) == (("ch0", "ch1", "ch2"), "0.5")
