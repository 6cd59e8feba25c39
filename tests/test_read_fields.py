"""What embedding notes of fields while they are read, against their pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import xxhash

from unidino_fast.config import EmbedOptions
from unidino_fast.errors import PixelError
from unidino_fast.noted_fields import read_fields
from unidino_fast.planning import plan_plate
from unidino_fast.plate import open_plate
from unidino_fast.preprocess import tiles_with_signal
from unidino_fast.qc.measures import measure_planes, measured
from unidino_fast.reading import reader
from unidino_fast.storage import FolderStorage

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

LAYOUTS: list[dict[str, Any]] = [
    {},
    {"chunks": (1, 16, 17)},
    {"chunks": (3, 45, 51)},
    {"axes": "tczyx", "chunks": (2, 2, 1, 20, 51)},
    {"zarr_format": 3, "ngff": "0.5", "chunks": (1, 16, 17), "shards": (3, 48, 51)},
]


@pytest.mark.parametrize("by_zarr", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_what_is_noted_of_fields_is_that_of_their_pixels(
    layout: dict[str, Any], by_zarr: bool, plates: ModuleType, tmp_path: Path
) -> None:
    """However they are stored and read: checksums of planes, empty tiles, quality."""
    plates.write_plate(tmp_path / "p", {"A/1": ["0", "1"], "B/2": ["0"]}, **layout)
    if by_zarr and "zarr_format" not in layout:
        filters = [{"id": "delta", "dtype": "<u2"}]
        for path in (tmp_path / "p").rglob(".zarray"):
            plates.edit_json(path, lambda d: d.update(filters=filters))
    plate = open_plate(tmp_path / "p")
    options = EmbedOptions(tile=16)
    wells = plan_plate(plate, options).wells
    found = list(read_fields(wells, plate.storage, options, keeps=True, measures=True))
    assert len(found) == sum(len(well.fields) for well in wells)
    for one in found:
        assert not isinstance(one, PixelError)
        pixels, noted = one
        digests = [xxhash.xxh3_64(np.ascontiguousarray(plane)).intdigest() for plane in pixels]
        together = b"".join(digest.to_bytes(8, "little") for digest in digests)
        assert noted.checksum == xxhash.xxh3_64(together).intdigest()
        keep = tiles_with_signal(torch.from_numpy(pixels[0]), tile=16, stride=16)
        assert noted.n_dropped == int((~keep).sum())
        assert noted.seen is not None
        np.testing.assert_array_equal(measured(noted.seen), measure_planes(pixels))


def test_wells_are_told_of_before_they_are_read(
    plates: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each once, and not all at first: what looks at their files does so while others are read."""
    names = [f"A/{column}" for column in range(1, 9)]
    plates.write_plate(tmp_path / "p", {name: ["0", "1"] for name in names})
    plate = open_plate(tmp_path / "p")
    options = EmbedOptions(tile=16)
    events: list[str] = []
    grab = FolderStorage.grab

    def noted(storage: FolderStorage, key: str, *given: Any) -> Any:
        events.append(key)
        return grab(storage, key, *given)

    monkeypatch.setattr(FolderStorage, "grab", noted)
    monkeypatch.setattr(plate.storage, "files", None)  # compiled code would open them itself
    monkeypatch.setattr(reader, "_MOST_IN_FLIGHT", 4 * 3 * 45 * 51 * 2)
    wells = plan_plate(plate, options).wells
    fields = read_fields(
        wells, plate.storage, options, on_read=lambda well: events.append(well.name)
    )
    assert len(list(fields)) == 16
    for well in wells:
        own = [at for at, event in enumerate(events) if event.startswith(f"A/{well.name[-1]}/")]
        assert events.index(well.name) < min(own)
        assert events.count(well.name) == 1
    assert events.index("A08") > min(at for at, event in enumerate(events) if "/" in event)
