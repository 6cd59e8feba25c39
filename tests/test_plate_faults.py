"""Plates that are broken, unsafe or no plates: refused in one line, or left out and named."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unidino_fast.errors import PlateError, UnidinoError
from unidino_fast.plate import open_plate

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


V3 = {"zarr_format": 3, "ngff": "0.5"}


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
    message = plates.refusal(tmp_path / "p")
    assert "well A01: metadata at A/1: is not JSON" in message
    assert "field A02/0: metadata at A/2/0: is not a JSON object" in message
    assert message.endswith(
        "; and 1 more; mend or restore that, or leave it out with --on-error skip"
    )
    plate = open_plate(tmp_path / "p", on_error="skip")
    assert [(w.name, len(w.fields)) for w in plate.wells] == [
        ("A02", 1), ("A03", 1), ("A04", 1), ("A05", 2), ("A06", 2), ("A07", 2), ("A08", 2),
    ]  # fmt: skip
    assert len(plate.skipped) == 4
    assert "array of field A03/0: metadata at A/3/0/0: is not a JSON object" in plate.skipped


def test_metadata_that_cannot_be_read(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p")
    document = tmp_path / "p/A/1/.zattrs"
    document.unlink()
    document.symlink_to(document)
    assert "well A01: metadata at A/1: Too many levels of symbolic links" in plates.refusal(
        tmp_path / "p"
    )


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
    assert "leaves the plate or names nothing: refused" in plates.refusal(tmp_path / "p")
    assert [w.name for w in open_plate(tmp_path / "p", on_error="skip").wells] == ["B01"]


def test_wells_and_fields_listed_twice(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p")
    plates.edit_json(tmp_path / "p/.zattrs", lambda d: d["plate"]["wells"].append({"path": "A/01"}))
    plates.edit_json(
        tmp_path / "p/B/2/.zattrs", lambda d: d["well"]["images"].append({"path": "./0"})
    )
    message = plates.refusal(tmp_path / "p")
    assert "well A01 is listed twice (A/1, A/01)" in message
    assert "well B02 (B/2) lists a field twice" in message


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "3", '"plate"', "{", "[" * 100_000, '{"a":' * 100_000, "NaN", "\x00"],
    ids=lambda text: text[:8] or "empty",
)
@pytest.mark.parametrize("name", [".zattrs", "zarr.json"])
def test_a_root_that_is_no_json_object(
    plates: ModuleType, text: str, name: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    assert "is no readable plate: metadata at its root: is not" in plates.refusal(tmp_path)


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
    message = plates.refusal(tmp_path / "p")
    assert message.startswith(str(tmp_path / "p"))
    assert reason in message


def test_a_folder_of_images_names_the_converter(plates: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "r01c01f01p01-ch1sk1fk1fl1.tiff").write_bytes(b"II*\0")
    assert "unidino-fast convert" in plates.refusal(tmp_path)
    assert "unidino-fast convert" in plates.refusal(tmp_path / "r01c01f01p01-ch1sk1fk1fl1.tiff")


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
    assert "field A01/0 (A/1/0/0)" in plates.refusal(tmp_path / "p")


@pytest.mark.parametrize("axis", [0, 2])
def test_absurd_stacks_are_refused(axis: int, plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]}, axes="tczyx")

    def change(document: dict[str, Any]) -> None:
        document["shape"][axis] = 10**12

    plates.edit_json(tmp_path / "p/A/1/0/0/.zarray", change)
    assert "is 1000000000000 long" in plates.refusal(tmp_path / "p")


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
    plates: ModuleType, data: st.DataObject, fuzzed: list[Path]
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
        plates.pixels_of(plate)
        said = "".join((plate.name, *plate.channels, *plate.warnings, *plate.missing))
    except UnidinoError as error:
        said = str(error)
    finally:
        path.write_text(text)
    assert said.isprintable()
