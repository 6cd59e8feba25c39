"""Chunks and files that lie: refused in one line, before memory is taken or time is lost."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import socket
import struct
import threading
import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest
from numcodecs import Blosc, Delta, Zstd

from unidino_fast.errors import PixelError
from unidino_fast.plate import open_plate
from unidino_fast.reading import FieldReader
from unidino_fast.reading import codecs as ours
from unidino_fast.reading.formats import UnsupportedError, format_of
from unidino_fast.storage import base

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

V3 = {"zarr_format": 3, "ngff": "0.5"}
MUCH = 2**26
CHUNK = "A/1/0/0/0/0/0"
PIXELS = 45 * 51 * 2


def error_of(root: Path) -> str:
    """The error of reading the first channel, within eight MiB and ten seconds."""
    plate = open_plate(root)
    reader = FieldReader(plate.storage)
    found: list[str] = []

    def read() -> None:
        try:
            reader.read(plate.fields[0], time=0, channels=(0,), z="max")
        except PixelError as error:
            found.append(str(error))

    warm(root)
    tracemalloc.start()
    try:
        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        thread.join(10)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert not thread.is_alive(), "it hangs"
    assert peak < 8 * 2**20
    [message] = found
    assert message.isprintable()
    return message


def warm(root: Path) -> None:
    """Imports what reading imports, which takes memory once."""
    plate = open_plate(root)
    FieldReader(plate.storage).read(plate.fields[0], time=0, channels=(2,), z="max")


def open_frame(n_bytes: int) -> bytes:
    """A zstd frame of repeated zeros that does not declare its size."""
    blocks = -(-n_bytes // 2**17)
    block = ((2**17 << 3) | (1 << 1)).to_bytes(3, "little") + b"\0"
    last = ((2**17 << 3) | (1 << 1) | 1).to_bytes(3, "little") + b"\0"
    return b"\x28\xb5\x2f\xfd\x00\x58" + block * (blocks - 1) + last


BOMBS: dict[str, tuple[str, bytes]] = {
    "blosc": ("blosc-lz4-shuffle", Blosc("lz4", 9, 1).encode(bytes(MUCH))),
    "zstd": ("zstd", Zstd(1).encode(bytes(MUCH))),
    "zstd-open": ("zstd", open_frame(MUCH)),
    "gzip": ("gzip", gzip.compress(bytes(MUCH))),
    "gzip-members": ("gzip", gzip.compress(bytes(PIXELS)) + gzip.compress(bytes(MUCH))),
    "zlib": ("zlib", zlib.compress(bytes(MUCH))),
    "blosc-small": ("blosc-lz4-shuffle", Blosc("lz4", 9, 1).encode(bytes(PIXELS - 2))),
    "zstd-small": ("zstd", Zstd(1).encode(bytes(PIXELS - 2))),
    "gzip-small": ("gzip", gzip.compress(bytes(PIXELS - 2))),
    "gzip-lies": ("gzip", gzip.compress(bytes(PIXELS - 2))[:-4] + struct.pack("<I", PIXELS)),
    "zlib-small": ("zlib", zlib.compress(bytes(PIXELS - 2))),
    "none-small": ("none", bytes(PIXELS - 2)),
    "none-large": ("none", bytes(PIXELS + 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_chunks_of_another_size_are_refused(
    name: str, zarr_format: int, plates: ModuleType, tmp_path: Path
) -> None:
    codec, bomb = BOMBS[name]
    if zarr_format == 3 and codec == "zlib":
        pytest.skip("v3 has no zlib")
    layout = plates.Layout(**(V3 if zarr_format == 3 else {}), codec=codec)
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]}, layout)
    key = f"A/1/0/0/{plates.chunk_key(layout, (0, 0, 0))}"
    (tmp_path / "p" / key).write_bytes(bomb)
    assert error_of(tmp_path / "p").startswith(f"chunk {key} cannot be read (")


@pytest.mark.parametrize("name", ["blosc", "zstd", "zstd-open", "gzip", "zlib"])
def test_the_other_way_refuses_them_too(name: str, plates: ModuleType, tmp_path: Path) -> None:
    """With a filter, zarr-python reads them."""
    codec, bomb = BOMBS[name]
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]}, codec=codec)
    filters = [Delta("<u2").get_config()]
    plates.edit_json(tmp_path / "p/A/1/0/0/.zarray", lambda d: d.update(filters=filters))
    (tmp_path / "p" / CHUNK).write_bytes(bomb)
    with pytest.raises(UnsupportedError):
        format_of(open_plate(tmp_path / "p").fields[0].array)
    assert error_of(tmp_path / "p").startswith(f"chunk {CHUNK} cannot be read (")


@pytest.mark.parametrize("codec", ["blosc", "zstd", "gzip", "gzip-members", "zlib"])
def test_what_decodes_well(codec: str) -> None:
    data = np.random.default_rng(0).integers(0, 9, 3000, dtype=np.uint8).tobytes()
    encode = {
        "blosc": Blosc("zstd", 3, 2).encode,
        "zstd": Zstd(3).encode,
        "gzip": gzip.compress,
        "gzip-members": lambda d: gzip.compress(d[:1000]) + gzip.compress(d[1000:]) + bytes(9),
        "zlib": zlib.compress,
    }[codec]
    decode = ours.decompressor(codec.removesuffix("-members"))
    assert decode is not None
    out = np.zeros(3000, np.uint8)
    decode(memoryview(encode(data)), out)
    assert out.tobytes() == data


@pytest.mark.parametrize(("more", "said"), [(-1, "truncated"), (1, "damaged")])
def test_blosc_of_another_length(more: int, said: str) -> None:
    stored = Blosc("lz4").encode(bytes(PIXELS))
    stored = stored[:more] if more < 0 else stored + bytes(more)
    with pytest.raises(ValueError, match=f"bytes where blosc says .*: it is {said}"):
        ours.blosc_into(memoryview(stored), np.zeros(PIXELS, np.uint8))


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("shuffle", [0, 1, 2])
def test_a_flipped_bit_in_the_size_of_elements(size: int, shuffle: int) -> None:
    """It would decode, to bytes in another order."""
    pixels = np.random.default_rng(0).integers(0, 200, 4_000).astype(f"u{size}")
    stored = bytearray(Blosc("lz4", 5, shuffle).encode(pixels))
    assert stored[3] == size
    out = np.zeros(pixels.nbytes, np.uint8)
    for bit in range(8):
        stored[3] = size ^ 1 << bit
        if shuffle:
            with pytest.raises(ValueError, match=r"it has elements of \d+ bytes: it is damaged"):
                ours.blosc_into(memoryview(stored), out)
        else:
            with contextlib.suppress(RuntimeError):  # of blosc, to which it counts its streams
                ours.blosc_into(memoryview(stored), out)
                assert out.tobytes() == pixels.tobytes()


@pytest.mark.parametrize("version", [2, 5])
def test_chunks_of_blosc2_are_no_pixels(version: int) -> None:
    """One of them says that its pixels are whatever stands in the buffer."""
    header = struct.pack("<4B3I", version, 1, 5, 2, PIXELS, PIXELS, 32) + bytes(15) + b"\x40"
    out = np.full(PIXELS, 7, np.uint8)
    assert len(imagecodecs.blosc2_decode(b"\5" + header[1:], out=out)) == PIXELS
    for stored in (header, imagecodecs.blosc2_encode(bytes(PIXELS))):
        with pytest.raises((ValueError, RuntimeError)):
            ours.blosc_into(memoryview(stored), out)


def test_an_open_zstd_frame_of_the_right_size() -> None:
    out = np.ones(3 * 2**17, np.uint8)
    ours.zstd_into(memoryview(open_frame(out.size)), out)
    assert not out.any()


@pytest.mark.parametrize("damage", ["flip", "cut"])
@pytest.mark.parametrize("codec", ["gzip", "zlib"])
def test_damaged_streams_are_found_by_their_sums(codec: str, damage: str) -> None:
    data = np.random.default_rng(1).integers(0, 99, 3000, dtype=np.uint8).tobytes()
    stored = bytearray((gzip if codec == "gzip" else zlib).compress(data))
    decode = ours.decompressor(codec)
    assert decode is not None
    for place in range(12, len(stored), 97):
        broken = stored[:place] if damage == "cut" else bytearray(stored)
        if damage == "flip":
            broken[place] ^= 4
        with pytest.raises((ValueError, OSError, EOFError, zlib.error)):
            decode(memoryview(bytes(broken)), np.zeros(3000, np.uint8))


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    place = os.open(path.parent, os.O_RDONLY)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{place}/{path.name}")
    os.close(place)


def make_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**40)  # sparse: it takes no room


SPECIAL = {"pipe": make_pipe, "socket": make_socket, "device": make_device, "huge": make_huge}


@pytest.mark.parametrize("by_zarr", [False, True])
@pytest.mark.parametrize("kind", SPECIAL)
def test_a_chunk_that_is_no_file_or_absurdly_large(
    kind: str, by_zarr: bool, plates: ModuleType, tmp_path: Path
) -> None:
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]})
    if by_zarr:
        filters = [Delta("<u2").get_config()]
        plates.edit_json(tmp_path / "p/A/1/0/0/.zarray", lambda d: d.update(filters=filters))
    chunk = tmp_path / "p" / CHUNK
    chunk.unlink()
    SPECIAL[kind](chunk)
    message = error_of(tmp_path / "p")
    assert message.startswith(f"chunk {CHUNK} cannot be read (")


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", [".zattrs", "A/1/.zattrs", "A/1/0/0/.zarray"])
def test_metadata_that_are_no_file_or_absurdly_large(
    kind: str, name: str, plates: ModuleType, tmp_path: Path
) -> None:
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]})
    (tmp_path / "p" / name).unlink()
    SPECIAL[kind](tmp_path / "p" / name)
    found: list[str] = []
    thread = threading.Thread(
        target=lambda: found.append(plates.refusal(tmp_path / "p")), daemon=True
    )
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "it hangs"
    assert len(found) == 1


def test_metadata_in_a_zip_or_remote_are_bounded_too(
    plates: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    plates.write_plate(tmp_path / "p", {"A/1": ["0"]})
    document = json.loads((tmp_path / "p/A/1/.zattrs").read_text())
    (tmp_path / "p/A/1/.zattrs").write_text(json.dumps(document | {"long": "x" * 5000}))
    plates.make_zip(tmp_path / "p", tmp_path / "p.zip")
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "p"), "/bounded/p.zarr", recursive=True)
    monkeypatch.setattr(base, "DOCUMENT_BYTES", 4096)
    try:
        for place in (tmp_path / "p", tmp_path / "p.zip", "memory://bounded/p.zarr"):
            assert "MiB are no metadata" in plates.refusal(place)
    finally:
        memory.rm("/bounded", recursive=True)


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 2**63), (2**63, 10), (10**9, 100), (0, 0), (2**64 - 1, 5), (5, 2**64 - 1), (0, 10**9)],
)
@pytest.mark.parametrize("has_crc", [False, True])
def test_a_shard_index_that_lies(
    has_crc: bool, offset: int, length: int, plates: ModuleType, tmp_path: Path
) -> None:
    from google_crc32c import value

    layout = plates.Layout(**V3, codec="none", chunks=(1, 15, 17), shards=(1, 45, 51))
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]}, layout)
    shard = tmp_path / "p/A/1/0/0/c/0/0/0"
    data = shard.read_bytes()
    index = np.frombuffer(data[-4 - 9 * 16 : -4], "<u8").reshape(9, 2).copy()
    index[4] = (offset, length)
    crc = value(index.tobytes()) if has_crc else 5
    shard.write_bytes(data[: -4 - 9 * 16] + index.tobytes() + struct.pack("<I", crc))
    message = error_of(tmp_path / "p")
    assert message.startswith("chunk A/1/0/0/c/0/0/0 cannot be read (")
    assert has_crc or "checksum" in message


def test_codecs_of_numcodecs_in_v3_are_guarded(plates: ModuleType, tmp_path: Path) -> None:
    """They go by zarr-python, which warns that they are no part of Zarr."""
    from unidino_fast.reading.guard import guarded

    facts = make_facts(plates, tmp_path)
    for name in ("blosc", "zstd", "gzip"):
        codec = {"name": f"numcodecs.{name}", "configuration": {"level": 1}}
        document: Any = guarded({"codecs": [{"name": "bytes"}, codec]}, facts)
        assert type(document["codecs"][1]).__name__.startswith("Guarded")


def make_facts(plates: ModuleType, folder: Path) -> Any:
    plates.write_plate(folder / "f", {"A/1": ["0"]}, **V3)
    return open_plate(folder / "f").fields[0].array
