"""Plates whose chunks compiled code decodes into place: the same pixels, each chunk once."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xxhash
from placed_pixels import read_into_used_memory, said, used

from unidino_fast.compiled import Compiled
from unidino_fast.errors import PixelError
from unidino_fast.plate import open_plate
from unidino_fast.plate_model import Region
from unidino_fast.reading import FieldReader, FieldRequest, decoders, placing
from unidino_fast.reading.room import ZstdDecoder, zstd_of_thread
from unidino_fast.storage import FolderStorage

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from plate_server import Server
    from steps import Steps

READ: dict[str, dict[str, Any]] = {
    "whole": {},
    "signed": {"dtype": "<i2"},
    "edges": {"chunks": (1, 16, 20)},
    "all-channels": {"chunks": (3, 45, 51)},
    "max": {"axes": "czyx", "chunks": (1, 1, 16, 20)},
    "absent": {"chunks": (1, 16, 20), "absent": ((0, 1, 1), (2, 0, 0)), "fill_value": 7},
    "v3": {"zarr_format": 3, "ngff": "0.5", "chunks": (1, 16, 20)},
    "shards": {
        "zarr_format": 3, "ngff": "0.5", "chunks": (1, 16, 20), "shards": (1, 32, 60),
    },
}  # fmt: skip


@pytest.mark.parametrize("codec", ["blosc-lz4-shuffle", "blosc-zstd-bitshuffle", "zstd"])
@pytest.mark.parametrize("name", READ)
def test_plates_are_read_by_it(
    name: str, codec: str, steps: Steps, plates: ModuleType, tmp_path: Path
) -> None:
    layout = plates.Layout(codec=codec, **READ[name])
    written = plates.write_plate(tmp_path / "p", layout=layout)
    for path, read in read_into_used_memory(open_plate(tmp_path / "p")):
        pixels = written.pop(path)
        np.testing.assert_array_equal(read, pixels.max(axis=1) if name == "max" else pixels)
    assert not written
    n_chunks = {"whole": 3, "signed": 3, "all-channels": 1, "absent": 25}.get(name, 27)
    # of a stack the first of the layers alone; chunks that are absent are not there to be taken
    n_absent = 2 * len(READ[name].get("absent", ()))
    assert sorted(said(steps)) == [False] * n_absent + [True] * 2 * n_chunks


@pytest.mark.parametrize("name", ["whole", "edges", "all-channels", "absent", "v3", "shards"])
@pytest.mark.parametrize("is_one_by_one", [False, True])
def test_each_chunk_is_read_once(
    is_one_by_one: bool,
    name: str,
    steps: Steps,
    plates: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By compiled code alone, but for indices of shards and chunks that are absent."""
    others: list[str] = []
    for way in ("grab", "fetch"):
        usual = getattr(FolderStorage, way)

        def noted(storage: FolderStorage, key: str, *given: Any, usual: Any = usual) -> Any:
            others.append(key)
            return usual(storage, key, *given)

        monkeypatch.setattr(FolderStorage, way, noted)
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]}, codec="blosc-lz4-shuffle", **READ[name])
    plate = open_plate(tmp_path / "p")
    others.clear()  # metadata
    reader = FieldReader(plate.storage, allocate=used)
    is_split = is_one_by_one and name != "all-channels"
    for channels in ((0,), (1,), (2,)) if is_split else ((0, 1, 2),):
        reader.read(plate.fields[0], time=0, channels=channels, z="max")
    n_chunks = {"whole": 3, "all-channels": 1}.get(name, 27)
    assert len(steps.parts) == len(set(steps.parts)) == n_chunks
    assert len(others) == len(set(others)) == {"absent": 2, "shards": 6}.get(name, 0)


@pytest.mark.parametrize("has_files", [True, False])
@pytest.mark.parametrize("name", [*READ, "rows", "stack", "broken"])
def test_checksums_are_taken_on_the_way_of_planes_that_are_chunks(
    name: str,
    has_files: bool,
    steps: Steps,
    plates: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of pixels as they are, or none: not of what was read before, where nothing is read."""
    absent = ((1, 0, 0),) if name == "whole" else READ.get(name, {}).get("absent", ())
    layout = READ.get(name, {}) | {"absent": absent}
    if name == "rows":
        layout["chunks"] = 1, 15, 51
    if name == "stack":
        layout |= {"axes": "czyx", "chunks": (1, 1, 45, 51)}
    written = plates.write_plate(tmp_path / "p", codec="blosc-zstd-bitshuffle", **layout)
    if name == "broken":
        (tmp_path / "p/A/1/0/0/1/0/0").write_bytes(b"broken")
    plate = open_plate(tmp_path / "p")
    if not has_files:
        monkeypatch.setattr(plate.storage, "files", None)
    taken = []

    def note(pixels: Any, numbers: Any, known: Any) -> Any:
        for number, (checksum, found) in zip(numbers, known, strict=True):
            taken.append(checksum != 0)
            assert found is None
            assert checksum in (0, xxhash.xxh3_64_intdigest(pixels[number]))
        return numbers

    requests = [FieldRequest(field, 0, (0, 1, 2), "max") for field in plate.fields]
    found = list(FieldReader(plate.storage, n_threads=1).stream_noted(requests, note, list))
    n_broken = sum(isinstance(one, PixelError) for one in found)
    assert (len(found), n_broken) == (len(written), int(name == "broken"))
    n_planes = 3 * len(written)
    expected = {"whole": n_planes - len(written), "signed": n_planes, "broken": n_planes - 3}
    assert sum(taken) == expected.get(name, 0)


@pytest.mark.parametrize("codec", ["blosc-lz4-shuffle", "blosc-zstd-bitshuffle", "zstd"])
def test_pixels_that_it_cannot_put(
    codec: str, steps: Steps, plates: ModuleType, tmp_path: Path
) -> None:
    """Of some channels of a chunk, and of regions that share chunks or begin within one."""
    written = plates.write_plate(tmp_path / "p", {"A/1": ["0"]}, codec=codec, chunks=(2, 16, 20))
    [pixels] = written.values()
    plate = open_plate(tmp_path / "p")
    for _, read in read_into_used_memory(plate):
        np.testing.assert_array_equal(read, pixels)
    whole = plates.write_plate(tmp_path / "q", {"A/1": ["0"]}, codec=codec, chunks=(3, 45, 51))
    [field] = open_plate(tmp_path / "q").fields
    reader = FieldReader(open_plate(tmp_path / "q").storage, allocate=used)
    for channels in ((1,), (2, 0), (0, 1)):
        read = reader.read(field, time=0, channels=channels, z="max")
        np.testing.assert_array_equal(read, whole["A/1/0"][list(channels)])
    assert said(steps) == []
    shared = plates.write_plate(tmp_path / "r", {"A/1": ["0"]}, codec=codec, chunks=(1, 16, 20))
    [field] = open_plate(tmp_path / "r").fields
    regions = [Region(0, 0, 20, 30), Region(20, 30, 20, 21), Region(5, 7, 20, 30)]
    parts = [FieldRequest(replace(field, region=region), 0, (0, 1, 2), "max") for region in regions]
    reader = FieldReader(open_plate(tmp_path / "r").storage, allocate=used)
    for region, found in zip(regions, reader.stream(parts), strict=True):
        y, x, height, width = region.y, region.x, region.height, region.width
        wanted = shared["A/1/0"][:, y : y + height, x : x + width]
        assert not isinstance(found, PixelError)
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("way", ["no files", "missed"])
@pytest.mark.parametrize("codec", ["none", "zstd", "blosc-lz4-shuffle"])
@pytest.mark.parametrize("name", ["edges", "absent", "v3", "shards"])
def test_chunks_that_it_does_not_read_itself(
    name: str,
    codec: str,
    way: str,
    steps: Steps,
    plates: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As of URLs, or where files cannot be opened for a moment."""
    written = plates.write_plate(tmp_path / "p", codec=codec, **READ[name])
    plate = open_plate(tmp_path / "p")
    if way == "no files":
        monkeypatch.setattr(plate.storage, "files", None)
    else:
        decoders = placing._Decoders(placing._COMPILED.for_more(1).place, lambda *_: 0)
        choice = Compiled(lambda: decoders, after=-1, lack="")
        choice.for_more(1)
        monkeypatch.setattr(placing, "_COMPILED", choice)
    for path, read in read_into_used_memory(plate):
        np.testing.assert_array_equal(read, written.pop(path))
    assert not written
    assert all(said(steps))
    assert steps


def test_each_chunk_of_a_stack_is_fetched_once(
    steps: Steps, plates: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []
    grab = FolderStorage.grab
    monkeypatch.setattr(
        FolderStorage, "grab", lambda *given: (fetched.append(given[1]), grab(*given))[1]
    )
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]}, **READ["max"])
    for _ in read_into_used_memory(open_plate(tmp_path / "p")):
        pass
    fetched += [path.removeprefix(f"{tmp_path}/p/") for path, _, _ in steps.parts]
    assert len(fetched) == len(set(fetched)) == 3 * 4 * 9
    assert said(steps) == [True] * 3 * 9


@pytest.mark.parametrize("codec", ["blosc-lz4-shuffle", "zstd"])
@pytest.mark.parametrize("is_remote", [False, True])
def test_plates_in_zips_and_on_servers(
    is_remote: bool,
    codec: str,
    steps: Steps,
    plates: ModuleType,
    tmp_path: Path,
    server: Server,
) -> None:
    written = plates.write_plate(tmp_path / "p", chunks=(1, 16, 20), codec=codec)
    place: Any = decoders.place
    n_compiled = len(place.signatures)
    where = f"{server.url}/p" if is_remote else plates.make_zip(tmp_path / "p", tmp_path / "p.zip")
    plates.check_pixels(open_plate(where), written)
    assert said(steps) == [True] * 54
    assert len(place.signatures) == n_compiled


@pytest.mark.parametrize("change", [{"dtype": ">u2"}, {"dtype": "|u1"}, {"dtype": "<u4"}])
def test_other_pixels_are_not_tried(
    change: dict[str, Any], steps: Steps, plates: ModuleType, tmp_path: Path
) -> None:
    written = plates.write_plate(tmp_path / "p", **change)
    plates.check_pixels(open_plate(tmp_path / "p"), written)
    assert said(steps) == []


def test_other_kinds_are_tried_once(steps: Steps, plates: ModuleType, tmp_path: Path) -> None:
    written = plates.write_plate(tmp_path / "p", chunks=(1, 16, 20), codec="blosc-zlib-shuffle")
    plate = open_plate(tmp_path / "p")
    for path, read in read_into_used_memory(plate, n_threads=1):
        np.testing.assert_array_equal(read, written[path])
    # noise is stored as it is, by any codec; zeros behind the edge of a field are not: such a chunk
    # is fetched once more, to be decoded otherwise
    assert steps == [
        (27 - 9 * channel - before, n_taken)
        for channel in range(3)
        for before, n_taken in ((0, 2), (3, 2), (6, 0), (7, 0), (8, 0))
    ] + [(1, 0)]


@pytest.mark.parametrize("sharded", [False, True])
def test_a_damaged_chunk_is_named(
    sharded: bool, steps: Steps, plates: ModuleType, tmp_path: Path
) -> None:
    name = "shards" if sharded else "v3"
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]}, **READ[name])
    place = "A/1/0/0/c/0/0/0" if sharded else "A/1/0/0/c/0/0/1"
    stored = bytearray((tmp_path / "p" / place).read_bytes())
    at = 0 if not sharded else len(stored) // 3
    stored[at : at + 40] = bytes(40)
    (tmp_path / "p" / place).write_bytes(stored)
    plate = open_plate(tmp_path / "p")
    reader = FieldReader(plate.storage)
    with pytest.raises(PixelError, match=f"^chunk {place} cannot be read"):
        reader.read(plate.fields[0], time=0, channels=(0,), z="max")
    assert False in said(steps)


def test_without_a_compiler_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    plates: ModuleType,
    tmp_path: Path,
) -> None:
    monkeypatch.setitem(sys.modules, "unidino_fast.reading.decoders", None)
    choice = Compiled(placing._decoders, after=-1, lack=placing._COMPILED._lack)
    monkeypatch.setattr(placing, "_COMPILED", choice)
    written = plates.write_plate(tmp_path / "p")
    for _ in range(2):
        plates.check_pixels(open_plate(tmp_path / "p"), written)
    [record] = caplog.records
    assert record.getMessage().startswith(
        "chunks are decoded and then put into place, which is slower: import of"
    )


def test_few_chunks_are_not_worth_compiling(
    monkeypatch: pytest.MonkeyPatch, plates: ModuleType, tmp_path: Path
) -> None:
    written = plates.write_plate(tmp_path / "p")  # two fields of three chunks
    made = []
    choice: Any = Compiled(lambda: made.append(1), after=5 * 2 * 45 * 51, lack="")
    monkeypatch.setattr(placing, "_COMPILED", choice)
    plate = open_plate(tmp_path / "p")
    reader = FieldReader(plate.storage, n_threads=1)
    reader.read(plate.fields[0], time=0, channels=range(3), z="max")
    assert not made
    plates.check_pixels(plate, written)
    assert made == [1]


def test_each_thread_has_a_decoder_which_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    freed: list[int] = []
    usual = ZstdDecoder.__del__
    monkeypatch.setattr(
        ZstdDecoder,
        "__del__",
        lambda decoder: (freed.append(decoder.address), usual(decoder)),
    )
    found: list[int] = []

    def look() -> None:
        found.append(zstd_of_thread())
        assert zstd_of_thread() == found[-1]

    own = zstd_of_thread()
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found != [own]
    assert freed == found


def test_compiled_code_is_tried_before_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "place", lambda *_: True)  # and puts nothing
    with pytest.raises(RuntimeError, match=r"^lz4 as compiled does not decode a chunk$"):
        placing._decoders()
