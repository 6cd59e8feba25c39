"""Pixels equal those written, whatever the layout; chunks are fetched once; faults are named."""

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
    """Counts what has been read, by either way."""

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


BROKEN: dict[str, dict[str, Any]] = {
    "blosc": {"codec": "blosc-lz4-shuffle"},
    "blosc-zstd": {},
    "zstd": {"codec": "zstd"},
    "gzip": {"codec": "gzip"},
    "zlib": {"codec": "zlib"},
    "none": {"codec": "none"},
    "v3-blosc": {**V3},
    "v3-none": {**V3, "codec": "none"},
    "v3-crc32c": {**V3, "codec": "none", "crc32c": True},
    "v3-shard": {**V3, "codec": "zstd", "chunks": (1, 15, 17), "shards": (1, 45, 51)},
}


def reader_error(root: Path) -> str:
    plate = open_plate(root)
    reader = FieldReader(plate.storage)
    with pytest.raises(PixelError) as caught:
        reader.read(plate.fields[0], time=0, channels=(0, 1, 2), z="max")
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage", "short"])
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_chunk_is_named(
    name: str, damage: str, plates: ModuleType, tmp_path: Path
) -> None:
    layout = plates.Layout(**BROKEN[name])
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]}, layout)
    key = f"A/1/0/0/{plates.chunk_key(layout, (1, 0, 0))}"
    chunk = tmp_path / "p" / key
    data = chunk.read_bytes()
    noise = np.random.default_rng(0).bytes(len(data) - 1)
    broken = {
        "truncated": data[: len(data) // 2],
        "empty": b"",
        "garbage": noise,
        "short": data[:3],
    }
    chunk.write_bytes(broken[damage])
    assert reader_error(tmp_path / "p").startswith(f"chunk {key} cannot be read (")


def test_a_chunk_that_claims_to_be_huge(plates: ModuleType, tmp_path: Path) -> None:
    """A zstd frame of one segment whose header says 2**62 bytes."""
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]}, codec="zstd")
    frame = b"\x28\xb5\x2f\xfd\xe0" + (2**62).to_bytes(8, "little") + bytes(20)
    (tmp_path / "p/A/1/0/0/1/0/0").write_bytes(frame)
    assert "chunk A/1/0/0/1/0/0 cannot be read" in reader_error(tmp_path / "p")


def test_every_truncation_of_a_blosc_chunk_is_found(plates: ModuleType, tmp_path: Path) -> None:
    """Blosc itself reads on in whatever memory follows."""
    for root, version in (("p", {}), ("q", V3)):
        plates.write_plate(tmp_path / root, {"A/1": ["0"]}, **version, sizes={"y": 9, "x": 9})
        name = "A/1/0/0/0/0/0" if root == "p" else "A/1/0/0/c/0/0/0"
        chunk = tmp_path / root / name
        data = chunk.read_bytes()
        for length in range(0, len(data), 7):
            chunk.write_bytes(data[:length])
            assert f"chunk {name} cannot be read" in reader_error(tmp_path / root)


@pytest.mark.parametrize("sharded", [False, True])
def test_a_flipped_bit_is_found_by_its_checksum(
    sharded: bool, plates: ModuleType, tmp_path: Path
) -> None:
    shards = (1, 45, 51) if sharded else None
    layout = plates.Layout(**V3, codec="none", crc32c=True, shards=shards, chunks=(1, 45, 51))
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]}, layout)
    chunk = tmp_path / "p/A/1/0/0/c/2/0/0"
    data = bytearray(chunk.read_bytes())
    data[100] ^= 1
    chunk.write_bytes(data)
    message = reader_error(tmp_path / "p")
    assert "chunk A/1/0/0/c/2/0/0 cannot be read" in message
    assert "checksum" in message.lower()


def test_a_chunk_that_is_a_folder_or_unreadable(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]})
    chunk = tmp_path / "p/A/1/0/0/1/0/0"
    chunk.unlink()
    chunk.symlink_to(chunk)  # a loop: an error that is neither "absent" nor a matter of rights
    assert "chunk A/1/0/0/1/0/0 cannot be read" in reader_error(tmp_path / "p")


def test_an_unknown_codec_is_one_line(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]})
    plates.edit_json(
        tmp_path / "p/A/1/0/0/.zarray", lambda d: d.update(compressor={"id": "jpeg\nxl"})
    )
    assert "array A/1/0/0 cannot be opened" in reader_error(tmp_path / "p")
    plates.write_plate(tmp_path / "q", {"A/1": ["0"]}, **V3)
    plates.edit_json(
        tmp_path / "q/A/1/0/0/zarr.json", lambda d: d["codecs"].append({"name": "jpegxl"})
    )
    assert "array A/1/0/0 cannot be opened" in reader_error(tmp_path / "q")


@pytest.mark.parametrize(
    "change",
    [
        {"fill_value": "many"}, {"fill_value": -1}, {"fill_value": [1]}, {"order": "Z"},
        {"filters": [{"id": "none such"}]}, {"filters": 3}, {"dimension_separator": "/../"},
        {"compressor": {"id": 3}},
    ],
)  # fmt: skip
def test_array_metadata_that_zarr_refuses(
    change: dict[str, Any], plates: ModuleType, tmp_path: Path
) -> None:
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]})
    plates.edit_json(tmp_path / "p/A/1/0/0/.zarray", lambda d: d.update(change))
    assert "A/1/0/0" in reader_error(tmp_path / "p")


@pytest.mark.parametrize(
    ("zarr_format", "change"),
    [
        (2, {"shape": [3, 10**12, 10**12]}),
        (2, {"shape": [3, 10**6, 10**6], "chunks": [1, 10**6, 10**6]}),
        (2, {"shape": [3, 10**4, 10**4], "chunks": [1, 1, 1]}),
        (2, {"chunks": [1, 10**12, 10**12]}),
        (3, {"shape": [3, 10**12, 10**12]}),
        (3, {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 10**12, 99]}}}),
    ],
)
def test_absurd_sizes_are_refused_not_allocated(
    zarr_format: int, change: dict[str, Any], plates: ModuleType, tmp_path: Path
) -> None:
    ngff = {2: "0.4", 3: "0.5"}[zarr_format]
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]}, zarr_format=zarr_format, ngff=ngff)
    name = {2: ".zarray", 3: "zarr.json"}[zarr_format]
    plates.edit_json(tmp_path / f"p/A/1/0/0/{name}", lambda d: d.update(change))
    assert "A/1/0/0" in reader_error(tmp_path / "p")


def test_memory_that_runs_out_is_one_line(
    plates: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]})

    def full(*args: object, **kwargs: object) -> None:
        raise MemoryError

    monkeypatch.setattr(np, "empty", full)
    assert "field A/1/0/0 of 45 x 51 px does not fit in memory" in reader_error(tmp_path / "p")


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
