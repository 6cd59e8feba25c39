"""Chunks decoded into place: as c-blosc and zstd decode them, whatever they are or claim to be."""

from __future__ import annotations

import ctypes
import functools
import mmap
import struct
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import Blosc, Zstd

from unidino_fast.compiled import Compiled
from unidino_fast.errors import PixelError
from unidino_fast.plate import open_plate
from unidino_fast.plate_model import Region
from unidino_fast.reading import FieldReader, FieldRequest, decoders, placing
from unidino_fast.reading.codecs import blosc_into, zstd_into
from unidino_fast.storage import FolderStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import ModuleType

    from plate_server import Server

    from unidino_fast.plate_model import Plate

MARGIN = 64
"""Pixels before and behind those that are written to."""
UNTOUCHED = 0xA5A5
HEADER = struct.Struct("<BBBBiii")


class Place:
    """Memory that a chunk is put into, in which every other pixel is to stay as it is."""

    def __init__(self, shape: tuple[int, int], kept: tuple[int, int], pitch: int) -> None:
        self.height, self.width = shape
        self.rows, self.columns = kept
        self.pitch = pitch
        self.memory = np.full(2 * MARGIN + self.rows * pitch, UNTOUCHED, np.uint16)
        n_words = -(-2 * self.height * self.width // 8)
        self.staged = np.full(8 * n_words, 0xEE, np.uint8)
        self.unshuffled = np.zeros(n_words, np.uint64)
        self.zstd = decoders.ZstdDecoder()

    def take(self, stored: bytes, place: Any = decoders.place_blosc) -> bool:
        """Decodes a chunk; what reads a byte behind it crashes."""
        address = self.zstd.address
        assert address is not None
        found: bool = place(
            at_the_end_of_memory(stored),
            self.height * self.width,
            self.width,
            self.memory,
            MARGIN,
            self.pitch,
            self.rows,
            self.columns,
            self.staged[: 2 * self.height * self.width],
            self.unshuffled,
            address,
        )
        return found

    @property
    def pixels(self) -> np.ndarray:
        """What was put there; nothing else may have been."""
        lines = self.memory[MARGIN:-MARGIN].reshape(self.rows, self.pitch)
        assert (self.memory[:MARGIN] == UNTOUCHED).all()
        assert (self.memory[-MARGIN:] == UNTOUCHED).all()
        assert (lines[:, self.columns :] == UNTOUCHED).all()
        return lines[:, : self.columns]


@functools.cache
def guarded(n_pages: int) -> np.ndarray:
    """Pages of memory, behind which there is one that nobody may read."""
    memory = mmap.mmap(-1, (n_pages + 1) * mmap.PAGESIZE)
    whole = np.frombuffer(memory, np.uint8)
    found = whole[: n_pages * mmap.PAGESIZE]
    last = ctypes.c_void_p(whole.ctypes.data + found.size)
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    assert protect(last, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    return found


def at_the_end_of_memory(stored: bytes) -> np.ndarray:
    pages = guarded(1 + len(stored) // mmap.PAGESIZE)
    found = pages[pages.size - len(stored) :]
    found[...] = np.frombuffer(stored, np.uint8)
    return found


def planes(kind: str, shape: tuple[int, int], seed: int) -> np.ndarray:
    """Pixels of some compressibility."""
    rng = np.random.default_rng(seed)
    if kind == "noise":
        return rng.integers(0, 65536, shape, dtype=np.uint16)
    if kind == "flat":
        return np.full(shape, seed * 257 % 65536, np.uint16)
    return rng.poisson(300, shape).astype(np.uint16)


@settings(max_examples=400, deadline=None)
@given(
    codec=st.sampled_from(["lz4", "lz4hc", "zstd"]),
    level=st.integers(0, 9),
    shuffle=st.sampled_from([Blosc.NOSHUFFLE, Blosc.SHUFFLE, Blosc.BITSHUFFLE]),
    block=st.sampled_from([0, 16, 64, 254, 256, 258, 1000, 4096, 2**15]),
    shape=st.tuples(st.integers(1, 300), st.integers(1, 400)),
    cut=st.tuples(st.integers(0, 40), st.integers(0, 70)),
    beyond=st.integers(0, 30),
    kind=st.sampled_from(["noise", "flat", "dim"]),
    seed=st.integers(0, 99),
)
def test_pixels_are_those_that_were_stored(
    codec: str,
    level: int,
    shuffle: int,
    block: int,
    shape: tuple[int, int],
    cut: tuple[int, int],
    beyond: int,
    kind: str,
    seed: int,
) -> None:
    pixels = planes(kind, shape, seed)
    stored = Blosc(codec, level, shuffle, block).encode(pixels)
    kept = max(1, shape[0] - cut[0]), max(1, shape[1] - cut[1])
    place = Place(shape, kept, kept[1] + beyond)
    assert place.take(stored)
    np.testing.assert_array_equal(place.pixels, pixels[: kept[0], : kept[1]])


@pytest.mark.parametrize("shuffle", [Blosc.NOSHUFFLE, Blosc.SHUFFLE])
@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_bytes_that_were_stored_as_such(codec: str, shuffle: int) -> None:
    """Writers may well say elements of one byte."""
    pixels = planes("dim", (70, 90), 0)
    stored = Blosc(codec, 5, shuffle).encode(pixels.tobytes())
    assert stored[3] == 1
    place = Place((70, 90), (70, 90), 90)
    assert place.take(stored)
    np.testing.assert_array_equal(place.pixels, pixels)


def others() -> Iterator[tuple[str, bytes]]:
    """Chunks that are sound, and decoded elsewhere."""
    pixels = planes("dim", (70, 90), 0)
    for codec in ("zlib", "blosclz"):
        yield codec, Blosc(codec, 5, Blosc.SHUFFLE).encode(pixels)
    yield "bits of bytes", Blosc("lz4", 5, Blosc.BITSHUFFLE).encode(pixels.tobytes())
    yield "four bytes", Blosc("lz4", 5, Blosc.SHUFFLE).encode(pixels.view(np.uint32))


OTHERS = dict(others())


@pytest.mark.parametrize("name", OTHERS)
def test_other_kinds_are_left_to_others(name: str) -> None:
    place = Place((70, 90), (70, 90), 90)
    assert not place.take(OTHERS[name])
    assert (place.pixels == UNTOUCHED).all()


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
@pytest.mark.parametrize("shuffle", [Blosc.NOSHUFFLE, Blosc.SHUFFLE, Blosc.BITSHUFFLE])
def test_damaged_chunks_touch_nothing_else_and_never_differ(codec: str, shuffle: int) -> None:
    """What is taken for sound has the pixels that c-blosc2 gives it."""
    rng = np.random.default_rng(0)
    n_taken = 0
    for shape, block in (((24, 61), 0), ((24, 61), 256), ((24, 61), 1000), (LARGE, 0)):
        whole = Blosc(codec, 1, shuffle, block).encode(planes("dim", shape, 1))
        kept = shape[0] - 1, shape[1] - 1
        place = Place(shape, kept, kept[1] + 4)
        for _ in range(2000):
            stored = damaged(whole, rng)
            place.memory[...] = UNTOUCHED
            if place.take(stored):
                n_taken += 1
                out = np.zeros(2 * shape[0] * shape[1], np.uint8)
                blosc_into(memoryview(stored), out)
                found = out.view(np.uint16).reshape(shape)
                np.testing.assert_array_equal(place.pixels, found[: kept[0], : kept[1]])
            assert place.pixels.shape == kept  # and looks at what lies around
    assert 200 < n_taken < 7000


LARGE = 200, 300
"""Pixels of more than one block, the last of which is smaller."""


def damaged(whole: bytes, rng: np.random.Generator) -> bytes:
    """A chunk with other bytes, most of them in its headers, or cut short."""
    stored = bytearray(whole)
    for _ in range(rng.integers(1, 4)):
        at = rng.integers(0, min(len(stored), rng.choice([16, 60, 2**20])))
        stored[at] = rng.choice([stored[at] ^ (1 << rng.integers(8)), 0, 255, 128])
    if rng.random() < 0.3:
        del stored[rng.integers(0, len(stored)) :]
    if rng.random() < 0.5 and len(stored) >= 16:
        stored[12:16] = len(stored).to_bytes(4, "little")
    return bytes(stored)


def edited(**fields: int) -> bytes:
    """A chunk of two blocks with another header, or another start or size of the second."""
    stored = bytearray(Blosc("lz4", 1, Blosc.SHUFFLE).encode(planes("dim", LARGE, 1)))
    names = ("version", "versionlz", "flags", "element", "n_bytes", "block", "stored")
    header = dict(zip(names, HEADER.unpack_from(stored), strict=True))
    assert (header["flags"], header["block"]) == (0x21, 65_536)
    changes = {name: value for name, value in fields.items() if name in header}
    HEADER.pack_into(stored, 0, *(header | changes).values())
    [second] = struct.unpack_from("<i", stored, 20)
    if "start" in fields:
        struct.pack_into("<i", stored, 20, fields["start"])
    if "before_end" in fields:
        struct.pack_into("<i", stored, 20, len(stored) - fields["before_end"])
    if "size" in fields:
        struct.pack_into("<i", stored, second, fields["size"])
    return bytes(stored)


LIES: list[dict[str, int]] = [
    {"version": 1}, {"version": 3}, {"flags": 0x25}, {"flags": 0xE1}, {"flags": 0x29},
    {"flags": 0x22}, {"flags": 0x23}, {"element": 0}, {"element": 3}, {"n_bytes": 119_998},
    {"n_bytes": -1}, {"n_bytes": 2**31 - 1}, {"block": 0}, {"block": 1}, {"block": 65_535},
    {"block": -65_536}, {"block": 120_002}, {"block": 2**31 - 1}, {"block": 2}, {"stored": 1},
    {"stored": 2**31 - 1}, {"stored": -1}, {"start": 0}, {"start": 15}, {"start": -4},
    {"start": -(2**31)}, {"start": 2**31 - 1}, {"size": 0}, {"size": -1}, {"size": 2**31 - 1},
    {"size": 54_465}, {"size": 9}, {"before_end": 1}, {"before_end": 3}, {"before_end": 4},
]  # fmt: skip


@pytest.mark.parametrize("lie", LIES, ids=str)
def test_headers_that_lie(lie: dict[str, int]) -> None:
    sound, place = Place(LARGE, LARGE, LARGE[1]), Place(LARGE, LARGE, LARGE[1])
    assert sound.take(edited())
    assert not place.take(edited(**lie))
    assert place.pixels.shape == LARGE


def by_hand(
    flags: int, element: int, block: int, streams: list[list[bytes]], cut: int = 0
) -> bytes:
    """A chunk of 256 pixels whose streams stand there as they are."""
    starts, body = [], b""
    for parts in streams:
        starts.append(HEADER.size + 4 * len(streams) + len(body))
        body += b"".join(len(part).to_bytes(4, "little") + part for part in parts)
    body = body[: len(body) - cut]
    size = HEADER.size + 4 * len(streams) + len(body)
    header = HEADER.pack(2, 1, flags, element, 512, block, size)
    return header + struct.pack(f"<{len(starts)}i", *starts) + body


def test_streams_that_are_as_they_are() -> None:
    pixels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    low, high = bytes(range(256)), bytes(256)
    plain = pixels.tobytes()
    sound = {
        "split": by_hand(0x21, 2, 512, [[low, high]]),
        "unsplit": by_hand(0x31, 2, 512, [[low + high]]),
        "plain": by_hand(0x30, 2, 512, [[plain]]),
        "copied": HEADER.pack(2, 1, 0x22, 2, 512, 512, 528) + plain,
        "blocks": by_hand(0x30, 1, 200, [[plain[:200]], [plain[200:400]], [plain[400:]]]),
    }
    for stored in sound.values():
        place = Place((16, 16), (16, 16), 20)
        assert place.take(stored)
        np.testing.assert_array_equal(place.pixels, pixels)
    refused = {
        "longer": by_hand(0x21, 2, 512, [[low + b"1", high]]),
        "both longer": by_hand(0x21, 2, 512, [[low + b"1", high + b"1"]]),
        "shorter": by_hand(0x21, 2, 512, [[low[:-1], high]]),
        "longer, unsplit": by_hand(0x31, 2, 512, [[low + high + b"1"]]),
        "a pixel in two blocks": by_hand(
            0x30, 1, 201, [[plain[:201]], [plain[201:402]], [plain[402:]]]
        ),
        "none": by_hand(0x31, 2, 512, [[b""]]),
        "ends before its last byte": by_hand(0x21, 2, 512, [[low, high]], cut=1),
        "copied, longer": HEADER.pack(2, 1, 0x22, 2, 512, 512, 529) + plain + b"1",
        "copied, shorter": HEADER.pack(2, 1, 0x22, 2, 512, 512, 527) + plain[:-1],
    }
    for name, stored in refused.items():
        place = Place((16, 16), (16, 16), 20)
        assert not place.take(stored), name
        assert place.pixels.shape == (16, 16)


def test_a_flag_that_c_blosc_never_sets() -> None:
    """c-blosc2 would take it for one of its own, and add pixels up."""
    out = np.zeros(2 * LARGE[0] * LARGE[1], np.uint8)
    with pytest.raises(RuntimeError):
        blosc_into(memoryview(edited(flags=0x29)), out)


def test_every_length() -> None:
    whole = Blosc("zstd", 5, Blosc.BITSHUFFLE).encode(planes("dim", (24, 61), 1))
    for length in range(len(whole)):
        stored = bytearray(whole[:length])
        place = Place((24, 61), (24, 61), 61)
        assert not place.take(bytes(stored))
        stored[12:16] = length.to_bytes(4, "little")
        assert not place.take(bytes(stored[:length]))


@pytest.mark.parametrize(
    ("shape", "kept", "pitch"),
    [((0, 300), (1, 1), 300), (LARGE, (201, 300), 300), (LARGE, (200, 301), 301),
     (LARGE, (200, 300), 299), (LARGE, (0, 300), 300), (LARGE, (200, 0), 300)],
)  # fmt: skip
def test_places_that_it_does_not_fit(
    shape: tuple[int, int], kept: tuple[int, int], pitch: int
) -> None:
    assert not Place(shape, kept, pitch).take(edited())


@pytest.mark.parametrize("name", ["staged", "unshuffled"])
def test_too_little_to_work_in(name: str) -> None:
    place = Place(LARGE, LARGE, 300)
    setattr(place, name, getattr(place, name)[: 65_536 // getattr(place, name).itemsize - 1])
    assert not place.take(edited())


@pytest.mark.parametrize(("start", "fits"), [(-1, False), (0, True), (2, True), (3, False)])
def test_memory_that_ends_before(start: int, fits: bool) -> None:
    place = Place(LARGE, LARGE, 300)
    stored = np.frombuffer(bytearray(edited()), np.uint8)
    memory = np.zeros(200 * 300 + 2, np.uint16)
    address: Any = place.zstd.address
    arguments = memory, start, 300, 200, 300, place.staged, place.unshuffled, address
    assert decoders.place_blosc(stored, 200 * 300, 300, *arguments) == fits


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


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Has compiled code decode from the first chunk on; what it says of each."""
    found: list[bool] = []

    def noting(make: Callable[[], Any]) -> Compiled[Any]:
        place = make()

        def noted(*arguments: Any) -> bool:
            found.append(place(*arguments))
            return found[-1]

        choice = Compiled(lambda: noted, after=-1, lack="")
        choice.for_more(1)  # other threads would do without until it is made
        return choice

    monkeypatch.setitem(placing._COMPILED, blosc_into, noting(placing._blosc))
    monkeypatch.setitem(placing._COMPILED, zstd_into, noting(placing._zstd))
    return found


def used(n_bytes: int) -> memoryview:
    """Memory in which what is not written to is seen."""
    return memoryview(bytearray(b"\xa5" * n_bytes))


def read_into_used_memory(plate: Plate, n_threads: int = 2) -> Iterator[tuple[str, np.ndarray]]:
    """Pixels by the path of each field."""
    reader = FieldReader(plate.storage, n_threads=n_threads, allocate=used)
    for field in plate.fields:
        pixels = reader.read(field, time=0, channels=range(3), z="max")
        yield field.array_path.removesuffix("/0"), pixels


@pytest.mark.parametrize("codec", ["blosc-lz4-shuffle", "blosc-zstd-bitshuffle", "zstd"])
@pytest.mark.parametrize("name", READ)
def test_plates_are_read_by_it(
    name: str, codec: str, said: list[bool], plates: ModuleType, tmp_path: Path
) -> None:
    layout = plates.Layout(codec=codec, **READ[name])
    written = plates.write_plate(tmp_path / "p", layout=layout)
    for path, read in read_into_used_memory(open_plate(tmp_path / "p")):
        pixels = written.pop(path)
        np.testing.assert_array_equal(read, pixels.max(axis=1) if name == "max" else pixels)
    assert not written
    n_chunks = {"whole": 3, "signed": 3, "all-channels": 1, "absent": 25}.get(name, 27)
    assert said == [True] * 2 * n_chunks  # and of a stack the first of the layers alone


@pytest.mark.parametrize("codec", ["blosc-lz4-shuffle", "blosc-zstd-bitshuffle", "zstd"])
def test_pixels_that_it_cannot_put(
    codec: str, said: list[bool], plates: ModuleType, tmp_path: Path
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
    assert said == []
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


def test_each_chunk_of_a_stack_is_fetched_once(
    said: list[bool], plates: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []
    grab = FolderStorage.grab
    monkeypatch.setattr(
        FolderStorage, "grab", lambda *given: (fetched.append(given[1]), grab(*given))[1]
    )
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]}, **READ["max"])
    for _ in read_into_used_memory(open_plate(tmp_path / "p")):
        pass
    assert len(fetched) == len(set(fetched)) == 3 * 4 * 9
    assert len(said) == 3 * 9


@pytest.mark.parametrize("codec", ["blosc-lz4-shuffle", "zstd"])
@pytest.mark.parametrize("is_remote", [False, True])
def test_plates_in_zips_and_on_servers(
    is_remote: bool,
    codec: str,
    said: list[bool],
    plates: ModuleType,
    tmp_path: Path,
    server: Server,
) -> None:
    written = plates.write_plate(tmp_path / "p", chunks=(1, 16, 20), codec=codec)
    place: Any = decoders.place_zstd if codec == "zstd" else decoders.place_blosc
    n_compiled = len(place.signatures)
    where = f"{server.url}/p" if is_remote else plates.make_zip(tmp_path / "p", tmp_path / "p.zip")
    plates.check_pixels(open_plate(where), written)
    assert said == [True] * 54
    assert len(place.signatures) == n_compiled


@pytest.mark.parametrize("change", [{"dtype": ">u2"}, {"dtype": "|u1"}, {"dtype": "<u4"}])
def test_other_pixels_are_not_tried(
    change: dict[str, Any], said: list[bool], plates: ModuleType, tmp_path: Path
) -> None:
    written = plates.write_plate(tmp_path / "p", **change)
    plates.check_pixels(open_plate(tmp_path / "p"), written)
    assert said == []


def test_other_kinds_are_tried_once(said: list[bool], plates: ModuleType, tmp_path: Path) -> None:
    written = plates.write_plate(tmp_path / "p", chunks=(1, 16, 20), codec="blosc-zlib-shuffle")
    plate = open_plate(tmp_path / "p")
    for path, read in read_into_used_memory(plate, n_threads=1):
        np.testing.assert_array_equal(read, written[path])
    # noise is stored as it is, by any codec; zeros behind the edge of a field are not
    assert said == [True, True, False]


@pytest.mark.parametrize("sharded", [False, True])
def test_a_damaged_chunk_is_named(
    sharded: bool, said: list[bool], plates: ModuleType, tmp_path: Path
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
    assert False in said


def test_without_a_compiler_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    plates: ModuleType,
    tmp_path: Path,
) -> None:
    monkeypatch.setitem(sys.modules, "unidino_fast.reading.decoders", None)
    choice = Compiled(placing._blosc, after=-1, lack=placing._COMPILED[blosc_into]._lack)
    monkeypatch.setitem(placing._COMPILED, blosc_into, choice)
    written = plates.write_plate(tmp_path / "p")
    for _ in range(2):
        plates.check_pixels(open_plate(tmp_path / "p"), written)
    [record] = caplog.records
    assert record.getMessage().startswith(
        "chunks of blosc are decoded and then put into place, which is slower: import of"
    )


def test_few_chunks_are_not_worth_compiling(
    monkeypatch: pytest.MonkeyPatch, plates: ModuleType, tmp_path: Path
) -> None:
    written = plates.write_plate(tmp_path / "p")  # two fields of three chunks
    made = []
    choice: Any = Compiled(lambda: made.append(1), after=5 * 2 * 45 * 51, lack="")
    monkeypatch.setitem(placing._COMPILED, blosc_into, choice)
    plate = open_plate(tmp_path / "p")
    reader = FieldReader(plate.storage, n_threads=1)
    reader.read(plate.fields[0], time=0, channels=range(3), z="max")
    assert not made
    plates.check_pixels(plate, written)
    assert made == [1]


def test_each_thread_has_a_decoder_which_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    freed: list[int] = []
    usual = decoders.ZstdDecoder.__del__
    monkeypatch.setattr(
        decoders.ZstdDecoder,
        "__del__",
        lambda decoder: (freed.append(decoder.address), usual(decoder)),
    )
    found: list[int] = []

    def look() -> None:
        found.append(placing._zstd_of_thread())
        assert placing._zstd_of_thread() == found[-1]

    own = placing._zstd_of_thread()
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found != [own]
    assert freed == found


def test_compiled_code_is_tried_before_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for make, name in ((placing._blosc, "lz4"), (placing._zstd, "zstd")):
        monkeypatch.setattr(decoders, f"place{make.__name__}", lambda *_: True)  # and puts nothing
        with pytest.raises(RuntimeError, match=f"^{name} as compiled does not decode a chunk$"):
            make()


def frames(pixels: np.ndarray) -> dict[str, bytes]:
    """Ways to store pixels by zstd."""
    whole = pixels.tobytes()
    one, checked = (zstandard.ZstdCompressor(write_checksum=w).compress(whole) for w in (0, 1))
    stream = zstandard.ZstdCompressor().compressobj()
    half = len(whole) // 2
    return {
        "one": one,
        "checked": checked,
        "open": stream.compress(whole) + stream.flush(),
        "two": Zstd(1).encode(whole[:half]) + Zstd(1).encode(whole[half:]),
    }


@pytest.mark.parametrize("kept", [(70, 90), (69, 90), (70, 89), (1, 1)])
@pytest.mark.parametrize("beyond", [0, 3])
@pytest.mark.parametrize("kind", ["noise", "flat", "dim"])
def test_pixels_of_zstd(kind: str, kept: tuple[int, int], beyond: int) -> None:
    pixels = planes(kind, (70, 90), 3)
    for name, stored in frames(pixels).items():
        place = Place((70, 90), kept, kept[1] + beyond)
        is_told = name in ("one", "checked")  # how much it holds
        assert place.take(stored, decoders.place_zstd) == is_told, name
        if is_told:
            np.testing.assert_array_equal(place.pixels, pixels[: kept[0], : kept[1]])


@pytest.mark.parametrize("kept", [(70, 90), (69, 89)])
def test_frames_that_are_no_chunk(kept: tuple[int, int]) -> None:
    pixels = planes("dim", (70, 90), 3)
    sound = frames(pixels)
    refused = {
        "nothing": b"",
        "three bytes": sound["one"][:3],
        "other magic": b"\x50\x2a\x4d\x18\x00\x00\x00\x00" + sound["one"],
        "more behind": sound["one"] + b"1",
        "a pixel more": Zstd(1).encode(pixels.tobytes() + b"12"),
        "a pixel less": Zstd(1).encode(pixels.tobytes()[:-2]),
        "much more": Zstd(1).encode(bytes(2**24)),
        "cut checksum": sound["checked"][:-1],
        "wrong checksum": sound["checked"][:-1] + bytes([sound["checked"][-1] ^ 1]),
        "half of it": sound["two"][: len(sound["two"]) // 2],
    }
    for name, stored in refused.items():
        place = Place((70, 90), kept, kept[1])
        assert not place.take(stored, decoders.place_zstd), name
        assert place.pixels.shape == kept


def test_damaged_frames_touch_nothing_else_and_never_differ() -> None:
    rng = np.random.default_rng(0)
    n_taken = 0
    for shape in ((24, 61), LARGE):
        for stored in frames(planes("dim", shape, 1)).values():
            place = Place(shape, shape, shape[1])
            for _ in range(1000):
                broken = damaged(stored, rng)
                place.memory[...] = UNTOUCHED
                if place.take(broken, decoders.place_zstd):
                    n_taken += 1
                    out = np.zeros(2 * shape[0] * shape[1], np.uint8)
                    zstd_into(memoryview(broken), out)
                    found = out.view(np.uint16).reshape(shape)
                    np.testing.assert_array_equal(place.pixels, found)
                assert place.pixels.shape == shape
    assert 30 < n_taken < 5000
