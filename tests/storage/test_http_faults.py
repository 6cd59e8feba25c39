"""Servers that fail, stall, refuse, or never end: tried again, or named in one line."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from unidino_fast.errors import PixelError
from unidino_fast.plate import open_plate
from unidino_fast.reading import FieldReader, FieldRequest
from unidino_fast.storage import base, remote

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

    from plate_server import Handler, Server


WELLS = {"A/1": ["0", "1"], "B/2": ["0", "1"]}


def test_a_server_that_fails_for_good(server: Server, plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p.zarr", WELLS)
    server.failures = {"p.zarr/A/1/.zattrs": [500], "p.zarr/B/2/1/0/2/0/0": [500]}
    message = plates.refusal(f"{server.url}/p.zarr")
    assert "well A01: metadata at A/1: 500" in message
    assert message.endswith("; run the same command again later")  # and leaves nothing out
    assert server.requests.count("p.zarr/A/1/.zattrs") == 3
    plate = open_plate(f"{server.url}/p.zarr", on_error="skip")
    assert [well.name for well in plate.wells] == ["B02"]
    reader = FieldReader(plate.storage)
    with pytest.raises(PixelError, match="chunk B/2/1/0/2/0/0 cannot be read") as caught:
        reader.read(plate.fields[1], time=0, channels=(0, 1, 2), z="max")
    assert str(caught.value).isprintable()


def test_a_server_that_fails_for_a_moment(
    server: Server, plates: ModuleType, tmp_path: Path
) -> None:
    written = plates.write_plate(tmp_path / "p.zarr", WELLS)
    server.failures = {
        "p.zarr/.zattrs": [503, 200], "p.zarr/A/1/0/0/1/0/0": [429, 502, 200],
    }  # fmt: skip

    def heal(handler: Handler) -> None:
        if server.failures.get(handler.path.lstrip("/")) == [200]:
            del server.failures[handler.path.lstrip("/")]

    server.first = heal
    plates.check_pixels(open_plate(f"{server.url}/p.zarr", strict=True), written)
    assert server.failures == {}


def test_a_server_that_fails_then_stalls_then_is_well(
    server: Server, plates: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500, 503, no answer in time, an answer that is late but in time, for chunks of all fields."""
    monkeypatch.setattr(remote, "_PAUSES_S", (0.01, 0.02, 0.04))
    monkeypatch.setattr(remote, "_STALL_S", 0.3)
    written = plates.write_plate(tmp_path / "p.zarr", WELLS)
    chunks = [f"p.zarr/{path}/0/{channel}/0/0" for path in written for channel in (0, 2)]
    plate = open_plate(f"{server.url}/p.zarr", strict=True)
    answers = {chunk: ["500", "503", "never", "late"] for chunk in chunks}

    def answer(handler: Handler) -> bool:
        how = (answers.get(handler.path.lstrip("/")) or ["well"]).pop(0)
        if how in ("500", "503"):
            handler.reply(int(how), b"", body=True)
            return True
        server.wakes.wait({"never": 5.0, "late": 0.1}.get(how, 0.0))
        return False

    server.first = answer
    plates.check_pixels(plate, written)
    assert not any(answers.values())


def test_pixels_that_never_come_are_one_line_each(
    server: Server, plates: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies around them is read; each try is counted."""
    monkeypatch.setattr(remote, "_STALL_S", 0.2)
    written = plates.write_plate(tmp_path / "p.zarr", WELLS)
    silent, broken = "p.zarr/A/1/1/0/1/0/0", "p.zarr/B/2/0/0/0/0/0"
    plate = open_plate(f"{server.url}/p.zarr", strict=True)
    server.requests.clear()
    server.pauses = {silent: [5.0] * 9}
    server.failures = {broken: [503]}
    requests = [FieldRequest(field, 0, (0, 1, 2), "max") for field in plate.fields]
    found = list(FieldReader(plate.storage).stream(requests))
    for field, pixels in zip(plate.fields, found, strict=True):
        if isinstance(pixels, PixelError):
            assert str(pixels).isprintable()
        else:
            np.testing.assert_array_equal(pixels, written[field.array_path.removesuffix("/0")])
    [late, refused] = [str(pixels) for pixels in found if isinstance(pixels, PixelError)]
    assert late.startswith("chunk A/1/1/0/1/0/0 cannot be read (")
    for message in (late, refused):
        assert message.endswith("): run the same command again later")
    assert refused.startswith("chunk B/2/0/0/0/0/0 cannot be read (503")
    assert server.requests.count(broken) == 3


@pytest.mark.parametrize("tells_size", [True, False])
def test_a_server_that_drips_for_ever_is_given_up(
    tells_size: bool,
    server: Server,
    plates: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each byte comes within the stall limit; the chunk would take days."""
    monkeypatch.setattr(remote, "_PAUSES_S", (0.01,))
    monkeypatch.setattr(remote, "_STALL_S", 0.3)
    plates.write_plate(tmp_path / "p.zarr", {"A/1": ["0"]})
    plate = open_plate(f"{server.url}/p.zarr", strict=True)

    def drip(handler: Handler) -> bool:
        handler.send_response(200)
        if tells_size:
            handler.send_header("Content-Length", "5000")
        else:
            handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        with contextlib.suppress(OSError):  # the client has hung up
            for _ in range(200):
                handler.wfile.write(b"." if tells_size else b"1\r\n.\r\n")
                handler.wfile.flush()
                if server.wakes.wait(0.05):
                    break
        handler.close_connection = True
        return True

    server.first = drip
    [field] = plate.fields
    began = time.monotonic()
    with pytest.raises(PixelError, match=r"its server sent \d+ bytes in 0 s"):
        FieldReader(plate.storage).read(field, time=0, channels=(0,), z="max")
    assert time.monotonic() - began < 5.0


def test_nothing_may_be_read(server: Server, plates: ModuleType, tmp_path: Path) -> None:
    server.absent_status = 403
    message = plates.refusal(f"{server.url}/p.zarr")
    assert "is no readable plate: metadata at its root: 403" in message
    assert message.endswith("; check your access to it")
    server.absent_status = 404
    assert "is not an OME-Zarr plate" in plates.refusal(f"{server.url}/p.zarr")


def test_some_may_not_be_read(server: Server, plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p.zarr", {"A/1": ["0"], "B/2": ["0"]})
    server.failures["p.zarr/A/1/0/0/1/0/0"] = [403]
    plate = open_plate(f"{server.url}/p.zarr")
    with pytest.raises(
        PixelError, match=r"0/1/0/0 cannot be read \(403 Forbidden\): check your acc"
    ):
        FieldReader(plate.storage).read(plate.fields[0], time=0, channels=(1,), z="max")
    server.failures["p.zarr/B/2/0/.zattrs"] = [401]
    assert plates.refusal(f"{server.url}/p.zarr").endswith(
        "field B02/0: metadata at B/2/0: 401 Unauthorized; check your access to it, or leave it out"
        " with --on-error skip"
    )


@pytest.mark.parametrize("sharded", [False, True])
def test_a_web_page_in_place_of_a_chunk_is_told(
    sharded: bool, server: Server, plates: ModuleType, tmp_path: Path
) -> None:
    """As of a login, which many servers send with status 200."""
    v3 = {"zarr_format": 3, "ngff": "0.5", "chunks": (1, 16, 17), "shards": (1, 48, 51)}
    plates.write_plate(tmp_path / "p.zarr", {"A/1": ["0"]}, **(v3 if sharded else {}))
    page = f"\n<!DOCTYPE html><html><body>{'Log in. ' * 9 * (1 + 99 * sharded)}</body></html>\n"
    (tmp_path / f"p.zarr/A/1/0/0/{'c/' * sharded}1/0/0").write_text(page)
    for place, remedy in (
        (f"{server.url}/p.zarr", "check your access to it"),
        (str(tmp_path / "p.zarr"), "restore it from its source"),
    ):
        plate = open_plate(place)
        with pytest.raises(PixelError, match=rf"\(a web page is in its place\): {remedy}$"):
            FieldReader(plate.storage).read(plate.fields[0], time=0, channels=(1,), z="max")


@pytest.mark.parametrize(
    ("begins", "why"), [(True, "the answer broke off"), (False, "its server closed the connection")]
)
def test_answers_that_break_off_and_servers_that_hang_up(
    begins: bool,
    why: str,
    server: Server,
    plates: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remote, "_PAUSES_S", (0.01,))
    plates.write_plate(tmp_path / "p.zarr", {"A/1": ["0"]})
    plate = open_plate(f"{server.url}/p.zarr", strict=True)

    def hang_up(handler: Handler) -> bool:
        if begins:
            handler.send_response(200)
            handler.send_header("Content-Length", "5000")
            handler.end_headers()
            handler.wfile.write(b"some of them")
        handler.close_connection = True
        return True

    server.first = hang_up
    with pytest.raises(PixelError, match=rf"cannot be read \({why}\): run the same command again"):
        FieldReader(plate.storage).read(plate.fields[0], time=0, channels=(0,), z="max")


def test_a_server_that_is_not_there(plates: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_PAUSES_S", ())
    message = plates.refusal("http://127.0.0.1:1/p.zarr")
    assert "/p.zarr cannot be reached (no connection to 127.0.0.1:1: Connection refused" in message
    assert message.endswith("): check its address, and try again later")
    assert "cannot be opened" in plates.refusal("http://127.0.0.1:1/p.zip")


def test_bodies_that_never_end_are_cut_off(
    server: Server, plates: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Documents, shards' indices, chunks that are left to zarr-python; with a length or none."""
    monkeypatch.setattr(base, "DOCUMENT_BYTES", 2**20)
    shards = plates.Layout(zarr_format=3, ngff="0.5", chunks=(1, 16, 17), shards=(1, 48, 51))
    strange = plates.Layout(zarr_format=3, ngff="0.5", codec="none")
    written = plates.write_plate(
        tmp_path / "p.zarr",
        {"A/1": [("0", None, shards), ("1", None, shards)], "A/2": [("0", None, strange)]},
        shards,
    )
    same_order = {"name": "transpose", "configuration": {"order": [0, 1, 2]}}
    plates.edit_json(
        tmp_path / "p.zarr/A/2/0/0/zarr.json",
        lambda document: document["codecs"].insert(0, same_order),
    )
    n_sent: dict[str, int] = {}

    def endless(handler: Handler) -> bool:
        path = handler.path.lstrip("/")
        if path not in n_sent:
            return False
        handler.send_response(206 if handler.headers.get("Range") else 200)
        if path.endswith("1/0/0"):
            handler.send_header("Content-Length", str(10**15))
        else:
            handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        block = bytes(2**16)

        def blocks() -> Iterator[bytes]:
            while n_sent[path] < 2**28:
                n_sent[path] += len(block)
                yield block

        with contextlib.suppress(OSError):  # the client has hung up
            handler.stream(blocks())
        handler.close_connection = True
        return True

    server.first = endless
    n_sent["p.zarr/A/2/zarr.json"] = 0
    message = plates.refusal(f"{server.url}/p.zarr")
    assert "well A02: metadata at A/2: " in message
    assert "MiB are no metadata" in message
    assert n_sent.pop("p.zarr/A/2/zarr.json") < 2**27
    plate = open_plate(f"{server.url}/p.zarr", strict=True)
    n_sent |= dict.fromkeys((f"p.zarr/A/1/0/0/c/{c}/0/0" for c in range(3)), 0)
    n_sent |= dict.fromkeys((f"p.zarr/A/2/0/0/c/{c}/0/0" for c in range(3)), 0)
    reader = FieldReader(plate.storage)
    for field in plate.fields:
        for channel in range(3):
            if field.array_path == "A/1/1/0":
                pixels = reader.read(field, time=0, channels=(channel,), z="max")
                np.testing.assert_array_equal(pixels[0], written["A/1/1"][channel])
                continue
            with pytest.raises(PixelError, match=f"chunk {field.array_path}/c/{channel}/0/0 ca"):
                reader.read(field, time=0, channels=(channel,), z="max")
    # what was sent beyond the bound lies in the kernel's buffers, some 40 MiB at most
    assert 0 < max(n_sent.values()) < 2**27


@pytest.mark.parametrize("is_told", [True, False])
def test_a_server_that_sends_another_span_than_was_asked_for(
    is_told: bool, server: Server, plates: ModuleType, tmp_path: Path
) -> None:
    """The first bytes for any range: without compression they would pass for pixels."""
    layout = plates.Layout(
        zarr_format=3, ngff="0.5", chunks=(1, 16, 17), shards=(1, 48, 51), codec="none"
    )
    plates.write_plate(tmp_path / "p.zarr", {"A/1": ["0"]}, layout)
    n_wrong = 0

    def first_bytes(handler: Handler) -> bool:
        nonlocal n_wrong
        first, _, last = handler.headers.get("Range", "").removeprefix("bytes=").partition("-")
        if not (first and last):
            return False  # the index, which lies at the end, is right
        n_wrong += 1
        data = (tmp_path / handler.path.lstrip("/")).read_bytes()
        n_bytes = int(last) - int(first) + 1
        headers = {"Content-Range": f"bytes 0-{n_bytes - 1}/{len(data)}"} if is_told else {}
        sent = data[:n_bytes] if is_told else data
        handler.reply(206, sent, body=True, headers=headers)
        return True

    plate = open_plate(f"{server.url}/p.zarr", strict=True)
    server.first = first_bytes
    [field] = plate.fields
    with pytest.raises(PixelError) as caught:
        FieldReader(plate.storage).read(field, time=0, channels=(0,), z="max")
    assert n_wrong
    message = str(caught.value)
    assert "the server sent " in message
    assert "were asked for" in message
    assert message.isprintable()
