"""Planes that are watched while they are decoded: what is found is what a look at them finds."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xxhash
from decoder_places import Place, planes
from numcodecs import Blosc, Zstd

from unidino_fast.compiled import Compiled
from unidino_fast.config import EmbedOptions
from unidino_fast.errors import PixelError
from unidino_fast.noted_fields import read_fields
from unidino_fast.planning import plan_plate
from unidino_fast.plate import open_plate
from unidino_fast.plate_model import Region
from unidino_fast.qc import haar, passes
from unidino_fast.qc.compiled_passes import watcher
from unidino_fast.qc.measures import _plan
from unidino_fast.reading import FieldReader, FieldRequest, Known, decoders, placed
from unidino_fast.reading.buffers import PAGE_BYTES, Scratch
from unidino_fast.reading.looks import Look
from unidino_fast.reading.room import FOUND, work_room

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from steps import Steps


SHAPE = 90, 122
ENCODERS: dict[str, Any] = {
    "shuffle": Blosc("lz4", 5, Blosc.SHUFFLE, 2000),
    "bitshuffle": Blosc("zstd", 5, Blosc.BITSHUFFLE, 4096),
    "plain": Blosc("zstd", 5, Blosc.NOSHUFFLE, 4094),
    "one-block": Blosc("lz4", 5, Blosc.SHUFFLE, 2**20),
    "copied": Blosc("lz4", 0, Blosc.NOSHUFFLE),
    "zstd": Zstd(1),
}
"""Of several blocks, which hold no whole rows, and of one."""


class Watched:
    """Memory that chunks of a shape are put into, and what is found of them then."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self._place = Place(shape, shape, shape[1])
        self._watcher = watcher(shape, sampling(shape))
        self.found = np.zeros(self._watcher.n_found, np.int64)

    def take(self, stored: bytes, *, is_blosc: bool = True) -> bool:
        numbers = self._place.sums.told_to(self._watcher)
        numbers[FOUND] = self.found.ctypes.data
        self.found[...] = 0
        return self._place.take(stored, is_blosc=is_blosc)


def sampling(shape: tuple[int, int]) -> passes.Sampling:
    n_sampled = -(-shape[0] // 2) * -(-shape[1] // 2)
    return passes.Sampling(2, (n_sampled // 20, n_sampled - 2), 3, (9.0, 23.0))


def expected(pixels: np.ndarray) -> np.ndarray:
    [found] = passes.pass_by_numpy(pixels[None], [0], sampling(pixels.shape))
    return found


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("kind", ["noise", "flat", "dim"])
@pytest.mark.parametrize("shape", [SHAPE, (8, 8), (15, 64), (203, 230)])
def test_it_finds_what_a_pass_finds(kind: str, shape: tuple[int, int], name: str) -> None:
    watched = Watched(shape)
    for seed in range(3):  # one after another, by one and the same
        pixels = planes(kind, shape, seed)
        assert watched.take(ENCODERS[name].encode(pixels), is_blosc=name != "zstd")
        np.testing.assert_array_equal(watched.found, expected(pixels))


@pytest.mark.parametrize("name", ["shuffle", "bitshuffle", "plain"])
def test_a_plane_that_comes_to_no_end_leaves_nothing_behind(name: str) -> None:
    """Its first blocks are sound, and were counted."""
    first, second = planes("dim", SHAPE, 0), planes("dim", SHAPE, 1)
    broken = bytearray(ENCODERS[name].encode(first + 30_000))
    n_blocks = -(-first.nbytes // int.from_bytes(broken[8:12], "little"))
    start = int.from_bytes(broken[16 + 4 * (n_blocks - 1) :][:4], "little")
    broken[start : start + 4] = bytes(4)  # a stream of nothing
    watched = Watched(SHAPE)
    assert not watched.take(bytes(broken))
    assert not watched.found.any()
    assert watched.take(ENCODERS[name].encode(second))
    np.testing.assert_array_equal(watched.found, expected(second))


@pytest.mark.parametrize("is_file_of_its_own", [True, False])
def test_pixels_as_they_are_are_told_of_while_they_are_read(
    is_file_of_its_own: bool, tmp_path: Path
) -> None:
    shape = 400, 500  # more than is read at a time where it is told of
    n_bytes = 2 * shape[0] * shape[1]
    both = [planes("dim", shape, seed) for seed in range(2)]
    path = tmp_path / "pixels"
    path.write_bytes(both[0].tobytes() if is_file_of_its_own else b"123" + b"".join(both))
    parts = (
        [(0, 0, -n_bytes - 1)]
        if is_file_of_its_own
        else [(0, 3, n_bytes), (0, n_bytes + 3, n_bytes)]
    )
    n = len(parts)
    memory = np.zeros(n * shape[0] * shape[1], np.uint16)
    windows = np.array([(place * shape[0] * shape[1], *shape) for place in range(n)])
    checksums, found = np.zeros(n, np.uint64), np.full((n, 14), -1)
    own = watcher(shape, sampling(shape))
    work = work_room(n_bytes, Scratch(), sums=True, watcher=own)
    stored = np.zeros(n_bytes + 1 + PAGE_BYTES, np.uint8)
    name = np.frombuffer(bytes(path) + b"\0", np.uint8)
    to = memory, shape[1], windows, checksums, found
    chunk = 2, shape[0] * shape[1], shape[1]
    assert decoders.fetch(chunk, name, np.array(parts), stored, to, work) == n
    for place, pixels in enumerate(both[:n]):
        np.testing.assert_array_equal(memory.reshape(n, *shape)[place], pixels)
        assert checksums[place] == xxhash.xxh3_64_intdigest(pixels.tobytes())
        np.testing.assert_array_equal(found[place], expected(pixels))


def test_what_gave_out_on_the_way_finds_nothing() -> None:
    """As where there is no memory: numba says so and goes back, and further blocks come."""
    first, second = planes("dim", SHAPE, 0) + 30_000, planes("dim", SHAPE, 1)
    own, found = watcher(SHAPE, sampling(SHAPE)), np.full(14, -1)
    tell = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 5)(own.function)

    def come(pixels: np.ndarray, start: int, end: int) -> None:
        tell(own.address, pixels.ctypes.data, start, end - start, found.ctypes.data)

    half = first.size // 2
    come(first, 0, half)
    own.state[haar._NEXT] = -1
    come(first, half, first.size - 50)
    come(first, first.size - 50, first.size)
    assert (found == -1).all()
    come(second, 0, second.size)
    np.testing.assert_array_equal(found, expected(second))


@pytest.fixture
def n_looked_at(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Has quality compiled from the first plane on; takes how many planes a pass looks at."""
    found: list[int] = []

    def over(pixels: Any, numbers: Any, sampling: Any) -> Any:
        found.append(len(numbers))
        return passes.pass_by_numpy(pixels, numbers, sampling)

    choice = Compiled(lambda: passes._Passes(over, watcher), after=-1, lack="")
    choice.for_more(1)
    monkeypatch.setitem(passes._COMPILED, 2, choice)
    return found


LAYOUTS: dict[str, dict[str, Any]] = {
    "planes": {},
    "zstd": {"codec": "zstd"},
    "raw": {"codec": "none"},
    "shards": {"zarr_format": 3, "ngff": "0.5", "chunks": (1, 46, 52), "shards": (3, 46, 52)},
    # the rest is looked at when it is there
    "odd": {"sizes": {"x": 51, "y": 46}},
    "chunks": {"chunks": (1, 16, 20)},
    "channels": {"chunks": (3, 46, 52)},
    "signed": {"dtype": "<i2"},
    "bytes": {"dtype": "|u1"},
    "stack": {"axes": "czyx", "chunks": (1, 1, 46, 52)},
    "absent": {"absent": ((1, 0, 0),)},
    "by Python": {},
}
N_LOOKED_AT = {"planes": 0, "zstd": 0, "raw": 0, "shards": 0, "by Python": 0, "absent": 3,
               "signed": 0, "bytes": 0}  # fmt: skip
"""Of nine planes: those that two bytes of whole numbers are known of are not looked at again, and
those of other types are not counted here."""


@pytest.mark.parametrize("name", LAYOUTS)
def test_quality_is_the_same_however_planes_are_read(
    name: str,
    n_looked_at: list[int],
    plates: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layout = {"sizes": {"x": 52, "y": 46}} | LAYOUTS[name]
    wells = {"A/1": ["0", "1"], "B/2": ["0"]}
    written = plates.write_plate(tmp_path / "p", wells, **layout)
    plate = open_plate(tmp_path / "p")
    if name == "by Python":
        monkeypatch.setattr(plate.storage, "files", None)
    options = EmbedOptions(tile=16)
    tasks = plan_plate(plate, options).wells
    found = list(read_fields(tasks, plate.storage, options, measures=True))
    for pixels, one in zip(written.values(), found, strict=True):
        assert not isinstance(one, PixelError)
        own = pixels.max(axis=1) if name == "stack" else pixels
        np.testing.assert_array_equal(one[0], own)
        seen = one[1].seen
        assert seen is not None
        if own.dtype != np.uint16:
            continue
        usual = passes.pass_by_numpy(own, range(3), _plan(own.shape[1:], own.dtype).sampling)
        rows = [one.found for one in seen if one is not None]
        np.testing.assert_array_equal(rows, usual)
    assert sum(n_looked_at) == N_LOOKED_AT.get(name, 9)


def test_without_a_checksum_nothing_is_known(
    n_looked_at: list[int], plates: ModuleType, tmp_path: Path
) -> None:
    """And who watches is asked for planes of whole shapes, in the threads that read."""
    plates.write_plate(tmp_path / "p", sizes={"x": 52, "y": 46}, absent=((1, 0, 0),))
    plate = open_plate(tmp_path / "p")
    asked, given = [], []

    def watching(shape: Any, dtype: Any) -> Any:
        asked.append((shape, dtype))
        return watcher(shape, sampling(shape))

    def note(pixels: Any, numbers: Any, known: list[Known]) -> Any:
        for number, one in zip(numbers, known, strict=True):
            given.append((number, one.checksum != 0, one.found is not None))
            assert one.found is None or (one.found == expected(pixels[number])).all()
        return numbers

    requests = [FieldRequest(field, 0, (0, 1, 2), "max") for field in plate.fields]
    assert len(list(FieldReader(plate.storage).stream_noted(requests, note, list, watching))) == 2
    assert set(asked) == {((46, 52), np.dtype("<u2"))}
    assert sorted(given) == sorted([(0, True, True), (1, False, False), (2, True, True)] * 2)
    assert not n_looked_at


def test_layers_of_a_stack_are_not_watched(
    steps: Steps, plates: ModuleType, tmp_path: Path
) -> None:
    """None of them is the plane that comes of them."""
    layout = {"axes": "czyx", "chunks": (1, 1, 46, 52), "sizes": {"x": 52, "y": 46}}
    plates.write_plate(tmp_path / "p", **layout)
    plate = open_plate(tmp_path / "p")
    asked: list[Any] = []
    requests = [FieldRequest(field, 0, (0, 1, 2), "max") for field in plate.fields]
    reader = FieldReader(plate.storage)
    found = reader.stream_noted(requests, lambda _, numbers, __: numbers, list, asked.append)
    assert len(list(found)) == 2
    assert steps
    assert not asked


def test_parts_of_planes_are_not_watched(steps: Steps, plates: ModuleType, tmp_path: Path) -> None:
    """Of regions as large as a chunk, which begin within one."""
    plates.write_plate(
        tmp_path / "p", {"A/1": ["0"]}, sizes={"x": 52, "y": 138}, chunks=(1, 46, 52)
    )
    plate = open_plate(tmp_path / "p")
    regions = [Region(y, 0, 46, 52) for y in (23, 69)]
    field = plate.fields[0]
    requests = [FieldRequest(replace(field, region=one), 0, (0, 1, 2), "max") for one in regions]
    asked: list[Any] = []
    reader = FieldReader(plate.storage)
    found = reader.stream_noted(requests, lambda _, numbers, __: numbers, list, asked.append)
    assert [isinstance(one, PixelError) for one in found] == [False, False]
    assert not asked


def test_what_is_known_stays_with_its_plane() -> None:
    given = []

    def note(_: Any, numbers: Any, known: Any) -> Any:
        given.append((list(numbers), list(known)))
        return numbers

    look = Look(note, [2, 1, 1])
    one, other = Known(7, None), Known(8, None)
    look.take(np.zeros((3, 1, 1)), [0, 2], [one, other])
    assert given == [([2], [other])]
    look.take(np.zeros((3, 1, 1)), [0, 1])
    assert given[1:] == [([0, 1], [Known(0, None)] * 2)]


def test_a_watcher_that_came_to_no_end_found_nothing() -> None:
    assert placed._known(0, np.ones(14, np.int64)) == (0, None)
    assert placed._known(5, np.full(14, -1)) == (5, None)
    assert placed._known(5, None) == (5, None)
    checksum, found = placed._known(5, np.zeros(14, np.int64))
    assert checksum == 5
    assert found is not None
