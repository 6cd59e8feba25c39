"""zstd frames: by zstandard where they are whole, and as numcodecs decodes them in any case."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import zstd as oracle

from unidino_fast.reading import codecs


def pixels(n_bytes: int, levels: int = 40) -> bytes:
    return np.random.default_rng(n_bytes).integers(0, levels, n_bytes, np.uint8).tobytes()


def frame(data: bytes, *, level: int = 3, checksum: bool = False, size: bool = True) -> bytes:
    options: dict[str, Any] = {"write_checksum": checksum, "write_content_size": size}
    return zstandard.ZstdCompressor(level=level, **options).compress(data)


def decoded(stored: bytes, n_bytes: int) -> bytes:
    out = np.full(n_bytes, 7, np.uint8)
    codecs.zstd_into(memoryview(stored), out)
    return out.tobytes()


@pytest.fixture
def by_zstandard_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(name: str) -> None:
        raise AssertionError(f"{name} of numcodecs was asked")

    monkeypatch.setattr(codecs, "_numcodecs", other)


@pytest.mark.usefixtures("by_zstandard_alone")
@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("level", [-5, 1, 3, 19])
@pytest.mark.parametrize("n_bytes", [1, 255, 256, 65_791, 65_792, 131_072, 131_073, 600_000])
def test_whole_frames(n_bytes: int, level: int, checksum: bool) -> None:
    for data in (pixels(n_bytes), pixels(n_bytes, 256), bytes(n_bytes)):
        assert decoded(frame(data, level=level, checksum=checksum), n_bytes) == data


@pytest.mark.usefixtures("by_zstandard_alone")
def test_frames_of_numcodecs() -> None:
    data = pixels(300_000)
    for level in (1, 9):
        assert decoded(oracle.compress(data, level), len(data)) == data


def test_frames_that_leave_their_size_open_go_to_numcodecs() -> None:
    data = pixels(300_000)
    assert decoded(frame(data, size=False), len(data)) == data
    with pytest.raises(RuntimeError):
        decoded(frame(data, size=False)[:-4], len(data))


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("n_bytes", [300, 140_000])
def test_frames_that_are_cut_are_refused(n_bytes: int, checksum: bool) -> None:
    """Also behind their last pixel, where nothing of the pixels is missing."""
    for data in (pixels(n_bytes), bytes(n_bytes)):
        stored = frame(data, checksum=checksum)
        for length in {*range(min(len(stored), 30)), *range(max(0, len(stored) - 30), len(stored))}:
            with pytest.raises((ValueError, RuntimeError)):
                decoded(stored[:length], n_bytes)


def test_a_flipped_bit_is_found_by_the_checksum() -> None:
    data = pixels(140_000)
    stored = bytearray(frame(data, checksum=True))
    for place in range(12, len(stored), 997):
        stored[place] ^= 4
        with pytest.raises((ValueError, RuntimeError)):
            decoded(bytes(stored), len(data))
        stored[place] ^= 4
    stored[-1] ^= 1
    with pytest.raises(RuntimeError):
        decoded(bytes(stored), len(data))


@settings(max_examples=400, deadline=None)
@given(
    n_bytes=st.sampled_from((10, 3_000, 131_500)),
    checksum=st.booleans(),
    size=st.booleans(),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=3),
    more=st.binary(max_size=12),
)
def test_as_numcodecs_decodes_them(
    n_bytes: int, checksum: bool, size: bool, changes: list[tuple[float, int]], more: bytes
) -> None:
    """Whatever has become of a frame: the same pixels, or an error."""
    stored = bytearray(frame(pixels(n_bytes), checksum=checksum, size=size) + more)
    for place, value in changes:
        stored[round(place * (len(stored) - 1))] = value
    expected: bytes | None
    try:
        out = np.full(n_bytes, 7, np.uint8)
        oracle.decompress(bytes(stored), out)
        expected = out.tobytes()
    except (RuntimeError, ValueError):
        expected = None
    try:
        found: bytes | None = decoded(bytes(stored), n_bytes)
    except (RuntimeError, ValueError):
        found = None
    if expected is None or found is not None:
        assert found == expected
    else:  # it declares another size, which numcodecs lets pass where there is room for it
        assert codecs.zstd_size(memoryview(bytes(stored))) not in (n_bytes, None)


def test_a_last_block_of_no_kind_is_refused() -> None:
    """A decoder that stops at the last pixel might not see it: zstandard is not asked."""
    start = b"\x28\xb5\x2f\xfd\xa0" + (1000).to_bytes(4, "little")
    raw = (1000 << 3).to_bytes(3, "little") + pixels(1000)
    for kind, is_sound in ((0, True), (3, False)):
        stored = start + raw + (kind << 1 | 1).to_bytes(3, "little")
        assert codecs._is_whole_frame(memoryview(stored), 9, has_checksum=False) == is_sound
        if is_sound:
            assert decoded(stored, 1000) == pixels(1000)
        else:
            with pytest.raises(RuntimeError):
                decoded(stored, 1000)


def test_frames_of_very_many_blocks_are_not_walked_through() -> None:
    empty = b"\0\0\0"  # a block that holds nothing, and is not the last
    stored = b"\x28\xb5\x2f\xfd\x20\x02" + empty * 100_000 + b"\x11\0\0ab"
    assert not codecs._is_whole_frame(memoryview(stored), 6, has_checksum=False)
    assert decoded(stored, 2) == b"ab"


@pytest.mark.usefixtures("by_zstandard_alone")
def test_threads_have_decoders_of_their_own() -> None:
    frames = [(frame(data), data) for data in (pixels(n) for n in (150_000, 150_001, 150_002))]
    wrong: list[int] = []

    def work() -> None:
        for _ in range(150):
            wrong.extend(len(data) for stored, data in frames if decoded(stored, len(data)) != data)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
