"""Chunks that compiled code reads from files and decodes, side by side, in one step."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from decoder_places import UNTOUCHED, at_the_end_of_memory, planes
from numcodecs import Blosc, Zstd

from unidino_fast.plate import open_plate
from unidino_fast.reading import decoders
from unidino_fast.reading.buffers import PAGE_BYTES, Scratch
from unidino_fast.reading.files import ChunkFiles
from unidino_fast.reading.formats import ShardFormat
from unidino_fast.reading.room import work_room

if TYPE_CHECKING:
    from types import ModuleType

    from steps import Steps


class Plain:
    """Stores pixels as they are."""

    def encode(self, pixels: np.ndarray) -> bytes:
        return pixels.tobytes()


CODECS: dict[str, Any] = {
    "zstd": Zstd(1), "blosc": Blosc("lz4", 5, Blosc.SHUFFLE), "plain": Plain()
}  # fmt: skip
KINDS = {name: kind for kind, name in enumerate(CODECS)}
SHAPE = 24, 61
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


def placed(codec: str, found: list[Part], to: Any, most: int = MOST + 1) -> int:
    """How many chunks are taken; what is written behind the bytes that are for use crashes."""
    work = work_room(2 * 24 * 61, Scratch())
    names = list(dict.fromkeys(bytes(path) + b"\0" for path, _, _ in found))
    paths = b"".join(names) or b"\0"
    parts = [(paths.index(bytes(path) + b"\0"), offset, n) for path, offset, n in found]
    table = np.array(parts, np.int64).reshape(-1, 3)
    chunk = KINDS[codec], 24 * 61, 61
    stored = at_the_end_of_memory(bytes(most + PAGE_BYTES))
    memory, start, pitch, rows, columns = to
    places = [(start + number * 61, rows, columns) for number in range(len(parts))]
    windows = np.array(places, np.int64).reshape(-1, 3)
    nothing = np.zeros((len(parts), 0), np.int64)
    to = memory, pitch, windows, np.zeros(len(parts), np.uint64), nothing
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
    # of pixels as they are, zeros would be pixels
    chunks[damaged] = chunks[damaged][:-2] if codec == "plain" else bytes(len(chunks[damaged]))
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
    if (codec, way, str(parts[1][0])) == ("plain", "shard", "/dev/zero"):
        pytest.skip("so many zeros are a chunk's pixels")
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
    assert placed(codec, [(path, 0, len(chunk))], to, most=len(chunk) - 1) == 0
    assert placed(codec, [(path, 0, len(chunk))], to, most=len(chunk)) == 1
    path.write_bytes(chunk + b"\0")
    assert placed(codec, [(path, 0, -(MOST + 1))], to) == 0


@pytest.mark.parametrize("start", [-1, 1, 2**62])
@pytest.mark.parametrize("codec", CODECS)
def test_places_that_are_not_of_the_field(codec: str, start: int, tmp_path: Path) -> None:
    _, [chunk] = row_of(codec, 1)
    field = np.full(SHAPE, UNTOUCHED, np.uint16)
    to = field.reshape(-1), start, 61, 24, 61
    assert placed(codec, in_one_file(tmp_path, [chunk]), to) == 0
    assert (field == UNTOUCHED).all()


@pytest.mark.parametrize("codec", CODECS)
def test_chunks_begin_anywhere_in_a_file(codec: str, tmp_path: Path) -> None:
    """Where they are read to depends on it: two pages' worth of beginnings."""
    [pixels], [chunk] = row_of(codec, 1)
    (tmp_path / "shard").write_bytes(bytes(2 * PAGE_BYTES) + chunk)
    whole = (tmp_path / "shard").read_bytes()
    for offset in range(0, 2 * PAGE_BYTES, 5):
        (tmp_path / "shard").write_bytes(whole[2 * PAGE_BYTES - offset :])
        field = np.full(SHAPE, UNTOUCHED, np.uint16)
        part = tmp_path / "shard", offset, len(chunk)
        assert placed(codec, [part], (field.reshape(-1), 0, 61, 24, 61), len(chunk)) == 1
        np.testing.assert_array_equal(field, pixels)


@pytest.mark.parametrize("codec", CODECS)
def test_chunks_follow_at_their_width(codec: str, tmp_path: Path) -> None:
    """However few of their columns are wanted."""
    pixels, chunks = row_of(codec, 3)
    field = np.full((24, 3 * 61), UNTOUCHED, np.uint16)
    expected = np.hstack(pixels)
    expected[:, [59, 60, 120, 121, 181, 182]] = UNTOUCHED
    assert placed(codec, in_files(tmp_path, chunks), (field.reshape(-1), 0, 183, 24, 59)) == 3
    np.testing.assert_array_equal(field, expected)


@pytest.mark.parametrize("codec", CODECS)
def test_no_more_is_read_than_there_is_room_for(codec: str, tmp_path: Path) -> None:
    _, [chunk] = row_of(codec, 1)
    [(path, _, _)] = in_files(tmp_path, [chunk])
    room = len(chunk) - 1 + PAGE_BYTES
    held, field = np.zeros(room + len(chunk), np.uint8), np.zeros(SHAPE, np.uint16)
    work = work_room(2 * 24 * 61, Scratch())
    name = np.frombuffer(bytes(path) + b"\0", np.uint8)
    for length in (len(chunk), -len(chunk) - 1):
        parts, stored = np.array([[0, 0, length]]), held[:room]
        row = field.reshape(-1), 61, np.array([[0, 24, 61]]), np.zeros(1, np.uint64), parts
        kind = KINDS[codec], 24 * 61, 61
        assert decoders.fetch(kind, name, parts, stored, row, work) == 0
        assert not held[room:].any()


def no_index(_: str) -> None:
    raise AssertionError("there is no shard")


def test_where_chunks_stand() -> None:
    found = ChunkFiles(["/9", "/10", "/11"], None, 70).of("/a/b", no_index)
    assert found.paths == b"/a/b/9\x00/a/b/10\x00/a/b/11\x00"
    assert found.parts.tolist() == [[0, 0, -71], [7, 0, -71], [15, 0, -71]]


@pytest.mark.parametrize("byte_order", "<>")
def test_where_chunks_stand_in_shards(byte_order: str) -> None:
    """In any order, and nowhere where an index lies, a chunk is absent, or a shard."""
    most = 2**64 - 1
    spans = [(0, 70), (0, 71), (5, 0), (most, most), (most - 15, 9), (2**62, 9), (2**62 - 1, 9)]
    table = np.array([spans], f"{byte_order}u8")
    ends = ["/s", "/s", "/t", "/s", "/s", "/t", "/s", "/s", "/s"]
    files = ChunkFiles(ends, [6, 0, 3, 1, 2, 0, 3, 4, 5], 70)
    asked: list[str] = []
    found = files.of("/a", lambda end: (asked.append(end), table if end == "/s" else None)[1])
    assert asked == ["/s", "/t"]
    assert found.paths == b"/a/s\0/a/t\0"
    of_s, of_t = [0, 0, 0], [5, 0, 0]
    there = [[0, 2**62 - 1, 9], [0, 0, 70]]
    assert found.parts.tolist() == [*there, of_t, of_s, of_s, of_t, of_s, of_s, of_s]


@pytest.mark.parametrize(
    ("first", "n_chunks", "expected"),
    [(0, 5, [(0, 5)]), (4, 7, [(4, 1), (5, 5), (10, 1)]), (7, 2, [(7, 2)]), (3, 0, [])],
)
def test_chunks_of_several_shards(
    first: int, n_chunks: int, expected: list[tuple[int, int]]
) -> None:
    shard = ShardFormat((1, 3, 5), at_end=True, has_crc=True, byte_order="<")
    found = [(at, number) for (_, _, at), number in shard.rows((0, 2, first), n_chunks)]
    assert found == expected


@pytest.mark.parametrize("codec", CODECS)
def test_a_row_that_leaves_the_memory(codec: str, tmp_path: Path) -> None:
    _, chunks = row_of(codec, 3)
    memory = np.full(24 * 183 + 64, UNTOUCHED, np.uint16)
    to = memory[: 24 * 183 - 1], 0, 183, 24, 61
    assert placed(codec, in_files(tmp_path, chunks), to) == 2
    assert (memory[24 * 183 - 61 :] == UNTOUCHED).all()


def test_names_that_no_file_has(steps: Steps, plates: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a zero ends"):
        ChunkFiles(["0", "1"], None, 9).of("a\0b/", no_index)
    with pytest.raises(ValueError, match="surrogates"):
        ChunkFiles(["0"], [0], 9).of("\ud800", no_index)
    written = plates.write_plate(tmp_path / "p")
    storage = open_plate(tmp_path / "p").storage
    plates.check_pixels(open_plate(tmp_path / "p"), written)
    assert storage.files == f"{tmp_path}/p/"
    assert steps
