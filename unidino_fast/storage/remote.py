"""Plates behind a URL, by fsspec: nothing is listed, reads run side by side and are retried."""

from __future__ import annotations

import asyncio
import random
import time
import urllib.parse
from typing import IO, TYPE_CHECKING, Any

from unidino_fast.errors import PlateError, UsageError, first_line
from unidino_fast.names import one_line
from unidino_fast.storage.base import DocumentTooLargeError, StorageFault, check_document

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zarr.abc.store import Store as ZarrStore

    from unidino_fast.storage.base import FetchResult, ReadResult, Room, Stamp

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
_ZIP_BLOCK = 2**16


class RemoteStorage:
    """Objects below a URL.

    Some stores answer 403 to a key that does not exist (S3 buckets without the right to list).
    Where one object was read and a key that cannot exist is forbidden too, forbidden means absent.
    """

    is_remote = True

    def __init__(self, file_system: Any, root: str, *, location: str) -> None:
        self.location = location
        self._fs = file_system
        self._is_http = location.split("://", 1)[0].lower() in _HTTP
        root, mark, query = root.partition("?") if self._is_http else (root, "", "")
        self._root, self._query = root.rstrip("/"), mark + query
        self._has_read = False
        self._forbidden_is_absent: bool | None = None

    def read(self, key: str, start: int | None = None, stop: int | None = None) -> ReadResult:
        """See `Storage`."""
        return self._read([key], start, stop)[0]

    def read_many(self, keys: Sequence[str]) -> list[ReadResult]:
        """See `Storage`; one concurrent batch where the file system can."""
        return [self._document(found) for found in self._read(keys, None, None)]

    def fetch(
        self, key: str, room: Room, start: int | None = None, stop: int | None = None
    ) -> FetchResult:
        """See `Storage`; the size is known only when the bytes are there."""
        found = self.read(key, start, stop)
        if not isinstance(found, bytes):
            return found
        room(len(found))
        return memoryview(found)

    def children(self) -> list[str]:
        """See `Storage`."""
        return []

    def stamps(self, prefix: str) -> list[Stamp] | None:
        """See `Storage`: unknown here, since remote stores are not listed."""
        return None

    def zarr_store(self) -> ZarrStore:
        """See `Storage`."""
        from unidino_fast.storage.zarr_store import StorageStore

        return StorageStore(self)

    def _document(self, found: ReadResult) -> ReadResult:
        try:
            if isinstance(found, bytes):
                check_document(len(found))
        except DocumentTooLargeError as error:
            return StorageFault(str(error))
        return found

    def _read(self, keys: Sequence[str], start: int | None, stop: int | None) -> list[ReadResult]:
        results = self._fetch_all(keys, start, stop)
        self._has_read = self._has_read or any(isinstance(found, bytes) for found in results)
        if any(isinstance(found, StorageFault) and found.is_forbidden for found in results):
            results = [self._settled(found) for found in results]
        return results

    def _settled(self, found: ReadResult) -> ReadResult:
        """None for a forbidden object where the store says forbidden for absent."""
        if not (isinstance(found, StorageFault) and found.is_forbidden and self._has_read):
            return found
        if self._forbidden_is_absent is None:
            [probe] = self._fetch_all([".unidino_fast-no-such-key"], None, None)
            self._forbidden_is_absent = isinstance(probe, StorageFault) and probe.is_forbidden
        return None if self._forbidden_is_absent else found

    def _fetch_all(
        self, keys: Sequence[str], start: int | None, stop: int | None
    ) -> list[ReadResult]:
        paths = [self._path(key) for key in keys]
        if not self._fs.async_impl:
            return [self._fetch(path, start, stop) for path in paths]
        import fsspec.asyn

        results: list[ReadResult] = fsspec.asyn.sync(
            self._fs.loop, self._gather, paths, start, stop
        )
        return results

    def _path(self, key: str) -> str:
        return f"{self._root}/{urllib.parse.quote(key) if self._is_http else key}{self._query}"

    async def _gather(
        self, paths: list[str], start: int | None, stop: int | None
    ) -> list[ReadResult]:
        limit = asyncio.Semaphore(_CONCURRENT)

        async def fetch(path: str) -> ReadResult:
            async with limit:
                return await self._fetch_async(path, start, stop)

        return await asyncio.gather(*map(fetch, paths))

    async def _fetch_async(self, path: str, start: int | None, stop: int | None) -> ReadResult:
        for pause in (*_PAUSES_S, None):
            try:
                return _clipped(await self._fs._cat_file(path, start=start, end=stop), start, stop)
            except Exception as error:  # each protocol's client has exceptions of its own
                if pause is None or not _may_pass(error):
                    return _as_result(error)
                await asyncio.sleep(pause * random.uniform(1, 1.5))
        return None

    def _fetch(self, path: str, start: int | None, stop: int | None) -> ReadResult:
        for pause in (*_PAUSES_S, None):
            try:
                return _clipped(self._fs.cat_file(path, start=start, end=stop), start, stop)
            except Exception as error:  # each protocol's client has exceptions of its own
                if pause is None or not _may_pass(error):
                    return _as_result(error)
                time.sleep(pause * random.uniform(1, 1.5))
        return None


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
        raise PlateError(f"{url} cannot be opened: {one_line(first_line(error))}") from error
    return file_system, str(path)


def open_file(file_system: Any, path: str, url: str) -> IO[bytes]:
    """A remote file, read by ranges.

    Raises:
        PlateError: it cannot be opened.
    """
    try:
        file: IO[bytes] = file_system.open(path, block_size=_ZIP_BLOCK, cache_type="readahead")
    except Exception as error:  # each protocol's client has exceptions of its own
        raise PlateError(f"{url} cannot be opened: {one_line(first_line(error))}") from error
    return file


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


def _clipped(found: bytes, start: int | None, stop: int | None) -> bytes:
    """The span asked for; servers that know no ranges send the whole object."""
    if start is None:
        return found
    length = -start if start < 0 else None if stop is None else stop - start
    return found if length is None or len(found) <= length else found[start:stop]


def _status(error: Exception) -> int | None:
    status = getattr(error, "status", None)
    return status if isinstance(status, int) else None


def _may_pass(error: Exception) -> bool:
    """Whether the same read may well succeed a moment later."""
    status = _status(error)
    if status is not None:
        return status in _PASSING_STATUS
    # aiohttp's ServerDisconnectedError and ClientPayloadError have no common base in the library
    return isinstance(error, TimeoutError | ConnectionError) or type(error).__module__ in (
        "aiohttp.client_exceptions",
        "fsspec.exceptions",
    )


def _as_result(error: Exception) -> ReadResult:
    status = _status(error)
    if status in _ABSENT_STATUS:
        return None
    if isinstance(error, FileNotFoundError | KeyError | IsADirectoryError | NotADirectoryError):
        return None
    forbidden = status in _FORBIDDEN_STATUS or isinstance(error, PermissionError)
    return StorageFault(first_line(error), is_forbidden=forbidden)
