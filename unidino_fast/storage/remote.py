"""Plates behind a URL, by fsspec: nothing is listed, reads run side by side and are retried."""

from __future__ import annotations

import asyncio
import os
import random
import ssl
import threading
import urllib.parse
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeAlias

from unidino_fast.errors import PlateError, UsageError, first_line
from unidino_fast.names import one_line
from unidino_fast.storage.base import (
    AbsentKeys,
    DocumentTooLargeError,
    StorageFault,
    document_room,
    read_document,
)
from unidino_fast.storage.transports import (
    Answer,
    HttpTransport,
    OtherTransport,
    RoomError,
    S3Transport,
    Transport,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from zarr.abc.store import Store as ZarrStore

    from unidino_fast.storage.base import FetchResult, Grab, ReadResult, Room, Stamp

Outcome: TypeAlias = Answer | StorageFault | None
"""None where the object is absent."""
Try: TypeAlias = Callable[[], Awaitable[Outcome]]

ABSENT = "absent"
"""The tag of an object that is not there."""

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_HTTP = ("http", "https")
_CONCURRENT = 64
_PAUSES_S = (0.2, 0.8, 3.2)
"""Waits before a read is tried again; up to half longer, so that many do not come at once."""
_STALL_S = 30.0
"""Seconds without an answer, or without the next bytes of one, after which a try is given up."""
_PASSING_STATUS = (408, 429, 500, 502, 503, 504)
_ABSENT_STATUS = (404, 410)
_FORBIDDEN_STATUS = (401, 403)
_MOST_SEEN = 2**16
"""Objects whose tags are kept: those of the wells that are being read, and many more."""


class RemoteStorage:
    """Objects below a URL.

    Some stores answer 403 to a key that does not exist (S3 buckets without the right to list).
    Where one object was read and a key that cannot exist is forbidden too, forbidden means absent.
    """

    is_remote = True
    files: str | None = None

    def __init__(self, file_system: Any, root: str, *, location: str) -> None:
        self.location = location
        self._fs = file_system
        protocol = location.split("://", 1)[0].lower()
        self._transport = _transport_of(file_system, protocol)
        self._is_http = protocol in _HTTP
        root, mark, query = root.partition("?") if self._is_http else (root, "", "")
        self._root, self._query = root.rstrip("/"), mark + query
        self._has_read = False
        self._forbidden_is_absent: bool | None = None
        self._seen: OrderedDict[str, str | None] = OrderedDict()
        self._seen_lock = threading.Lock()
        self._absent = AbsentKeys()
        self._lacking: set[str] = set()

    def read(self, key: str, start: int | None = None, stop: int | None = None) -> ReadResult:
        """See `Storage`."""
        return read_document(self, key, start, stop)

    def read_many(self, keys: Sequence[str]) -> list[ReadResult]:
        """See `Storage`; one concurrent batch."""
        found = self._settled_all(self._run([partial(self._document, key) for key in keys]))
        return [bytes(one.content) if isinstance(one, Answer) else one for one in found]

    def fetch(
        self, key: str, room: Room, start: int | None = None, stop: int | None = None
    ) -> FetchResult:
        """See `Storage`; a size that the server does not tell is judged while the bytes come."""
        found = self.answer(key, room, start, stop)
        if self._transport.tells and not isinstance(found, StorageFault):
            self._remember(key, found.tag if found else ABSENT)
        if found is None:
            with self._seen_lock:
                if len(self._lacking) < _MOST_SEEN:
                    self._lacking.add(key)
            self._absent.add(key)
        elif key in self._lacking:  # it has come to be there since
            with self._seen_lock:
                self._lacking.discard(key)
        return found.content if isinstance(found, Answer) else found

    def grab(self, key: str, grabs: Sequence[Grab]) -> int | None:
        """See `Storage`."""
        return None

    def answer(
        self, key: str, room: Room, start: int | None = None, stop: int | None = None
    ) -> Outcome:
        """As `fetch`, with what the store says of the object."""
        [found] = self._settled_all(self._run([partial(self._get, key, start, stop, room)]))
        return found

    def tags(self, keys: Sequence[str]) -> list[str | StorageFault | None]:
        """What tells the content that objects have now from any other, without reading them.

        That is their ETag; where the store has none, the time of their last change and their size.
        None where it tells neither, `ABSENT` where there is no object.
        """
        found = self._settled_all(self._run([partial(self._tag, key) for key in keys]))
        return [one.tag if isinstance(one, Answer) else one or ABSENT for one in found]

    def tags_as_read(self, keys: Sequence[str]) -> list[str | None]:
        """The tags that objects had when `fetch` last read them; None where they have none.

        Those that others have read, or that were read long ago, are asked for now.
        """
        found: dict[str, str | StorageFault | None]
        found = {key: self._seen[key] for key in keys if key in self._seen}
        unseen = [key for key in dict.fromkeys(keys) if key not in found]
        found |= zip(unseen, self.tags(unseen) if unseen else (), strict=True)
        tags = (found[key] for key in keys)
        return [None if isinstance(tag, StorageFault) else tag for tag in tags]

    def absent_as_read(self, keys: Iterable[str]) -> Iterator[str]:
        """Those of the keys at which `fetch` found no object; where it missed none, at no cost."""
        return (key for key in keys if key in self._lacking) if self._lacking else iter(())

    def absent_seen(self) -> AbstractContextManager[set[str]]:
        """See `Storage`: keys that `fetch` is asked for."""
        return self._absent.seen()

    def children(self) -> list[str]:
        """See `Storage`."""
        return []

    def stamps(self, prefix: str) -> list[Stamp] | None:
        """See `Storage`: unknown here, since remote stores are not listed."""
        return None

    def sizes_and_times(self, keys: Sequence[str]) -> list[tuple[int, int] | None] | None:
        """See `Storage`: unknown here; see `tags`."""
        return None

    def zarr_store(self) -> ZarrStore:
        """See `Storage`."""
        from unidino_fast.storage.zarr_store import StorageStore

        return StorageStore(self)

    def _remember(self, key: str, tag: str | None) -> None:
        with self._seen_lock:
            self._seen[key] = tag
            self._seen.move_to_end(key)
            if len(self._seen) > _MOST_SEEN:
                self._seen.popitem(last=False)

    def _run(self, tries: Sequence[Try]) -> list[Outcome]:
        """Tries of requests, side by side, each again where its fault may pass."""
        import fsspec.asyn

        found: list[Outcome] = fsspec.asyn.sync(fsspec.asyn.get_loop(), self._gather, tries)
        return found

    async def _gather(self, tries: Sequence[Try]) -> list[Outcome]:
        limit = asyncio.Semaphore(_CONCURRENT)

        async def run(attempt: Try) -> Outcome:
            async with limit:
                return await self._repeated(attempt)

        return await asyncio.gather(*map(run, tries))

    async def _repeated(self, attempt: Try) -> Outcome:
        for pause in (*_PAUSES_S, None):
            try:
                return await attempt()
            except RoomError as error:
                raise error.__cause__ or error from None
            except Exception as error:  # each protocol's client has exceptions of its own
                if pause is None or not _may_pass(error, self._transport.passing):
                    return _as_result(error)
                await asyncio.sleep(pause * random.uniform(1, 1.5))
        return None

    async def _get(self, key: str, start: int | None, stop: int | None, room: Room) -> Answer:
        return await self._transport.get(self._path(key), start, stop, room)

    async def _document(self, key: str) -> Outcome:
        try:
            return await self._get(key, None, None, document_room)
        except RoomError as error:
            if isinstance(error.__cause__, DocumentTooLargeError):
                return StorageFault(str(error.__cause__))
            raise

    async def _tag(self, key: str) -> Answer:
        return Answer(memoryview(b""), await self._transport.tag(self._path(key)), None, True)

    def _path(self, key: str) -> str:
        place = f"{self._root}/{urllib.parse.quote(key) if self._is_http else key}"
        return (place if key else self._root) + self._query

    def _settled_all(self, results: list[Outcome]) -> list[Outcome]:
        """The same, with None for what is forbidden only because it is not there."""
        self._has_read = self._has_read or any(isinstance(found, Answer) for found in results)
        if any(isinstance(found, StorageFault) and found.is_forbidden for found in results):
            return [self._settled(found) for found in results]
        return results

    def _settled(self, found: Outcome) -> Outcome:
        if not (isinstance(found, StorageFault) and found.is_forbidden and self._has_read):
            return found
        if self._forbidden_is_absent is None:
            [probe] = self._run([partial(self._document, ".unidino_fast-no-such-key")])
            self._forbidden_is_absent = isinstance(probe, StorageFault) and probe.is_forbidden
        return None if self._forbidden_is_absent else found


def _transport_of(file_system: Any, protocol: str) -> Transport:
    if protocol in _HTTP:
        return HttpTransport(file_system, patience=_STALL_S)
    if protocol in ("s3", "s3a"):
        return S3Transport(file_system, patience=_STALL_S)
    return OtherTransport(file_system)


def file_system_of(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it.

    Raises:
        PlateError: it cannot be opened.
        UsageError: the protocol needs a package that is not installed, or is unknown.
    """
    import fsspec

    protocol = url.split("://", 1)[0].lower()
    if protocol not in fsspec.available_protocols():
        raise UsageError(f"{url} has an unknown protocol {protocol!r}: use https, s3 or gs")
    try:
        # not from fsspec's cache, so that its sessions end with the plate
        file_system, path = fsspec.url_to_fs(
            _encoded(url) if protocol in _HTTP else url,
            skip_instance_cache=True,
            **_options(protocol),
        )
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        remedy = f"pip install 'unidino_fast[{extra}]'" if extra else first_line(error)
        raise UsageError(f"{protocol}:// needs a package that is not here: {remedy}") from error
    except Exception as error:  # each protocol's client has exceptions of its own
        reason = one_line(first_line(error))
        raise PlateError(f"{url} cannot be opened ({reason}): check its address") from error
    return file_system, str(path)


def _options(protocol: str) -> dict[str, Any]:
    """Fsspec options: HTTP takes URLs as they are; S3 without credentials is read anonymously."""
    if protocol in _HTTP:
        import aiohttp

        limits = aiohttp.ClientTimeout(total=None, sock_connect=_STALL_S, sock_read=_STALL_S)
        return {"encoded": True, "client_kwargs": {"timeout": limits}}
    if protocol not in ("s3", "s3a"):
        return {}
    try:
        from botocore.session import get_session
    except ImportError:
        return {}  # fsspec says what to install
    return {"anon": get_session().get_credentials() is None}


def _encoded(url: str) -> str:
    """A URL with what a person may have typed into it escaped, and escapes left as they are."""
    return urllib.parse.quote(url, safe="%/:?#[]@!$&'()*+,;=~")


def _status(error: Exception) -> int | None:
    status = getattr(error, "status", None)
    return status if isinstance(status, int) else None


def _may_pass(error: Exception, passing: tuple[type[BaseException], ...]) -> bool:
    """Whether the same read may well succeed a moment later."""
    status = _status(error)
    if status is not None:
        return status in _PASSING_STATUS
    # aiohttp's ServerDisconnectedError and ClientPayloadError have no common base in the library
    return isinstance(error, (TimeoutError, ConnectionError, *passing)) or type(
        error
    ).__module__ in ("aiohttp.client_exceptions", "fsspec.exceptions")


def _as_result(error: Exception) -> StorageFault | None:
    status = _status(error)
    if status in _ABSENT_STATUS:
        return None
    if isinstance(error, FileNotFoundError | KeyError | IsADirectoryError | NotADirectoryError):
        return None
    forbidden = status in _FORBIDDEN_STATUS or isinstance(error, PermissionError)
    return StorageFault(_reason(error), is_forbidden=forbidden, is_of_server=not forbidden)


def _reason(error: Exception) -> str:
    """Why a read failed; in words of ours where those of aiohttp say little to a person."""
    import aiohttp

    status = _status(error)
    if status is not None:
        phrases = {int(known): known.phrase for known in HTTPStatus}
        return f"{status} {phrases.get(status, '')}".rstrip()
    if isinstance(error, aiohttp.ServerTimeoutError):
        return f"no answer within {_STALL_S:.0f} s"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "its server closed the connection"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the answer broke off"
    if isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, ssl.SSLError):
        number = error.os_error.errno or 0
        why = os.strerror(number) if number > 0 else "its name has no address"
        return f"no connection to {error.host}:{error.port}: {why}"
    return first_line(error)
