"""How an object is asked for: by HTTP, by S3, or by what else fsspec knows.

By HTTP and S3 a body is taken in piece by piece into room that its reader has given, so that one
that is too long, or never ends, is cut off while it comes; and the headers of the same answer say
which version of the object it was.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from unidino_fast.storage.headers import Head, check_span, head_of, range_header, short_tag

if TYPE_CHECKING:
    from unidino_fast.storage.base import Room

Pieces: TypeAlias = Callable[[int], Awaitable[bytes]]
"""Gives the next bytes of a body, at most so many; none at its end."""

_PIECE = 2**16
_SLOWEST = 1000
"""Bytes a second that a body must keep up, after `patience`: a drip never stalls, nor ends."""
_MOST_SKIPPED = 2**30
"""Bytes that are thrown away to reach a span of an object, where a server knows no ranges."""
_EMPTY = "0 bytes"


class RoomError(Exception):
    """Carries what a reader's `room` raised (its cause) past those who handle faults of servers."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An object, or the span of it that was asked for.

    Attributes:
        content: the bytes, in the room that was given for them.
        tag: which version of the object it is; None where the server does not say.
        size: bytes of the whole object, where known.
        is_span: the server sent a span, not the whole object.
    """

    content: memoryview
    tag: str | None
    size: int | None
    is_span: bool


class Transport(Protocol):
    """Asks for objects by the paths of an fsspec file system; raises what its client raises."""

    passing: tuple[type[BaseException], ...]
    """Its client's exceptions after which the same request may well succeed."""
    tells: bool
    """Whether its answers carry tags, where the store has any."""

    async def get(self, path: str, start: int | None, stop: int | None, room: Room) -> Answer:
        """An object or its span `[start:stop]`; a negative start, without a stop, is from the end.

        Raises:
            RoomError: `room` has refused.
        """
        ...

    async def tag(self, path: str) -> str | None:
        """The version of an object, without reading it."""
        ...


def _paced(pieces: Pieces, patience: float) -> Pieces:
    """The same pieces, within a time that their bytes bound; TimeoutError beyond it."""
    began, n_read = time.monotonic(), 0

    async def paced(n_bytes: int) -> bytes:
        nonlocal n_read
        piece = await pieces(n_bytes)
        n_read += len(piece)
        seconds = time.monotonic() - began
        if seconds > patience + n_read / _SLOWEST:
            raise TimeoutError(f"its server sent {n_read} bytes in {seconds:.0f} s")
        return piece

    return paced


async def take(
    pieces: Pieces,
    head: Head,
    start: int | None,
    stop: int | None,
    room: Room,
    *,
    patience: float,
) -> memoryview:
    """Takes in a body, or the span that was asked for where the server sent the whole object.

    Args:
        pieces: of the body.
        head: what the answer says of it.
        start: of the span.
        stop: of the span.
        room: gives room for it.
        patience: seconds after which a body must have come at `_SLOWEST` bytes a second.

    Raises:
        TimeoutError: it comes too slowly ever to end.
        RoomError: `room` has refused.
        OSError: the server sent another span, or knows no ranges and the span lies too far behind.
    """
    check_span(head, start, stop)
    pieces = _paced(pieces, patience)
    skip, length = 0, head.length
    if start is not None and not head.is_span:
        if start < 0 and length is None:
            raise OSError("its server knows neither ranges nor sizes")
        skip = start if start >= 0 else max((length or 0) + start, 0)
        length = None if length is None else max(length - skip, 0)
    most = (
        None if start is None else -start if start < 0 else None if stop is None else stop - start
    )
    if skip > _MOST_SKIPPED:
        raise OSError(f"its server knows no ranges, and {skip} bytes are too many to read past")
    while skip and (piece := await pieces(min(skip, _PIECE))):
        skip -= len(piece)
    if length is None:
        return await _grown(pieces, most, room)
    return await _filled(pieces, length if most is None else min(length, most), room)


async def _filled(pieces: Pieces, n_bytes: int, room: Room) -> memoryview:
    """A body whose length is known before."""
    view = room_for(n_bytes, room)
    n_read = 0
    while n_read < n_bytes and (piece := await pieces(n_bytes - n_read)):
        view[n_read : n_read + len(piece)] = piece
        n_read += len(piece)
    return view[:n_read]


async def _grown(pieces: Pieces, most: int | None, room: Room) -> memoryview:
    """A body that does not say how long it is; `room` judges it whenever it has doubled."""
    held = bytearray()
    judged = _PIECE
    while most is None or len(held) < most:
        piece = await pieces(_PIECE if most is None else min(_PIECE, most - len(held)))
        if not piece:
            break
        held += piece
        if len(held) >= judged:
            room_for(len(held), room)
            judged = 2 * len(held)
    view = room_for(len(held), room)
    view[:] = held
    return view


def room_for(n_bytes: int, room: Room) -> memoryview:
    """Asks for room; raises RoomError."""
    try:
        return room(n_bytes)
    except Exception as error:
        raise RoomError from error


class HttpTransport:
    """Objects behind `http(s)://`, by the session of an fsspec file system."""

    passing: tuple[type[BaseException], ...] = ()
    tells = True

    def __init__(self, file_system: Any, *, patience: float) -> None:
        self._fs = file_system
        self._patience = patience

    async def get(self, path: str, start: int | None, stop: int | None, room: Room) -> Answer:
        """See `Transport`."""
        session = await self._fs.set_session()
        # as stored: a body that is packed for the journey has another length, and may be a bomb
        headers = {"Accept-Encoding": "identity", **range_header(start, stop)}
        options = {**self._fs.kwargs, "headers": {**self._fs.kwargs.get("headers", {}), **headers}}
        async with session.get(self._fs.encode_url(path), **options) as answer:
            if answer.status == 416 and start is not None:
                return Answer(room_for(0, room), _EMPTY, 0, is_span=True)
            if answer.status >= 400:
                await answer.content.read(_PIECE)  # a short one, so that the connection lives on
                answer.raise_for_status()
            head = head_of(answer.status, answer.headers)
            content = await take(
                answer.content.read, head, start, stop, room, patience=self._patience
            )
        return Answer(content, head.tag, head.size, head.is_span)

    async def tag(self, path: str) -> str | None:
        """See `Transport`; of a byte, since signed URLs and some servers refuse HEAD."""
        return (await self.get(path, 0, 1, _a_few)).tag


class S3Transport:
    """Objects behind `s3://`, by the client of s3fs; one request each, s3fs itself makes two."""

    tells = True

    def __init__(self, file_system: Any, *, patience: float) -> None:
        from s3fs.core import S3_RETRYABLE_ERRORS

        self._fs = file_system
        self._patience = patience
        self.passing: tuple[type[BaseException], ...] = S3_RETRYABLE_ERRORS

    async def get(self, path: str, start: int | None, stop: int | None, room: Room) -> Answer:
        """See `Transport`."""
        bucket, key, _ = self._fs.split_path(path)
        try:
            answer = await self._fs._call_s3(
                "get_object", Bucket=bucket, Key=key, **range_header(start, stop)
            )
        except OSError as error:
            if _s3_code(error) == "InvalidRange":
                return Answer(room_for(0, room), _EMPTY, 0, is_span=True)
            raise
        facts, body = answer["ResponseMetadata"], answer["Body"]
        try:
            head = head_of(facts["HTTPStatusCode"], facts["HTTPHeaders"])
            content = await take(body.read, head, start, stop, room, patience=self._patience)
        finally:
            body.close()
        return Answer(content, head.tag, head.size, head.is_span)

    async def tag(self, path: str) -> str | None:
        """See `Transport`; of a byte, since the right to read is all that it takes."""
        return (await self.get(path, 0, 1, _a_few)).tag


class OtherTransport:
    """Any other file system of fsspec: its own client reads a body whole."""

    passing: tuple[type[BaseException], ...] = ()
    tells = False

    def __init__(self, file_system: Any) -> None:
        self._fs = file_system

    async def get(self, path: str, start: int | None, stop: int | None, room: Room) -> Answer:
        """See `Transport`; the tag is not told together with the bytes."""
        found = await self._call("cat_file", path, start=start, end=stop)
        view = room_for(len(found), room)
        view[:] = found
        return Answer(view, None, len(found) if start is None else None, is_span=start is not None)

    async def tag(self, path: str) -> str | None:
        """See `Transport`."""
        info = {name.lower(): value for name, value in (await self._call("info", path)).items()}
        names = ("etag", "lastmodified", "updated", "mtime", "created", "size")
        facts = [f"{name} {info[name]}" for name in names if info.get(name) is not None]
        return short_tag(", ".join(facts[:1] if info.get("etag") else facts)) if facts else None

    async def _call(self, name: str, path: str, **options: Any) -> Any:
        if self._fs.async_impl:
            return await getattr(self._fs, f"_{name}")(path, **options)
        return await asyncio.to_thread(getattr(self._fs, name), path, **options)


def _a_few(n_bytes: int) -> memoryview:
    return memoryview(bytearray(n_bytes))


def _s3_code(error: OSError) -> str | None:
    """The code that a store gave for an error which s3fs has translated."""
    answer = getattr(error.__cause__, "response", None) or {}
    code = answer.get("Error", {}).get("Code")
    return code if isinstance(code, str) else None
