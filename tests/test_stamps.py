"""What tells changed pixels from those of a former run: of folders, zips and remote stores."""

from __future__ import annotations

import itertools
import os
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from unidino_fast import stamps
from unidino_fast.config import EmbedOptions
from unidino_fast.errors import PlateError
from unidino_fast.noted_fields import read_fields
from unidino_fast.planning import plan_plate
from unidino_fast.plate import open_plate
from unidino_fast.reading import FieldReader
from unidino_fast.stamps import difference, stamp_as_read, stamps_before

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from plate_server import Server

    from unidino_fast.planning import WellTask
    from unidino_fast.plate_model import Plate

WELLS = {"A/1": ["0", "1", "2"], "B/2": ["0"]}
LAYOUTS: list[dict[str, Any]] = [
    {},
    {"separator": ".", "chunks": (1, 16, 17)},
    {"zarr_format": 3, "ngff": "0.5", "chunks": (2, 16, 17), "shards": (2, 48, 34)},
    {"zarr_format": 3, "ngff": "0.5", "v2_keys": True, "separator": "."},
    {"zarr_format": 3, "ngff": "0.5", "axes": "tczyx", "chunks": (1, 1, 2, 45, 20)},
]


def planned(location: object, **options: Any) -> tuple[Plate, tuple[WellTask, ...]]:
    plate = open_plate(location)  # type: ignore[arg-type]
    return plate, plan_plate(plate, EmbedOptions(tile=32, **options)).wells


def now(location: object) -> dict[str, Any]:
    """Stamps of all wells as they are."""
    plate, wells = planned(location)
    return stamps_before(plate.storage, wells, wells, EmbedOptions())


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_what_is_listed_is_looked_at_whole(kind: str, plates: ModuleType, tmp_path: Path) -> None:
    def location() -> Path:
        folder = tmp_path / "p"
        return folder if kind == "folder" else plates.make_zip(folder, tmp_path / "p.zip")

    plates.write_plate(tmp_path / "p", WELLS)
    before = now(location())
    assert before == now(location())
    assert None not in before.values()
    chunk = tmp_path / "p/A/1/2/0/1/0/0"
    chunk.write_bytes(chunk.read_bytes()[::-1] + b"x")
    after = now(location())
    assert before["B02"] == after["B02"]
    said = difference(before["A01"], after["A01"], "A01")
    assert said == "sizes or times of the chunks of well A01 changed"


class Watched:
    """A storage that keeps which objects are read, and which are looked at."""

    files = None

    def __init__(self, storage: Any) -> None:
        self._storage = storage
        self.read: set[str] = set()
        self.looked_at: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def fetch(self, key: str, *args: Any) -> Any:
        self.read.add(key)
        return self._storage.fetch(key, *args)

    def grab(self, key: str, grabs: Any) -> int | None:
        self.read.add(key)
        found: int | None = self._storage.grab(key, grabs)
        return found

    def sizes_and_times(self, keys: list[str]) -> Any:
        self.looked_at += keys
        return self._storage.sizes_and_times(keys)


STACK = {"axes": "tczyx", "chunks": (1, 1, 1, 45, 20)}
READ: list[tuple[dict[str, Any], dict[str, Any]]] = [
    *((layout, {}) for layout in LAYOUTS),
    ({}, {"channels": ("ER",)}),
    ({}, {"channels": ("ER",), "keep_empty": True}),
    ({"chunks": (2, 16, 17)}, {"channels": ("AGP",), "keep_empty": True}),
    (STACK, {"z": 2}),
    (STACK, {"z": "mean"}),
    ({**STACK, "shards": (1, 3, 2, 45, 60), "zarr_format": 3, "ngff": "0.5"}, {"z": 2}),
    ({"filters": [{"id": "delta", "dtype": "<u2"}]}, {}),
]


@pytest.mark.parametrize(("layout", "options"), READ, ids=str)
def test_what_is_read_is_looked_at_and_nothing_else(
    layout: dict[str, Any], options: dict[str, Any], plates: ModuleType, tmp_path: Path
) -> None:
    filters = layout.get("filters")
    given = {key: value for key, value in layout.items() if key != "filters"}
    plates.write_plate(tmp_path / "p", WELLS, **given)
    if filters:
        for path in (tmp_path / "p").rglob(".zarray"):
            plates.edit_json(path, lambda d: d.update(filters=filters))
    plate, wells = planned(tmp_path / "p", **options)
    chosen = EmbedOptions(tile=32, **options)
    storage: Any = Watched(plate.storage)
    stamps_before(storage, wells, (), chosen)
    assert storage.read == set()
    list(read_fields(wells, storage, chosen))
    assert len(storage.looked_at) == len(set(storage.looked_at))
    assert set(storage.looked_at) == storage.read
    assert all((tmp_path / "p" / key).is_file() for key in storage.read)


def test_regions_of_a_mosaic_share_what_is_looked_at(plates: ModuleType, tmp_path: Path) -> None:
    layout = {"sizes": {"y": 40, "x": 60}, "chunks": (1, 16, 20)}
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]}, **layout)
    regions = {f"F{n}": (13.0 * (n // 3), 13.0 * (n % 3), 13.0, 13.0) for n in range(6)}
    plates.write_roi_table(tmp_path / "p/A/1/0", 2, regions)
    plate = open_plate(tmp_path / "p")
    options = EmbedOptions(tile=16)
    wells = plan_plate(plate, options).wells
    assert len(wells[0].fields) > 1
    storage: Any = Watched(plate.storage)
    stamps_before(storage, wells, (), options)
    list(read_fields(wells, storage, options))
    assert len(storage.looked_at) == len(set(storage.looked_at))
    assert set(storage.looked_at) == storage.read


def test_what_is_not_read_may_change(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p", WELLS)
    options = EmbedOptions(tile=32, channels=("ER",))

    def found() -> Any:
        plate = open_plate(tmp_path / "p")
        wells = plan_plate(plate, options).wells
        return stamps_before(plate.storage, wells, (), options)["A01"]

    before = found()
    for channel, is_read in ((2, False), (1, True), (0, True)):  # the first: it chooses tiles
        chunk = tmp_path / f"p/A/1/1/0/{channel}/0/0"
        status = chunk.stat()
        os.utime(chunk, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        assert (found() != before) == is_read
        chunk.unlink()
        assert (found() != before) == is_read
        before = found()


@pytest.mark.parametrize("limit", ["names", "number"])
def test_folders_are_listed_where_objects_are_not_asked_for(
    limit: str, plates: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metadata may claim more chunks than anybody could ask for."""
    plates.write_plate(tmp_path / "p", WELLS, **LAYOUTS[3])
    plate, wells = planned(tmp_path / "p")
    if limit == "number":
        monkeypatch.setattr(stamps, "_MOST_ASKED", 2)
    else:
        for field in (field for well in wells for field in well.fields):
            field.field.array.document["chunk_key_encoding"] = {"name": "odd"}
    storage: Any = Watched(plate.storage)
    before = stamps_before(storage, wells, (), EmbedOptions())
    assert storage.looked_at == []
    assert None not in before.values()
    (tmp_path / "p/A/1/0/0/c.0.0.0").write_bytes(b"one more")
    after = stamps_before(storage, wells, (), EmbedOptions())
    assert (before["A01"] == after["A01"], before["B02"] == after["B02"]) == (False, True)


def test_what_metadata_claim_takes_neither_time_nor_memory(
    plates: ModuleType, tmp_path: Path
) -> None:
    plates.write_plate(tmp_path / "p", WELLS, **LAYOUTS[0])
    for shape, chunks in (([3, 10**9, 51], [1, 1, 1]), ([3, 10**8, 10**8], [3, 16, 17])):
        path = tmp_path / "p/A/1/0/0/.zarray"
        plates.edit_json(path, lambda d, s=shape, c=chunks: d.update(shape=s, chunks=c))
        plate, wells = planned(tmp_path / "p")
        tracemalloc.start()
        with plate.storage.absent_seen() as absent:
            found = stamps_before(plate.storage, wells, (), EmbedOptions())
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert None not in found.values()
        assert peak < 10 << 20
        assert len(absent) == 1  # the first of them
        assert next(iter(absent)).startswith("A/1/0/0/")


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_remote_well_has_one_stored_chunk_a_field(
    layout: dict[str, Any], server: Server, plates: ModuleType, tmp_path: Path
) -> None:
    """Each is a file of that field; it is asked for by one request, and not at all once read."""
    plates.write_plate(tmp_path / "p.zarr", WELLS, **layout)
    plate, wells = planned(f"{server.url}/p.zarr")
    server.requests.clear()
    found = stamps_before(plate.storage, wells, wells, EmbedOptions())
    n_times = 2 if "t" in layout.get("axes", "") else 1
    for task in wells:
        stamp = found[task.name]
        assert isinstance(stamp, dict)
        assert all((tmp_path / "p.zarr" / key).is_file() for key in stamp)
        paths = {field.field.array_path for field in task.fields}
        assert {next(path for path in paths if key.startswith(path)) for key in stamp} == paths
        assert len(stamp) == len(task.fields) == len(paths) * n_times
        assert all(tag.startswith('ETag "') for tag in stamp.values())
    assert len(server.requests) == sum(len(task.fields) for task in wells)
    reader = FieldReader(plate.storage)
    for field in [field for task in wells for field in task.fields]:
        reader.read(field.field, time=field.time, channels=field.channels, z="max")
    server.requests.clear()
    for task in wells:
        assert stamp_as_read(plate.storage, task, "max", None) == found[task.name]
    assert server.requests == []


def test_every_channel_and_corner_has_its_turn(
    server: Server, plates: ModuleType, tmp_path: Path
) -> None:
    wells = {f"{row}/{column}": ["0", "1"] for row in "ABCD" for column in range(1, 7)}
    plates.write_plate(tmp_path / "p.zarr", wells, chunks=(1, 32, 32))
    keys = [key for stamp in now(f"{server.url}/p.zarr").values() for key in stamp]
    drawn = {key.split("/", 4)[4] for key in keys}
    assert drawn == {f"{c}/{y}/{x}" for c, y, x in itertools.product(range(3), (0, 1), (0, 1))}


def test_only_what_is_read_is_drawn(server: Server, plates: ModuleType, tmp_path: Path) -> None:
    layout = {"axes": "tczyx", "chunks": (1, 1, 1, 45, 51)}
    wells = {f"A/{column}": ["0"] for column in range(1, 13)}
    plates.write_plate(tmp_path / "p.zarr", wells, **layout)
    plate, tasks = planned(f"{server.url}/p.zarr", channels=("ER",), z=2)
    found = stamps_before(plate.storage, tasks, tasks, EmbedOptions(z=2))
    drawn = {key.split("/", 4)[4] for stamp in found.values() for key in stamp or ()}
    assert drawn == {"0/1/2/0/0", "1/1/2/0/0"}


@pytest.mark.parametrize("tells", ["etag", "modified"])
def test_a_changed_chunk_is_named(
    tells: str, server: Server, plates: ModuleType, tmp_path: Path
) -> None:
    server.tells = tells
    plates.write_plate(tmp_path / "p.zarr", WELLS)
    before = now(f"{server.url}/p.zarr")
    assert before == now(f"{server.url}/p.zarr")
    key = next(iter(before["B02"]))
    chunk = tmp_path / "p.zarr" / key
    chunk.write_bytes(chunk.read_bytes() + b"x")
    after = now(f"{server.url}/p.zarr")
    assert difference(before["A01"], after["A01"], "A01") is None
    said = difference(before["B02"], after["B02"], "B02")
    assert said is not None
    assert said.startswith(f"chunk {key} of well B02 changed (it was: {before['B02'][key]}; now: ")
    chunk.unlink()
    said = difference(after["B02"], now(f"{server.url}/p.zarr")["B02"], "B02")
    assert said is not None
    assert said.endswith("; now: absent)")


def test_the_tag_is_of_what_was_read(server: Server, plates: ModuleType, tmp_path: Path) -> None:
    """Pixels that change after they were read are not taken for those that were embedded."""
    written = plates.write_plate(tmp_path / "p.zarr", WELLS)
    before = now(f"{server.url}/p.zarr")
    plate, tasks = planned(f"{server.url}/p.zarr")
    plates.check_pixels(plate, written)
    for key in before["B02"]:
        chunk = tmp_path / "p.zarr" / key
        chunk.write_bytes(chunk.read_bytes() + b"x")
    assert stamp_as_read(plate.storage, tasks[1], "max", None) == before["B02"]
    found = stamps_before(plate.storage, tasks, tasks[1:], EmbedOptions())
    assert found["A01"] is None  # nobody asked
    assert difference(before["B02"], found["B02"], "B02") is not None


def test_a_server_that_tells_nothing_says_nothing(
    server: Server, plates: ModuleType, tmp_path: Path
) -> None:
    server.tells, server.tells_size, server.knows_ranges = "nothing", False, False
    plates.write_plate(tmp_path / "p.zarr", WELLS)
    found = now(f"{server.url}/p.zarr")
    assert found == {"A01": None, "B02": None}
    plate, wells = planned(f"{server.url}/p.zarr")
    plates.pixels_of(plate)
    server.requests.clear()
    assert [stamp_as_read(plate.storage, task, "max", None) for task in wells] == [None, None]
    assert server.requests == []  # it is not asked again
    assert difference(None, "x", "A01") is None
    assert difference({"key": "x"}, "x", "A01") is None
    assert difference({"key": "x"}, {"other": "y"}, "A01") is None


def test_a_server_that_fails_is_an_error(
    server: Server, plates: ModuleType, tmp_path: Path
) -> None:
    plates.write_plate(tmp_path / "p.zarr", WELLS)
    plate, wells = planned(f"{server.url}/p.zarr")
    server.first = lambda handler: handler.reply(503, b"", body=True) is None
    with pytest.raises(PlateError, match=r"whether chunk A/1/0/.* of well A01 changed cannot be"):
        stamps_before(plate.storage, wells, wells, EmbedOptions())


def test_a_well_that_was_read_is_kept_when_the_server_is_gone(
    server: Server, plates: ModuleType, tmp_path: Path
) -> None:
    """Even where its tags are not known: it is then not compared."""
    plates.write_plate(tmp_path / "p.zarr", WELLS)
    plate, wells = planned(f"{server.url}/p.zarr")
    server.first = lambda handler: handler.reply(503, b"", body=True) is None
    assert stamp_as_read(plate.storage, wells[0], "max", None) is None


def test_other_file_systems_have_tags_too(plates: ModuleType, tmp_path: Path) -> None:
    import fsspec

    plates.write_plate(tmp_path / "p", {"A/1": ["0"]})
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "p"), "/bucket/p.zarr", recursive=True)
    try:
        before = now("memory://bucket/p.zarr")
        plate, [task] = planned("memory://bucket/p.zarr")
        assert stamp_as_read(plate.storage, task, "max", None) == before["A01"]
        [key] = before["A01"]
        memory.pipe(f"/bucket/p.zarr/{key}", np.random.default_rng(0).bytes(7))
        after = now("memory://bucket/p.zarr")
        assert difference(before["A01"], after["A01"], "A01") is not None
    finally:
        memory.rm("/bucket", recursive=True)
