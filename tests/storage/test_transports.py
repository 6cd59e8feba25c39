"""How a body is taken in, piece by piece, and what its headers say."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from unidino_fast.storage import transports
from unidino_fast.storage.headers import head_of
from unidino_fast.storage.transports import RoomError, take

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from plate_server import Handler, Server

DATA = bytes(range(256)) * 3


class Body:
    """Gives bytes in pieces of odd sizes, and counts those that were taken."""

    def __init__(self, data: bytes) -> None:
        self.data, self.n_taken = data, 0

    async def read(self, most: int) -> bytes:
        piece = self.data[self.n_taken : self.n_taken + min(most, 7)]
        self.n_taken += len(piece)
        return piece


def taken(
    data: bytes, status: int, headers: dict[str, str], start: int | None, stop: int | None
) -> bytes:
    asked: list[int] = []

    def room(n_bytes: int) -> memoryview:
        asked.append(n_bytes)
        return memoryview(bytearray(n_bytes))

    body = Body(data)
    found = asyncio.run(take(body.read, head_of(status, headers), start, stop, room, patience=60))
    assert asked[-1] >= len(found)
    return bytes(found)


SPANS = [(None, None), (0, 5), (3, 300), (700, None), (-9, None), (-9999, None), (767, 999), (5, 5)]


@pytest.mark.parametrize("tells_size", [True, False])
@pytest.mark.parametrize(("start", "stop"), SPANS)
def test_spans_of_servers_with_and_without_ranges(
    start: int | None, stop: int | None, tells_size: bool
) -> None:
    wanted = DATA[start:stop]
    if start is not None and wanted:
        first = len(DATA) + start if start < 0 else start
        first = max(first, 0)
        headers = {"content-range": f"bytes {first}-{first + len(wanted) - 1}/{len(DATA)}"}
        if tells_size:
            headers["content-length"] = str(len(wanted))
        assert taken(wanted, 206, headers, start, stop) == wanted
    length = {"content-length": str(len(DATA))} if tells_size else {}
    if start is not None and start < 0 and not tells_size:
        with pytest.raises(OSError, match="knows neither ranges nor sizes"):
            taken(DATA, 200, length, start, stop)
    else:
        assert taken(DATA, 200, length, start, stop) == wanted


def test_a_body_longer_than_it_says_or_than_was_asked_for_is_cut() -> None:
    assert taken(DATA, 200, {"content-length": "10"}, None, None) == DATA[:10]
    assert taken(DATA, 206, {"content-range": "bytes 0-8/768"}, 0, 9) == DATA[:9]
    assert taken(DATA, 206, {"content-range": "bytes 759-767/768"}, -9, None) == DATA[:9]


def test_a_body_is_judged_while_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A length that is told, before its first byte; one that is not, at each doubling."""
    monkeypatch.setattr(transports, "_PIECE", 16)

    def room(n_bytes: int) -> memoryview:
        if n_bytes > 100:
            raise ValueError(f"{n_bytes} are too many")
        return memoryview(bytearray(n_bytes))

    for headers, most in (({"content-length": "768"}, 0), ({}, 2 * 100 + 16)):
        body = Body(DATA)
        with pytest.raises(RoomError) as caught:
            asyncio.run(take(body.read, head_of(200, headers), None, None, room, patience=60))
        assert "are too many" in str(caught.value.__cause__)
        assert body.n_taken <= most
    body = Body(DATA[:100])
    assert (
        bytes(asyncio.run(take(body.read, head_of(200, {}), None, None, room, patience=60)))
        == DATA[:100]
    )


def test_spans_that_lie_too_far_behind_are_not_read_up_to() -> None:
    with pytest.raises(OSError, match="knows no ranges, and 99999999999 bytes are too many"):
        taken(DATA, 200, {}, 99999999999, None)


def test_a_zip_that_is_replaced_while_it_is_read_is_told_apart(
    server: Server, plates: ModuleType, tmp_path: Path
) -> None:
    """Its directory was read before: what lies at its places now may be anything."""
    from unidino_fast.storage import StorageFault, open_storage

    plates.write_plate(tmp_path / "p", {"A/1": ["0"]}, sizes={"y": 256, "x": 256}, codec="none")
    plates.make_zip(tmp_path / "p", tmp_path / "p.zip")
    storage = open_storage(f"{server.url}/p.zip")
    assert isinstance(storage.read("A/1/0/0/1/0/0"), bytes)
    content = (tmp_path / "p.zip").read_bytes()
    (tmp_path / "p.zip").write_bytes(content[:-1] + b"x")
    found = storage.read("A/1/0/0/0/0/0")
    assert isinstance(found, StorageFault)
    assert "was replaced while it was being read" in found.reason


def test_reads_of_a_zip_are_tried_again(server: Server, plates: ModuleType, tmp_path: Path) -> None:
    from unidino_fast.plate import open_plate

    sizes = {"y": 256, "x": 256}
    written = plates.write_plate(tmp_path / "p", {"A/1": ["0"]}, sizes=sizes, codec="none")
    plates.make_zip(tmp_path / "p", tmp_path / "p.zip")
    plate = open_plate(f"{server.url}/p.zip")
    answers = [503, 500]

    def fail(handler: Handler) -> bool:
        is_time = bool(answers)
        if is_time:
            handler.reply(answers.pop(), b"", body=True)
        return is_time

    server.first = fail
    plates.check_pixels(plate, written)
    assert answers == []
