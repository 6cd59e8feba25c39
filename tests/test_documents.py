"""How much is read to open a plate, and what consolidated metadata saves."""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import zarr

from unidino_fast import documents
from unidino_fast.plate import open_plate
from unidino_fast.storage import FolderStorage

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


V3 = {"zarr_format": 3, "ngff": "0.5"}


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    keys: list[str] = []
    fetch = FolderStorage.fetch

    def counted(self: FolderStorage, key: str, *others: Any) -> Any:
        keys.append(key)
        return fetch(self, key, *others)

    monkeypatch.setattr(FolderStorage, "fetch", counted)
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
    before = set(keys)
    plates.pixels_of(plate)
    assert before.isdisjoint(keys[len(before) :])
    assert not any(key.endswith((".zarray", ".zattrs", ".json")) for key in keys[len(before) :])


def test_the_digest_knows_the_metadata_alone(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p")
    first = open_plate(tmp_path / "p").digest
    for path in (tmp_path / "p").rglob(".z*"):
        document = json.loads(path.read_text())
        path.write_text(json.dumps(dict(reversed(document.items())), indent=4))
    assert open_plate(tmp_path / "p").digest == first
    plates.edit_json(tmp_path / "p/B/2/0/0/.zarray", lambda d: d.update(fill_value=1))
    assert open_plate(tmp_path / "p").digest != first


@pytest.mark.parametrize("n_fields", [1, 3])
def test_batches_hold_few_documents_and_change_nothing(
    n_fields: int, plates: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wells = {f"A/{column + 1}": [str(f) for f in range(n_fields)] for column in range(5)}
    plates.write_plate(tmp_path / "p", wells)
    (tmp_path / "p/A/2/0/0/.zarray").unlink()
    (tmp_path / "p/A/4/0/.zattrs").write_text("no JSON")
    whole = open_plate(tmp_path / "p", on_error="skip")
    asked: list[int] = []
    read_many = FolderStorage.read_many

    def counting(self: FolderStorage, keys: list[str]) -> Any:
        asked.append(len(keys))
        return read_many(self, keys)

    monkeypatch.setattr(FolderStorage, "read_many", counting)
    monkeypatch.setattr(documents, "_BATCH", 2)
    assert open_plate(tmp_path / "p", on_error="skip") == whole  # its digest too
    assert max(asked) == 2


def test_a_zip_opens_like_its_folder(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p")
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as file:
        for path in sorted((tmp_path / "p").rglob("*")):
            file.write(path, path.relative_to(tmp_path / "p"))
    assert open_plate(tmp_path / "p.zip").digest == open_plate(tmp_path / "p").digest


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
