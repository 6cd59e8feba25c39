"""Plates by HTTP: few requests, none of them a listing."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from unidino_fast.plate import open_plate
from unidino_fast.reading import FieldReader, FieldRequest

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from plate_server import Server


WELLS = {"A/1": ["0", "1"], "B/2": ["0", "1"]}
VERSIONS: dict[int, dict[str, Any]] = {2: {}, 3: {"zarr_format": 3, "ngff": "0.5"}}


@pytest.mark.parametrize("absent_status", [404, 403])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_http(
    zarr_format: int, absent_status: int, server: Server, plates: ModuleType, tmp_path: Path
) -> None:
    """Some servers forbid what does not exist; neither kind is ever asked for a listing."""
    server.absent_status = absent_status
    layout = plates.Layout(**VERSIONS[zarr_format], absent=((1, 0, 0),))
    written = plates.write_plate(tmp_path / "p.zarr", WELLS, layout)
    plate = open_plate(f"{server.url}/p.zarr/", strict=True)
    assert plate.digest == open_plate(tmp_path / "p.zarr").digest
    assert (plate.name, plate.storage.stamps("A"), plate.storage.children()) == (
        "plate one",
        None,
        [],
    )
    assert not any(path.endswith("/") or path in ("", "p.zarr") for path in server.requests)
    plates.check_pixels(plate, written)
    probes = sum("no-such-key" in path for path in server.requests)
    assert probes == (1 if absent_status == 403 else 0)


def test_consolidated_metadata_over_http(
    server: Server, plates: ModuleType, tmp_path: Path
) -> None:
    wells = {f"A/{column}": ["0", "1", "2"] for column in range(1, 9)}
    plates.write_plate(tmp_path / "p.zarr", wells)
    plates.write_json(tmp_path / "p.zarr/A/.zgroup", {"zarr_format": 2})
    open_plate(f"{server.url}/p.zarr")
    without = len(server.requests)
    assert without == 3 + 8 + 2 * 24
    zarr.consolidate_metadata(str(tmp_path / "p.zarr"))
    server.requests.clear()
    plate = open_plate(f"{server.url}/p.zarr", strict=True)
    assert len(plate.fields) == 24
    assert sorted(server.requests) == ["p.zarr/.zattrs", "p.zarr/.zmetadata", "p.zarr/zarr.json"]


def test_a_plate_one_folder_down_over_http(
    server: Server, plates: ModuleType, tmp_path: Path
) -> None:
    plates.write_plate(tmp_path / "set/plate")
    assert open_plate(f"{server.url}/set").root == "plate"
    plates.write_plate(tmp_path / "x/x.zarr")
    assert open_plate(f"{server.url}/x").root == "x.zarr"


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_shards_over_http(
    knows_ranges: bool, server: Server, plates: ModuleType, tmp_path: Path
) -> None:
    server.knows_ranges = knows_ranges
    layout = plates.Layout(**VERSIONS[3], chunks=(1, 16, 17), shards=(3, 48, 51), codec="none")
    written = plates.write_plate(tmp_path / "p.zarr", WELLS, layout)
    plates.check_pixels(open_plate(f"{server.url}/p.zarr"), written)


def test_fetches_run_side_by_side(server: Server, plates: ModuleType, tmp_path: Path) -> None:
    """Twelve chunks meet at a gate that opens for all of them at once."""
    written = plates.write_plate(tmp_path / "p.zarr", WELLS)
    plate = open_plate(f"{server.url}/p.zarr", strict=True)
    gate = threading.Barrier(4 * 3)
    server.first = lambda handler: gate.wait(10) < 0
    requests = [FieldRequest(field, 0, (0, 1, 2), "max") for field in plate.fields]
    for pixels, other in zip(
        FieldReader(plate.storage).stream(requests), written.values(), strict=True
    ):
        np.testing.assert_array_equal(pixels, other)  # type: ignore[arg-type]


def test_a_signed_url_keeps_its_query(server: Server, plates: ModuleType, tmp_path: Path) -> None:
    written = plates.write_plate(tmp_path / "p.zarr", WELLS)
    seen: list[str] = []
    server.first = lambda handler: seen.append(handler.path)
    plates.check_pixels(open_plate(f"{server.url}/p.zarr?token=a%2Fb"), written)
    assert all(path.endswith("?token=a%2Fb") for path in seen)


def test_names_with_spaces_over_http(server: Server, plates: ModuleType, tmp_path: Path) -> None:
    written = plates.write_plate(tmp_path / "p.zarr", {"A/1": ["f#1 50%"]})
    plates.check_pixels(open_plate(f"{server.url}/p.zarr", strict=True), written)
    assert "p.zarr/A/1/f%231%2050%25/0/0/0/0" in server.asked


@pytest.mark.parametrize("inside", ["", "p.zarr"])
def test_a_zip_over_http(inside: str, server: Server, plates: ModuleType, tmp_path: Path) -> None:
    written = plates.write_plate(tmp_path / "p", WELLS, **VERSIONS[3])
    plates.make_zip(tmp_path / "p", tmp_path / "p.ozx", inside)
    plate = open_plate(f"{server.url}/p.ozx", strict=True)
    plates.check_pixels(plate, written)
    del plate
    assert "cannot be opened" in plates.refusal(f"{server.url}/none.zip")
    (tmp_path / "bad.zip").write_bytes(b"no zip at all")
    assert "is no readable zip" in plates.refusal(f"{server.url}/bad.zip")


def test_a_zip_on_a_server_without_ranges(
    server: Server, plates: ModuleType, tmp_path: Path
) -> None:
    server.knows_ranges = False
    plates.write_plate(tmp_path / "p", WELLS, sizes={"y": 512, "x": 512}, codec="none")
    plates.make_zip(tmp_path / "p", tmp_path / "p.zip")
    message = plates.refusal(f"{server.url}/p.zip")
    assert "p.zip cannot be read in place, since its server knows no ranges: download" in message
