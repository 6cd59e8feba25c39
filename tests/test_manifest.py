"""Manifests: what is written is read, and what others wrote is no trap."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from unidino_fast import manifest
from unidino_fast.manifest import FORMAT, deciding, difference, read_manifest, write_manifest

if TYPE_CHECKING:
    from pathlib import Path


def provenance(**changes: Any) -> dict[str, Any]:
    """One that decides numbers by two options and the weights."""
    return {
        "plate": {"name": "p", "digest": "d"},
        "model": {"weights": "w.pth", "weights_digest": "ab"},
        "options": {"tile": 224, "stride": 224} | changes,
        "platemap": {"name": "map.csv"},
        "software": {"torch": "2"},
    }


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    write_manifest(path, provenance(), 12, {"status": "running"})
    found = read_manifest(path)
    assert found is not None
    assert (found.format, found.job_tiles, found.platemap) == (FORMAT, 12, "map.csv")
    assert found.deciding == {k: provenance()[k] for k in ("plate", "model", "options")}
    assert json.loads(path.read_text())["run"] == {"status": "running"}


@pytest.mark.parametrize("tiles", [-1, True, "12", 1.5, None, [12], 10**40])
def test_a_number_of_tiles_that_is_none_is_not_taken(tiles: object, tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    write_manifest(path, provenance(), 12, {})
    path.write_text(json.dumps(json.loads(path.read_text()) | {"job_tiles": tiles}))
    found = read_manifest(path)
    assert found is not None
    assert found.job_tiles is None


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '"x"', "[" * 10**5, '{"format": 2}', '{"format":2,"provenance":[1]}'],
)
def test_what_is_no_manifest_is_none(text: str, tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(text)
    assert read_manifest(path) is None
    assert read_manifest(tmp_path / "none.json") is None


def test_what_is_no_file_or_no_size_for_one_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe would never end, and parsing takes many times a file's memory."""
    path = tmp_path / "manifest.json"
    write_manifest(path, provenance(), 12, {})
    text = path.read_text()
    monkeypatch.setattr(manifest, "_MOST_BYTES", len(text))
    assert read_manifest(path) is not None
    path.write_text(f"{text} ")
    assert read_manifest(path) is None
    path.unlink()
    os.mkfifo(path)
    assert read_manifest(path) is None


def test_differences_are_named_as_a_person_would() -> None:
    """By names of weights, and by the tile where strides follow it; never by the plate's digest."""
    held = provenance()
    assert difference(held, held | {"plate": {"name": "p", "digest": "e"}}) is None
    assert difference(held, provenance(tile=112, stride=112)) == ("options tile", "224", "112")
    assert difference(held, provenance(stride=112)) == ("options stride", "224", "112")
    assert difference(held, provenance(stride=112), but=("stride",)) is None
    name, before, now = difference(held, provenance(tile=[7] * 999)) or ("", "", "")
    assert (name, before, now) == ("options tile", "224", f"{[7] * 999}"[:79] + "…")
    other = held | {"model": {"weights": "v.pth", "weights_digest": "cd"}}
    assert difference(held, other) == ("model weights", "w.pth", "v.pth")
    renamed = held | {"model": {"weights": "v.pth", "weights_digest": "ab"}}
    assert difference(held, renamed) is None
    assert "digest" not in deciding(held)["plate"]
