"""Compiled decoding: as c-blosc and zstd decode chunks, whatever they are or claim to be."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest
import xxhash
import zstandard
from decoder_places import LARGE, UNTOUCHED, Place, damaged, planes
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import Blosc, Zstd

from unidino_fast.reading import decoders
from unidino_fast.reading.codecs import blosc_into, zstd_into
from unidino_fast.reading.room import n_words

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER = struct.Struct("<BBBBiii")


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
    is_dense = kept == shape and not beyond
    assert place.checksum == (xxhash.xxh3_64_intdigest(pixels.tobytes()) if is_dense else 0)


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


@pytest.mark.parametrize("is_blosc", [True, False])
def test_a_chunk_that_is_damaged_has_no_checksum(is_blosc: bool) -> None:
    """Nor that of the chunk before."""
    pixels = planes("dim", LARGE, 1)
    stored = Blosc("zstd", 1).encode(pixels) if is_blosc else Zstd(1).encode(pixels)
    place = Place(LARGE, LARGE, LARGE[1])
    for _ in range(2):
        assert place.take(stored, is_blosc=is_blosc)
        assert place.checksum == xxhash.xxh3_64_intdigest(pixels.tobytes())
        assert not place.take(stored[:-1], is_blosc=is_blosc)
        assert place.checksum == 0


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


@pytest.mark.parametrize(("name", "least"), [("staged", 65_536), ("words", n_words(65_536))])
def test_too_little_to_work_in(name: str, least: int) -> None:
    place = Place(LARGE, LARGE, 300)
    setattr(place, name, getattr(place, name)[:least])
    assert place.take(edited())
    setattr(place, name, getattr(place, name)[: least - 1])
    assert not place.take(edited())


@pytest.mark.parametrize(("start", "fits"), [(-1, False), (0, True), (2, True), (3, False)])
def test_memory_that_ends_before(start: int, fits: bool) -> None:
    place = Place(LARGE, LARGE, 300)
    stored = np.frombuffer(bytearray(edited()), np.uint8)
    memory = np.zeros(200 * 300 + 2, np.uint16)
    to = memory, start, 300, 200, 300
    assert decoders.place((True, 200 * 300, 300), stored, to, place.work) == fits


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
        assert place.take(stored, is_blosc=False) == is_told, name
        if is_told:
            np.testing.assert_array_equal(place.pixels, pixels[: kept[0], : kept[1]])
            is_dense = kept == pixels.shape and not beyond
            assert place.checksum == (xxhash.xxh3_64_intdigest(pixels.tobytes()) if is_dense else 0)


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
        assert not place.take(stored, is_blosc=False), name
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
                if place.take(broken, is_blosc=False):
                    n_taken += 1
                    out = np.zeros(2 * shape[0] * shape[1], np.uint8)
                    zstd_into(memoryview(broken), out)
                    found = out.view(np.uint16).reshape(shape)
                    np.testing.assert_array_equal(place.pixels, found)
                assert place.pixels.shape == shape
    assert 30 < n_taken < 5000
