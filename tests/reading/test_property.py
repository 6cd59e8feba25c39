"""Whatever the layout, pixels are those that zarr-python reads, by either way."""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numcodecs import LZ4, Blosc, GZip, Zlib, Zstd
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, ShardingCodec, ZstdCodec

from unidino_fast.compiled import Compiled
from unidino_fast.ngff import parse_array
from unidino_fast.plate_model import Field, Region
from unidino_fast.reading import FieldReader, FieldRequest, placing
from unidino_fast.reading.formats import UnsupportedError, format_of
from unidino_fast.storage import FolderStorage

AXES = ["yx", "cyx", "zyx", "tyx", "czyx", "zcyx", "tcyx", "tczyx", "ctzyx", "tzcyx"]
DTYPES = ["|u1", "<u2", ">u2", "<i2", ">i2", "<u4", ">u4", "<f4", ">f4"]
CODECS_2: dict[str, Any] = {
    "none": None, "zstd": Zstd(1), "gzip": GZip(1), "zlib": Zlib(1), "lz4": LZ4(),
    **{f"blosc-{c}-{s}": Blosc(c, 3, s) for c in ("lz4", "zstd", "zlib") for s in (0, 1, 2)},
}  # fmt: skip
CODECS_3: dict[str, list[Any]] = {
    "none": [], "crc": [Crc32cCodec()], "zstd": [ZstdCodec(level=1)], "gzip": [GzipCodec(level=1)],
    "zstd+crc": [ZstdCodec(level=1, checksum=True), Crc32cCodec()],
    "blosc-lz4": [BloscCodec(cname="lz4", shuffle="shuffle")],
    "blosc-zstd": [BloscCodec(cname="zstd", shuffle="bitshuffle"), Crc32cCodec()],
    "two": [ZstdCodec(level=1), GzipCodec(level=1)],  # by zarr-python
}  # fmt: skip
BY_ZARR = {"lz4", "two"}


@dataclass(frozen=True)
class Case:
    zarr_format: int
    axes: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None
    dtype: str
    codec: str
    order: str
    separator: str
    fill: int | None
    absent: tuple[int, ...]
    region: tuple[int, int, int, int]
    channels: tuple[int, ...]
    z: str | int
    index: tuple[str, bool, str]
    seed: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    zarr_format = draw(st.sampled_from([2, 3]))
    axes = draw(st.sampled_from(AXES))
    most = {"t": 2, "c": 4, "z": 5, "y": 40, "x": 40}
    shape = tuple(draw(st.integers(1, most[axis])) for axis in axes)
    chunks = tuple(draw(st.integers(1, length + 2)) for length in shape)
    is_sharded = zarr_format == 3 and draw(st.booleans())
    shards = tuple(size * draw(st.integers(1, 3)) for size in chunks) if is_sharded else None
    sizes = dict(zip(axes, shape, strict=True))
    channels = tuple(range(sizes.get("c", 1)))
    planes = [*range(sizes.get("z", 1))]
    region = []
    for length in shape[-2:]:
        start = draw(st.integers(0, length - 1))
        region += [start, draw(st.integers(1, length - start))]
    stored = shards or chunks
    n_objects = math.prod(-(-n // m) for n, m in zip(shape, stored, strict=True))
    return Case(
        zarr_format=zarr_format,
        axes=axes,
        shape=shape,
        chunks=chunks,
        shards=shards,
        dtype=draw(st.sampled_from(DTYPES)),
        codec=draw(st.sampled_from(sorted(CODECS_2 if zarr_format == 2 else CODECS_3))),
        order=draw(st.sampled_from("CF")) if zarr_format == 2 else "C",
        separator=draw(st.sampled_from("/.")),
        fill=draw(st.sampled_from([None, 0, 7])),
        absent=tuple(draw(st.lists(st.integers(0, n_objects - 1), max_size=3))),
        region=(region[0], region[2], region[1], region[3]),
        channels=tuple(draw(st.lists(st.sampled_from(channels), min_size=1, unique=True))),
        z=draw(st.sampled_from(["max", "mean", *planes])),
        index=(
            draw(st.sampled_from(["start", "end"])),
            draw(st.booleans()),
            draw(st.sampled_from(["little", "big"])),
        ),
        seed=draw(st.integers(0, 99)),
    )


def write(case: Case, root: Path) -> zarr.Array:
    shared: dict[str, Any] = {
        "shape": case.shape,
        "fill_value": case.fill or 0,
        "config": {"write_empty_chunks": True},
    }
    if case.zarr_format == 2:
        array = zarr.create_array(
            root / "0",
            chunks=case.chunks,
            dtype=case.dtype,
            compressors=CODECS_2[case.codec],
            zarr_format=2,
            order=case.order,
            chunk_key_encoding={"name": "v2", "separator": case.separator},
            **shared,
        )
    else:
        array = write_v3(case, root / "0")
    generator = np.random.default_rng(case.seed)
    array[...] = generator.integers(0, 200, case.shape).astype(array.dtype)
    grid = [-(-n // m) for n, m in zip(case.shape, case.shards or case.chunks, strict=True)]
    objects = list(product(*map(range, grid)))
    for number in case.absent:
        key = array.metadata.encode_chunk_key(objects[number])
        (root / "0" / key).unlink(missing_ok=True)
    return array


def write_v3(case: Case, path: Path) -> zarr.Array:
    """By hand: `create_array` has no shards with another index or byte order."""
    endian = "big" if case.dtype.startswith(">") else "little"
    codecs: list[Any] = [BytesCodec(endian=endian), *CODECS_3[case.codec]]
    if case.shards is not None:
        location, has_crc, index_endian = case.index
        index_codecs = [BytesCodec(endian=index_endian), *([Crc32cCodec()] if has_crc else [])]
        codecs = [
            ShardingCodec(
                chunk_shape=case.chunks,
                codecs=codecs,
                index_codecs=index_codecs,
                index_location=location,
            )
        ]
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": case.shape,
        "data_type": np.dtype(case.dtype).newbyteorder("=").name,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": case.shards or case.chunks},
        },
        "chunk_key_encoding": {
            "name": "default",
            "configuration": {"separator": case.separator},
        },
        "codecs": [codec.to_dict() for codec in codecs],
        "fill_value": case.fill or 0,
        "attributes": {},
    }
    path.mkdir(parents=True)
    (path / "zarr.json").write_text(json.dumps(document))
    return zarr.open_array(path, mode="r+")


def field_of(case: Case, root: Path) -> Field:
    name = ".zarray" if case.zarr_format == 2 else "zarr.json"
    document = json.loads((root / "0" / name).read_text())
    if case.fill is None:
        document["fill_value"] = None
    facts = parse_array(document, case.zarr_format)  # type: ignore[arg-type]
    n_channels = dict(zip(case.axes, case.shape, strict=True)).get("c", 1)
    return Field(
        "0",
        "0",
        case.axes,
        facts,
        tuple(map(str, range(n_channels))),
        None,
        None,
        metadata_digest="",
    )


def expected(case: Case, pixels: np.ndarray, time: int) -> np.ndarray:
    """(C, Y, X) plane by plane."""
    axes = case.axes
    for axis in "tcz":
        if axis not in axes:
            pixels, axes = np.expand_dims(pixels, 0), axis + axes
    stack = pixels.transpose([axes.index(axis) for axis in "tczyx"])[time]
    planes = []
    for channel in case.channels:
        if isinstance(case.z, int):
            planes.append(stack[channel, case.z])
        elif case.z == "max":
            planes.append(stack[channel].max(axis=0))
        else:
            mean = stack[channel].astype(np.float64).mean(axis=0)
            planes.append(np.rint(mean) if pixels.dtype.kind in "iu" else mean)
    y, x, height, width = case.region
    return np.stack(planes)[:, y : y + height, x : x + width].astype(pixels.dtype)


COMPILED = [
    {"<u2": "blosc-lz4-1", "<i2": "blosc-zstd-2", "<u4": "zstd", ">u2": "zstd", "|u1": "zstd"},
    {"<u2": "blosc-lz4", "<i2": "zstd", "<u4": "zstd", ">u2": "zstd", "|u1": "blosc-lz4"},
]
"""Of formats 2 and 3."""


@pytest.mark.parametrize("is_compiled", [False, True])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases(), n_threads=st.sampled_from([1, 3]), max_in_flight=st.sampled_from([1, 2**20]))
def test_pixels_are_those_of_zarr(
    is_compiled: bool, case: Case, n_threads: int, max_in_flight: int
) -> None:
    after = -1 if is_compiled else 2**62
    usual = COMPILED[case.zarr_format - 2]
    if is_compiled and case.dtype in usual:  # what compiled code is for, more often than by chance
        case = replace(case, codec=usual[case.dtype])
    choice = Compiled(placing._decoders, after=after, lack="")
    with patch.object(placing, "_COMPILED", choice), tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        pixels = np.asarray(write(case, root)[...])
        pixels = pixels.astype(pixels.dtype.newbyteorder("="))
        whole = field_of(case, root)
        part = replace(whole, region=Region(*case.region))
        n_times = whole.length("t")
        requests = [FieldRequest(part, time, case.channels, case.z) for time in range(n_times)]
        requests += [FieldRequest(whole, 0, case.channels, case.z)]
        storage = FolderStorage(root, location=str(root))
        reader = FieldReader(storage, n_threads=n_threads, max_in_flight=max_in_flight)
        found = list(reader.stream(requests))
        try:
            format_of(whole.array)
            is_fast = True
        except UnsupportedError:
            is_fast = False
        assert is_fast == (case.codec not in BY_ZARR)
        everything = (0, 0, *whole.array.shape[-2:])
        wanted = [expected(case, pixels, time) for time in range(n_times)]
        wanted += [expected(replace(case, region=everything), pixels, 0)]
        for one, other in zip(found, wanted, strict=True):
            assert not isinstance(one, Exception), one
            assert one.dtype.isnative
            np.testing.assert_array_equal(one, other)
