"""Pixels equal those written, whatever the layout; chunks are fetched once."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from unidino_fast.errors import PixelError
from unidino_fast.plate import open_plate
from unidino_fast.reading import FieldReader, FieldRequest

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

V3 = {"zarr_format": 3, "ngff": "0.5"}
AXES = ["yx", "cyx", "zyx", "tyx", "czyx", "tcyx", "tzyx", "zcyx", "tczyx", "ctzyx", "cztyx"]
LAYOUTS: dict[str, dict[str, Any]] = {
    **{f"axes-{axes}": {"axes": axes} for axes in AXES},
    **{f"v3-axes-{axes}": {**V3, "axes": axes} for axes in ("yx", "zyx", "tczyx", "zcyx")},
    **{f"dtype-{d}": {"dtype": d} for d in ("|u1", "<i2", "<u4", "<f4", ">u2", ">i2", ">f4")},
    "dtype->u4": {"dtype": ">u4"},
    **{f"v3-dtype-{d}": {**V3, "dtype": d} for d in ("|u1", "<i2", "<u4", "<f4", ">u2", ">f4")},
    **{
        f"codec-{codec}": {"codec": codec}
        for codec in (
            "blosc-lz4-shuffle", "blosc-lz4-bitshuffle", "blosc-lz4-noshuffle",
            "blosc-zstd-shuffle", "blosc-zlib-shuffle", "zstd", "gzip", "zlib", "none",
        )
    },
    **{
        f"v3-codec-{codec}": {**V3, "codec": codec}
        for codec in (
            "blosc-lz4-shuffle", "blosc-lz4-bitshuffle", "blosc-zstd-shuffle", "zstd", "gzip",
            "none",
        )
    },
    "v3-crc32c": {**V3, "codec": "zstd", "crc32c": True},
    "dots": {"separator": "."},
    "v3-dots": {**V3, "separator": "."},
    "v3-v2-keys": {**V3, "v2_keys": True, "separator": "."},
    "v3-v2-keys-slash": {**V3, "v2_keys": True},
    "order-F": {"order": "F", "codec": "none", "axes": "czyx"},
    "order-F-blosc": {"order": "F", "chunks": (2, 20, 30)},
    "all-channels": {"chunks": (3, 45, 51)},
    "straddling": {"sizes": {"c": 5}, "axes": "czyx", "chunks": (2, 1, 32, 32), "labels": None},
    "v3-straddling": {
        **V3, "sizes": {"c": 5}, "axes": "czyx", "chunks": (2, 3, 16, 51), "labels": None,
    },
    "z-chunks": {"axes": "czyx", "chunks": (1, 3, 45, 51)},
    "t-chunks": {"axes": "tcyx", "chunks": (2, 3, 16, 17)},
    "edge-chunks": {"chunks": (1, 16, 50)},
    "chunks-beyond": {"sizes": {"y": 7, "x": 5}, "chunks": (1, 7, 5)},
    "prime": {"sizes": {"c": 1, "y": 13, "x": 7}, "chunks": (1, 5, 3), "labels": ("DNA",)},
    "one-pixel": {"sizes": {"c": 1, "y": 1, "x": 1}, "labels": ("DNA",)},
    "absent": {"chunks": (1, 20, 51), "absent": ((0, 0, 0), (2, 1, 0))},
    "absent-fill-7": {"chunks": (1, 20, 51), "absent": ((1, 2, 0),), "fill_value": 7},
    "absent-null": {"chunks": (1, 20, 51), "absent": ((1, 2, 0),), "fill_value": None},
    "v3-absent": {**V3, "absent": ((1, 0, 0),), "fill_value": 3},
    "v3-absent-null": {**V3, "absent": ((1, 0, 0),), "fill_value": None},
    "absent-float": {"dtype": "<f4", "absent": ((0, 0, 0),), "fill_value": 0.5},
    "v3-shards": {**V3, "chunks": (1, 16, 17), "shards": (3, 48, 51)},
    "v3-shard-a-plane": {**V3, "chunks": (1, 15, 17), "shards": (1, 45, 51), "crc32c": True},
    "v3-shards-z": {**V3, "axes": "czyx", "chunks": (1, 2, 32, 32), "shards": (2, 4, 64, 64)},
    "v3-shards-absent": {
        **V3, "chunks": (1, 16, 17), "shards": (1, 48, 51), "absent": ((2, 0, 0),), "fill_value": 9,
    },
    "dataset-s0": {"dataset": "s0", "n_datasets": 3},
    "dataset-nested": {"dataset": "scale0/image"},
}  # fmt: skip


def projected(pixels: np.ndarray, axes: str, time: int, z: str | int) -> np.ndarray:
    """(C, Y, X) by loops over whole planes."""
    for axis in "tcz":
        if axis not in axes:
            pixels, axes = np.expand_dims(pixels, 0), axis + axes
    ordered = pixels.transpose([axes.index(axis) for axis in "tczyx"])[time]
    planes = []
    for channel in ordered:
        if isinstance(z, int):
            planes.append(channel[z])
            continue
        total = channel[0].astype(np.float64)
        for plane in channel[1:]:
            total = np.maximum(total, plane) if z == "max" else total + plane
        if z == "mean":
            total = total / len(channel)
            total = np.rint(total) if pixels.dtype.kind in "iu" else total
        planes.append(total.astype(pixels.dtype))
    return np.stack(planes)


@pytest.mark.parametrize("name", LAYOUTS)
def test_pixels_equal_those_written(name: str, plates: ModuleType, tmp_path: Path) -> None:
    layout = plates.Layout(**LAYOUTS[name])
    written = plates.write_plate(tmp_path / "p.zarr", {"A/1": ["0"]}, layout)["A/1/0"]
    plate = open_plate(tmp_path / "p.zarr")
    [field] = plate.fields
    reader = FieldReader(plate.storage)
    channels = tuple(range(field.length("c")))
    for time in range(field.length("t")):
        for z in ("max", "mean", field.length("z") - 1):
            read = reader.read(field, time=time, channels=channels, z=z)
            assert read.dtype == written.dtype
            assert read.dtype.isnative
            np.testing.assert_array_equal(read, projected(written, layout.axes, time, z))


def test_channels_come_in_the_order_asked_for(plates: ModuleType, tmp_path: Path) -> None:
    written = plates.write_plate(tmp_path / "p", {"A/1": ["0"]}, sizes={"c": 6}, chunks=(4, 20, 51),
                                 labels=None)["A/1/0"]  # fmt: skip
    plate = open_plate(tmp_path / "p")
    reader = FieldReader(plate.storage)
    for wanted in ((5, 0), (2,), (0, 0, 3), (3, 1, 5, 1)):
        read = reader.read(plate.fields[0], time=0, channels=wanted, z="max")
        np.testing.assert_array_equal(read, written[list(wanted)])


class CountingStorage:
    """Counts what has been read, by either way.

    Compiled code reads files by itself: `test_placing` counts what it does.
    """

    files = None

    def __init__(self, storage: Any) -> None:
        self._storage = storage
        self.reads: Counter[str] = Counter()
        self.spans: Counter[tuple[int | None, int | None]] = Counter()
        self.fetched: list[str] = []
        self.lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def fetch(self, key: str, room: Any, start: int | None = None, stop: int | None = None) -> Any:
        with self.lock:
            self.reads[key] += 1
            self.spans[start, stop] += 1
            self.fetched.append(key)
        return self._storage.fetch(key, room, start, stop)

    def grab(self, key: str, grabs: Any) -> int | None:
        found: int | None = self._storage.grab(key, grabs)
        with self.lock:
            self.reads[key] += found is not None
            for place, buffers in grabs:
                for buffer in buffers:
                    self.spans[place, place + len(buffer)] += 1
                    place += len(buffer)
        return found


COUNTED = [
    "axes-tczyx", "straddling", "v3-straddling", "all-channels", "z-chunks", "edge-chunks",
    "absent", "v3-axes-zyx", "order-F-blosc", "t-chunks",
]  # fmt: skip


@pytest.mark.parametrize("name", COUNTED)
def test_each_chunk_is_fetched_once_and_metadata_never(
    name: str, plates: ModuleType, tmp_path: Path
) -> None:
    layout = plates.Layout(**LAYOUTS[name])
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]}, layout)
    plate = open_plate(tmp_path / "p")
    [field] = plate.fields
    storage = CountingStorage(plate.storage)
    channels = tuple(range(field.length("c")))
    requests = [FieldRequest(field, time, channels, "max") for time in range(field.length("t"))]
    for pixels in FieldReader(storage).stream(requests):
        assert not isinstance(pixels, PixelError)
    expected = {f"{field.array_path}/{key}": 1 for key in plates.chunk_keys(layout)}
    assert storage.reads == expected
    n_absent = len(layout.absent)
    assert len(storage.fetched) == n_absent, "sound chunks took the long way"


@pytest.mark.parametrize("at_once", [True, False])
def test_each_chunk_of_a_shard_is_fetched_once(
    at_once: bool, plates: ModuleType, tmp_path: Path
) -> None:
    """And so is the shard's index."""
    layout = plates.Layout(**V3, chunks=(1, 16, 17), shards=(3, 48, 51))
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]}, layout)
    plate = open_plate(tmp_path / "p")
    storage = CountingStorage(plate.storage)
    reader = FieldReader(storage)
    for channels in [(0, 1, 2)] if at_once else [(0,), (1,), (2,)]:
        reader.read(plate.fields[0], time=0, channels=channels, z="max")
    assert set(storage.spans.values()) == {1}
    assert len(storage.spans) == 1 + 3 * 3 * 3
    assert storage.spans[-(27 * 16 + 4), None] == 1
    assert len(storage.fetched) == 1, "sound chunks took the long way"


class StorageOfTrips(CountingStorage):
    """One that has nothing at hand, as those behind a URL."""

    def grab(self, key: str, grabs: Any) -> int | None:
        return None


def test_a_broken_shard_index_is_asked_for_once_a_chunk(plates: ModuleType, tmp_path: Path) -> None:
    """Where reads are trips, and a server that fails is asked again and again for each."""
    layout = plates.Layout(**V3, chunks=(1, 15, 17), shards=(1, 45, 51))
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]}, layout)
    path = tmp_path / "p/A/1/0/0/c/1/0/0"
    path.write_bytes(path.read_bytes()[:-3] + b"odd")
    plate = open_plate(tmp_path / "p")
    storage = StorageOfTrips(plate.storage)
    with pytest.raises(PixelError, match="chunk A/1/0/0/c/1/0/0 cannot be read"):
        FieldReader(storage, n_threads=1).read(plate.fields[0], time=0, channels=(1,), z="max")
    assert list(storage.spans.values()) == [1]


REGIONS = {f"F{n}": (13.0 * (n // 3), 13.0 * (n % 3), 13.0, 13.0) for n in range(6)}


@pytest.mark.parametrize(
    ("max_in_flight", "n_fetches"),
    [(None, 3 * 9), (2 * 6 * 3 * 20 * 20 * 2, 3 * 9), (1, 3 * 6 * 2)],
)
def test_chunks_that_regions_share_are_fetched_once(
    max_in_flight: int | None, n_fetches: int, plates: ModuleType, tmp_path: Path
) -> None:
    """Six regions of 20 px on chunks of 16 px; without any memory, each region by itself."""
    written = plates.write_plate(
        tmp_path / "p", {"A/1": ["0"]}, sizes={"y": 40, "x": 60}, chunks=(1, 16, 20)
    )["A/1/0"]
    plates.write_roi_table(tmp_path / "p/A/1/0", 2, REGIONS)
    plate = open_plate(tmp_path / "p")
    storage = CountingStorage(plate.storage)
    reader = FieldReader(storage, max_in_flight=max_in_flight)
    requests = [FieldRequest(field, 0, (0, 1, 2), "max") for field in plate.fields]
    assert len(requests) == 6
    for field, pixels in zip(plate.fields, reader.stream(requests), strict=True):
        region = field.region
        assert region is not None
        expected = written[:, region.y : region.y + 20, region.x : region.x + 20]
        np.testing.assert_array_equal(pixels, expected)
    assert len(storage.reads) == 3 * 9
    assert storage.reads.total() == n_fetches


def test_only_the_chunks_asked_for_are_fetched(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]}, axes="tczyx")
    plate = open_plate(tmp_path / "p")
    storage = CountingStorage(plate.storage)
    FieldReader(storage).read(plate.fields[0], time=1, channels=(2,), z=3)
    assert list(storage.reads) == ["A/1/0/0/1/2/3/0/0"]


@pytest.mark.parametrize("zipped", [False, True])
def test_one_reader_serves_several_threads(
    zipped: bool, plates: ModuleType, tmp_path: Path
) -> None:
    wells = {f"A/{column}": ["0", "1"] for column in range(1, 7)}
    written = plates.write_plate(tmp_path / "p", wells, chunks=(1, 16, 16))
    place = plates.make_zip(tmp_path / "p", tmp_path / "p.zip") if zipped else tmp_path / "p"
    plate = open_plate(place)
    reader = FieldReader(plate.storage)
    fields = list(plate.fields) * 3

    with ThreadPoolExecutor(4) as pool:
        read = pool.map(
            lambda field: reader.read(field, time=0, channels=(0, 1, 2), z="max"), fields
        )
        for field, pixels in zip(fields, read, strict=True):
            np.testing.assert_array_equal(pixels, written[field.array_path.removesuffix("/0")])


def test_one_block_is_in_memory_at_a_time(plates: ModuleType, tmp_path: Path) -> None:
    """A stack of 20 planes a channel needs its two planes of pixels, not its forty of z."""
    import tracemalloc

    sizes = {"c": 2, "z": 20, "y": 256, "x": 256}
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]}, axes="czyx", sizes=sizes, labels=None,
                       codec="none")  # fmt: skip
    plate = open_plate(tmp_path / "p")
    reader = FieldReader(plate.storage)
    reader.read(plate.fields[0], time=0, channels=(0,), z=0)
    plane = 256 * 256 * 2
    tracemalloc.start()
    try:
        reader.read(plate.fields[0], time=0, channels=(0, 1), z="max")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * plane
