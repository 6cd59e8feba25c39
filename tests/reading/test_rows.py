"""Chunks of a row of a shard, which compiled code decodes in one step: as one by one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from decoder_places import UNTOUCHED, at_the_end_of_memory, planes
from google_crc32c import value
from numcodecs import Blosc, Zstd
from placed_pixels import read_into_used_memory, said, used

from unidino_fast.errors import PixelError
from unidino_fast.plate import open_plate
from unidino_fast.reading import FieldReader, FieldRequest, decoders
from unidino_fast.reading.files import ShardRow, parts_of_shards, whole_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from steps import Steps

    from unidino_fast.plate_model import Plate

    Chunks = dict[tuple[int, ...], bytes | None]

CODECS: dict[str, Any] = {"blosc": Blosc("lz4", 5, Blosc.SHUFFLE), "zstd": Zstd(1)}
SHAPE = 24, 61
LAYOUT: dict[str, Any] = {
    "zarr_format": 3, "ngff": "0.5", "chunks": (1, 16, 10), "shards": (1, 48, 60),
}  # fmt: skip
"""Five chunks a row, and one that ends behind the field; the last of three rows does, too."""
ABSENT = np.uint64(2**64 - 1)
MOST = 2 * 24 * 61 + 100
"""Bytes of a chunk."""
Part = tuple[Path, int, int]


def row_of(codec: str, n_chunks: int) -> tuple[list[np.ndarray], list[bytes]]:
    pixels = [planes("dim", SHAPE, seed) for seed in range(n_chunks)]
    return pixels, [CODECS[codec].encode(part) for part in pixels]


def in_one_file(folder: Path, chunks: list[bytes]) -> list[Part]:
    """With something between them."""
    parts, body = [], b""
    for chunk in chunks:
        parts.append((folder / "shard", len(body) + 5, len(chunk)))
        body += b"12345" + chunk
    (folder / "shard").write_bytes(body)
    return parts


def in_files(folder: Path, chunks: list[bytes]) -> list[Part]:
    for number, chunk in enumerate(chunks):
        (folder / str(number)).write_bytes(chunk)
    return [(folder / str(number), 0, -(MOST + 1)) for number in range(len(chunks))]


WAYS = {"shard": in_one_file, "files": in_files}


def placed(codec: str, found: list[Part], to: Any, n_bytes: int = MOST + 1) -> int:
    """How many chunks are taken; what is written behind the bytes that are for use crashes."""
    zstd = decoders.ZstdDecoder()
    work = np.zeros(2 * 24 * 61, np.uint8), np.zeros(24 * 61 // 4, np.uint64), zstd.address
    names = list(dict.fromkeys(bytes(path) + b"\0" for path, _, _ in found))
    paths = b"".join(names) or b"\0"
    parts = [(paths.index(bytes(path) + b"\0"), offset, n) for path, offset, n in found]
    table = np.array(parts, np.int64).reshape(-1, 3)
    chunk = codec == "blosc", 24 * 61, 61
    stored = at_the_end_of_memory(bytes(n_bytes))
    return decoders.fetch(chunk, np.frombuffer(paths, np.uint8), table, stored, to, work)


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("rows", [24, 23])
@pytest.mark.parametrize("n_chunks", [0, 1, 2, 5, 40])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("codec", CODECS)
def test_rows_of_chunks(codec: str, way: str, n_chunks: int, rows: int, tmp_path: Path) -> None:
    pixels, chunks = row_of(codec, n_chunks)
    field = np.full((30, n_chunks * 61 + 11), UNTOUCHED, np.uint16)
    expected = field.copy()
    for number, part in enumerate(pixels):
        expected[2 : 2 + rows, 4 + number * 61 :][:, :61] = part[:rows]
    to = field.reshape(-1), 2 * field.shape[1] + 4, field.shape[1], rows, 61
    before = open_files()
    assert placed(codec, WAYS[way](tmp_path, chunks), to) == n_chunks
    np.testing.assert_array_equal(field, expected)
    assert open_files() == before


@pytest.mark.parametrize("damaged", [0, 2, 4])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("codec", CODECS)
def test_it_ends_before_a_chunk_that_is_damaged(
    codec: str, way: str, damaged: int, tmp_path: Path
) -> None:
    pixels, chunks = row_of(codec, 5)
    chunks[damaged] = bytes(len(chunks[damaged]))
    field = np.full((24, 5 * 61), UNTOUCHED, np.uint16)
    parts, before = WAYS[way](tmp_path, chunks), open_files()
    assert placed(codec, parts, (field.reshape(-1), 0, 5 * 61, 24, 61)) == damaged
    np.testing.assert_array_equal(field[:, : damaged * 61], np.hstack(pixels)[:, : damaged * 61])
    assert (field[:, damaged * 61 :] == UNTOUCHED).all()
    assert open_files() == before
    rest = damaged + 1
    to = field.reshape(-1), rest * 61, 5 * 61, 24, 61
    assert placed(codec, parts[rest:], to) == 5 - rest
    np.testing.assert_array_equal(field[:, rest * 61 :], np.hstack(pixels)[:, rest * 61 :])


def no_file(folder: Path) -> Path:
    return folder / "nothing"


def a_folder(folder: Path) -> Path:
    (folder / "sub").mkdir()
    return folder / "sub"


def a_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


def an_empty_file(folder: Path) -> Path:
    (folder / "empty").write_bytes(b"")
    return folder / "empty"


@pytest.mark.parametrize("make", [no_file, a_folder, a_pipe, an_empty_file, lambda _: "/dev/zero"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("codec", CODECS)
def test_what_is_no_file(codec: str, way: str, make: Any, tmp_path: Path) -> None:
    _, chunks = row_of(codec, 3)
    parts = WAYS[way](tmp_path, chunks)
    parts[1] = Path(make(tmp_path)), *parts[1][1:]
    field = np.full((24, 3 * 61), UNTOUCHED, np.uint16)
    before = open_files()
    assert placed(codec, parts, (field.reshape(-1), 0, 3 * 61, 24, 61)) == 1
    assert (field[:, 61:] == UNTOUCHED).all()
    assert open_files() == before


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 0), (5, 1), (2**40, 100), (-1, 100), (-(2**63), 100), (5, MOST + 2), (5, 2**62),
     (5, -(2**63)), (2**63 - 1, 2**63 - 1)],
)  # fmt: skip
@pytest.mark.parametrize("codec", CODECS)
def test_parts_that_lie(codec: str, offset: int, length: int, tmp_path: Path) -> None:
    """What comes before them is right, and nothing else is read or written."""
    pixels, chunks = row_of(codec, 3)
    parts = in_one_file(tmp_path, chunks)
    parts[1] = tmp_path / "shard", offset, length
    field = np.full((24, 3 * 61), UNTOUCHED, np.uint16)
    assert placed(codec, parts, (field.reshape(-1), 0, 3 * 61, 24, 61)) == 1
    np.testing.assert_array_equal(field[:, :61], pixels[0])
    assert (field[:, 61:] == UNTOUCHED).all()


@pytest.mark.parametrize("codec", CODECS)
def test_files_that_are_longer_or_shorter_than_they_may_be(codec: str, tmp_path: Path) -> None:
    _, [chunk] = row_of(codec, 1)
    [(path, _, _)] = in_files(tmp_path, [chunk])
    field = np.full(SHAPE, UNTOUCHED, np.uint16)
    to = field.reshape(-1), 0, 61, 24, 61
    assert placed(codec, [(path, 0, -len(chunk))], to) == 0
    assert placed(codec, [(path, 0, -len(chunk) - 1)], to) == 1
    assert placed(codec, [(path, 0, len(chunk) + 1)], to) == 0
    assert placed(codec, [(path, 0, len(chunk))], to, n_bytes=len(chunk) - 1) == 0
    assert placed(codec, [(path, 0, len(chunk))], to, n_bytes=len(chunk)) == 1


@pytest.mark.parametrize("codec", CODECS)
def test_a_row_that_leaves_the_memory(codec: str, tmp_path: Path) -> None:
    _, chunks = row_of(codec, 3)
    memory = np.full(24 * 183 + 64, UNTOUCHED, np.uint16)
    to = memory[: 24 * 183 - 1], 0, 183, 24, 61
    assert placed(codec, in_files(tmp_path, chunks), to) == 2
    assert (memory[24 * 183 - 61 :] == UNTOUCHED).all()


def test_names_that_no_file_has(steps: Steps, plates: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a zero ends"):
        whole_files("a\0b/", range(2), 9)
    with pytest.raises(ValueError, match="surrogates"):
        parts_of_shards([ShardRow("\ud800", None, (), 1)], 9)
    written = plates.write_plate(tmp_path / "p")
    storage = open_plate(tmp_path / "p").storage
    plates.check_pixels(open_plate(tmp_path / "p"), written)
    assert storage.files == f"{tmp_path}/p/"
    assert steps


def rewritten(shard: Path, change: Callable[[Chunks], Chunks], gap: int = 0) -> list[range]:
    """Changes the chunks (1, 3, 6) of a shard, and writes them in their order; where they stand."""
    stored = shard.read_bytes()
    table = np.frombuffer(stored[-18 * 16 - 4 : -4], "<u8").reshape(1, 3, 6, 2)
    spans = {index: table[index].tolist() for index in np.ndindex(1, 3, 6)}
    chunks = change({index: stored[at : at + n] for index, (at, n) in spans.items()})
    index = np.full((1, 3, 6, 2), ABSENT, "<u8")
    body, found = b"", []
    for place, chunk in chunks.items():
        if chunk is not None:
            body += b"\xff" * gap
            index[place] = len(body), len(chunk)
            found.append(range(len(body), len(body) + len(chunk)))
            body += chunk
    shard.write_bytes(body + index.tobytes() + value(index.tobytes()).to_bytes(4, "little"))
    return found


def with_chunk(place: tuple[int, ...], chunk: Any) -> Callable[[Chunks], Chunks]:
    return lambda chunks: chunks | {place: chunk(chunks[place]) if callable(chunk) else chunk}


@pytest.mark.parametrize("gap", [0, 7])
@pytest.mark.parametrize("order", ["row by row", "backwards", "any"])
@pytest.mark.parametrize("codec", ["blosc-lz4-shuffle", "blosc-zstd-bitshuffle", "zstd"])
def test_a_row_is_one_step(
    codec: str,
    order: str,
    gap: int,
    steps: Steps,
    plates: ModuleType,
    tmp_path: Path,
) -> None:
    """However its chunks stand in the shard; and each byte of them is fetched once."""
    written = plates.write_plate(tmp_path / "p", {"A/1": ["0"]}, codec=codec, **LAYOUT)
    rng = np.random.default_rng(0)

    def ordered(chunks: Chunks) -> Chunks:
        places = sorted(chunks, reverse=order == "backwards")
        if order == "any":
            rng.shuffle(places)
        return {tuple(place): chunks[tuple(place)] for place in places}

    shards = [f"A/1/0/0/c/{c}/0/0" for c in range(3)]
    spans = {key: rewritten(tmp_path / "p" / key, ordered, gap) for key in shards}
    for path, read in read_into_used_memory(open_plate(tmp_path / "p")):
        np.testing.assert_array_equal(read, written[path])
    assert sorted(steps) == [(1, 1)] * 9 + [(5, 5)] * 9
    for key in shards:
        found = [
            range(offset, offset + length)
            for path, offset, length in steps.parts
            if path == str(tmp_path / "p" / key)
        ]
        assert sorted(map(str, found)) == sorted(map(str, spans[key]))


@pytest.mark.parametrize("width", [4, 5, 10, 17, 25, 26, 51, 60])
def test_rows_of_many_chunks_and_of_several_shards(
    width: int, steps: Steps, plates: ModuleType, tmp_path: Path
) -> None:
    layout = {**LAYOUT, "chunks": (1, 7, width), "shards": (1, 21, 3 * width)}
    written = plates.write_plate(tmp_path / "p", {"A/1": ["0"]}, **layout)
    for path, read in read_into_used_memory(open_plate(tmp_path / "p")):
        np.testing.assert_array_equal(read, written[path])
    n_whole, n_edge = 51 // width, 51 % width > 0
    row = [n_whole] * (n_whole > 0) + [1] * n_edge
    assert sorted(steps) == sorted((n, n) for n in row * 7 * 3)


def stream(plate: Plate, n_threads: int = 2) -> list[np.ndarray | PixelError]:
    """Copies, since memory is used again."""
    reader = FieldReader(plate.storage, n_threads=n_threads, allocate=used)
    requests = [FieldRequest(field, 0, (0, 1, 2), "max") for field in plate.fields]
    return [
        found if isinstance(found, PixelError) else found.copy()
        for found in reader.stream(requests)
    ]


DAMAGES: dict[str, Any] = {
    "zeros": lambda chunk: bytes(len(chunk)),
    "cut": lambda chunk: chunk[:-9],
    "longer": lambda chunk: chunk + b"123",
    "a byte": lambda chunk: chunk[:1],
    "too long": lambda chunk: chunk + bytes(100_000),
    "other size": lambda chunk: Blosc("lz4", 5, 1).encode(planes("dim", (16, 11), 0)),
}


@pytest.mark.parametrize("codec", ["blosc-lz4-shuffle", "zstd"])
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("x", [0, 2, 4])
def test_a_damaged_chunk_is_named_as_one_by_one(
    x: int,
    damage: str,
    codec: str,
    plates: ModuleType,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """And other fields are as they were."""
    written = plates.write_plate(tmp_path / "p", {"A/1": ["0", "1"]}, codec=codec, **LAYOUT)
    shard = "A/1/0/0/c/1/0/0"
    rewritten(tmp_path / "p" / shard, with_chunk((0, 1, x), DAMAGES[damage]))
    plate = open_plate(tmp_path / "p")
    usual, other = stream(plate)
    steps: Steps = request.getfixturevalue("steps")
    found, pixels = stream(plate)
    assert isinstance(usual, PixelError)
    assert isinstance(found, PixelError)
    assert str(found) == str(usual)
    assert str(found).startswith(f"chunk {shard} cannot be read")
    np.testing.assert_array_equal(pixels, written["A/1/1"])
    np.testing.assert_array_equal(other, written["A/1/1"])
    assert (5, x) in steps


@pytest.mark.parametrize("x", [0, 2, 4])
def test_a_chunk_of_another_kind_in_a_row(
    x: int, steps: Steps, plates: ModuleType, tmp_path: Path
) -> None:
    """It is decoded otherwise, and the others as ever; no other row is tried."""
    written = plates.write_plate(
        tmp_path / "p", {"A/1": ["0"]}, codec="blosc-lz4-shuffle", **LAYOUT
    )
    pixels = planes("flat", (16, 10), 3)
    chunk = Blosc("zlib", 5, Blosc.SHUFFLE).encode(pixels)
    rewritten(tmp_path / "p/A/1/0/0/c/0/0/0", with_chunk((0, 0, x), chunk))
    written["A/1/0"][0, :16, 10 * x : 10 * x + 10] = pixels
    for path, read in read_into_used_memory(open_plate(tmp_path / "p"), n_threads=1):
        np.testing.assert_array_equal(read, written[path])
    rest = 4 - x
    assert steps == [(5, x)] + [(rest, rest)] * (rest > 0) + [(1, 0)]


@pytest.mark.parametrize("codec", ["blosc-lz4-shuffle", "zstd"])
@pytest.mark.parametrize("x", [0, 2, 4])
def test_an_absent_chunk_in_a_row(
    x: int, codec: str, steps: Steps, plates: ModuleType, tmp_path: Path
) -> None:
    written = plates.write_plate(
        tmp_path / "p", {"A/1": ["0"]}, codec=codec, fill_value=7, **LAYOUT
    )
    rewritten(tmp_path / "p/A/1/0/0/c/2/0/0", with_chunk((0, 2, x), None))
    written["A/1/0"][2, 32:, 10 * x : 10 * x + 10] = 7
    for path, read in read_into_used_memory(open_plate(tmp_path / "p")):
        np.testing.assert_array_equal(read, written[path])
    rest = 4 - x
    row = [(5, x)] + [(rest, rest)] * (rest > 0)
    assert sorted(steps) == sorted([(1, 1)] * 9 + row + [(5, 5)] * 8)


def test_chunks_with_checksums_are_checked(
    steps: Steps, plates: ModuleType, tmp_path: Path
) -> None:
    written = plates.write_plate(
        tmp_path / "p", {"A/1": ["0"]}, codec="blosc-lz4-shuffle", crc32c=True, **LAYOUT
    )
    [(_, read)] = read_into_used_memory(open_plate(tmp_path / "p"))
    np.testing.assert_array_equal(read, written["A/1/0"])
    flipped = with_chunk((0, 1, 2), lambda chunk: chunk[:-6] + bytes([chunk[-6] ^ 1]) + chunk[-5:])
    rewritten(tmp_path / "p/A/1/0/0/c/2/0/0", flipped)
    [found] = stream(open_plate(tmp_path / "p"))
    assert isinstance(found, PixelError)
    assert "its checksum differs" in str(found)
    assert steps == []


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_many_threads(n_threads: int, steps: Steps, plates: ModuleType, tmp_path: Path) -> None:
    names = [str(number) for number in range(12)]
    written = plates.write_plate(
        tmp_path / "p", {"A/1": names, "A/2": names}, codec="zstd", **LAYOUT
    )
    plate = open_plate(tmp_path / "p")
    for _ in range(3):
        steps.clear()
        for field, found in zip(plate.fields, stream(plate, n_threads), strict=True):
            np.testing.assert_array_equal(found, written[field.array_path.removesuffix("/0")])
        assert sorted(steps) == [(1, 1)] * 9 * 24 + [(5, 5)] * 9 * 24
    assert set(said(steps)) == {True}
