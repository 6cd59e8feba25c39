"""Chunks of a shard, which compiled code decodes many at a step: as one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from decoder_places import planes
from google_crc32c import value
from numcodecs import Blosc
from placed_pixels import read_into_used_memory, said, used

from unidino_fast.errors import PixelError
from unidino_fast.plate import open_plate
from unidino_fast.reading import FieldReader, FieldRequest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

    from steps import Steps

    from unidino_fast.plate_model import Plate

    Chunks = dict[tuple[int, ...], bytes | None]

LAYOUT: dict[str, Any] = {
    "zarr_format": 3, "ngff": "0.5", "chunks": (1, 16, 10), "shards": (1, 48, 60),
}  # fmt: skip
"""Five chunks a row, and one that ends behind the field; the last of three rows does, too: with
three channels 54 in all."""
OF_TWO_THREADS = 30, 24
"""Chunks that each reads in one step: half of them, in whole rows."""
ABSENT = np.uint64(2**64 - 1)


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
@pytest.mark.parametrize("codec", ["blosc-lz4-shuffle", "blosc-zstd-bitshuffle", "zstd", "none"])
def test_many_rows_are_one_step(
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
    assert sorted(steps, reverse=True) == [(n, n) for n in OF_TWO_THREADS]
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
    assert [n_given for n_given, _ in steps] == [n_taken for _, n_taken in steps]
    assert (len(steps), sum(n for n, _ in steps)) == (2, 3 * 7 * -(-51 // width))


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
    first, second = OF_TWO_THREADS
    assert (first, 18 + 6 + x) in steps  # behind a channel, and a row of the next
    assert (second, second) in steps


@pytest.mark.parametrize("x", [0, 2, 4])
def test_a_chunk_of_another_kind_among_others(
    x: int, steps: Steps, plates: ModuleType, tmp_path: Path
) -> None:
    """It is decoded otherwise, and the others as ever."""
    written = plates.write_plate(
        tmp_path / "p", {"A/1": ["0"]}, codec="blosc-lz4-shuffle", **LAYOUT
    )
    pixels = planes("flat", (16, 10), 3)
    chunk = Blosc("zlib", 5, Blosc.SHUFFLE).encode(pixels)
    rewritten(tmp_path / "p/A/1/0/0/c/0/0/0", with_chunk((0, 0, x), chunk))
    written["A/1/0"][0, :16, 10 * x : 10 * x + 10] = pixels
    for path, read in read_into_used_memory(open_plate(tmp_path / "p"), n_threads=1):
        np.testing.assert_array_equal(read, written[path])
    assert steps == [(54, x), (53 - x, 53 - x), (1, 0)]


@pytest.mark.parametrize("codec", ["blosc-lz4-shuffle", "zstd", "none"])
@pytest.mark.parametrize("x", [0, 2, 4])
def test_an_absent_chunk_among_others(
    x: int, codec: str, steps: Steps, plates: ModuleType, tmp_path: Path
) -> None:
    written = plates.write_plate(
        tmp_path / "p", {"A/1": ["0"]}, codec=codec, fill_value=7, **LAYOUT
    )
    rewritten(tmp_path / "p/A/1/0/0/c/2/0/0", with_chunk((0, 2, x), None))
    written["A/1/0"][2, 32:, 10 * x : 10 * x + 10] = 7
    for path, read in read_into_used_memory(open_plate(tmp_path / "p")):
        np.testing.assert_array_equal(read, written[path])
    first, second = OF_TWO_THREADS
    before = 6 + 12 + x  # a row of the second channel, and two of the third
    after = second - before - 1
    expected = [(first, first), (second, before), (after, after)]
    assert sorted(steps, reverse=True) == expected


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


@pytest.mark.parametrize(
    ("n_threads", "lengths"), [(1, [54]), (2, OF_TWO_THREADS), (5, [12, 12, 12, 12, 6])]
)
def test_many_threads(
    n_threads: int, lengths: list[int], steps: Steps, plates: ModuleType, tmp_path: Path
) -> None:
    names = [str(number) for number in range(12)]
    written = plates.write_plate(
        tmp_path / "p", {"A/1": names, "A/2": names}, codec="zstd", **LAYOUT
    )
    plate = open_plate(tmp_path / "p")
    for _ in range(3):
        steps.clear()
        for field, found in zip(plate.fields, stream(plate, n_threads), strict=True):
            np.testing.assert_array_equal(found, written[field.array_path.removesuffix("/0")])
        assert sorted(steps) == sorted((n, n) for n in lengths for _ in plate.fields)
    assert set(said(steps)) == {True}
