"""An HTTP server of plates that counts requests, tells versions, and fails where it is told to."""

from __future__ import annotations

import email.utils
import hashlib
import http.server
import re
import threading
import urllib.parse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder and lists nothing.

    Attributes:
        requests: paths that were asked for.
        asked: the same as they were sent, with their escapes.
        absent_status: of files that are not there.
        knows_ranges: otherwise every answer is a whole file.
        tells: of a version: `etag`, `modified` (time of the last change), or `nothing`.
        tells_size: otherwise bodies come in pieces, without a length.
        failures: status codes by path, each but the last for one request.
        pauses: seconds by path before it is answered.
        first: called with the handler before each answer; answers itself where it gives True.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests: list[str] = []
        self.asked: list[str] = []
        self.absent_status = 404
        self.knows_ranges = True
        self.tells = "etag"
        self.tells_size = True
        self.first: Callable[[Handler], object] = lambda handler: False
        self.failures: dict[str, list[int]] = {}
        self.pauses: dict[str, list[float]] = {}
        self.wakes = threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error of a test."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: Server

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        self.server.asked.append(self.path.split("?")[0].lstrip("/"))
        path = urllib.parse.unquote(self.server.asked[-1])
        self.server.requests.append(path)
        if self.server.first(self):
            return
        file = self.server.root / path
        if self.server.pauses.get(path):
            self.server.wakes.wait(self.server.pauses[path].pop(0))
        failures = self.server.failures.get(path, [])
        if failures:
            self.reply(failures.pop(0) if len(failures) > 1 else failures[0], b"", body=body)
        elif not file.is_file():
            self.reply(self.server.absent_status, b"", body=body)
        else:
            self.send_file(file, body=body)

    def send_file(self, file: Path, *, body: bool) -> None:
        data = file.read_bytes()
        version = {
            "etag": {"ETag": f'"{hashlib.md5(data).hexdigest()}"'},
            "modified": {"Last-Modified": email.utils.formatdate(file.stat().st_mtime)},
            "nothing": {},
        }[self.server.tells]
        span = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if span is None or not self.server.knows_ranges:
            self.reply(200, data, body=body, headers=version)
            return
        first, last = span.groups()
        start = int(first) if first else len(data) - int(last)
        stop = int(last) + 1 if first and last else len(data)
        if start >= len(data):
            self.reply(416, b"", body=body, headers={"Content-Range": f"bytes */{len(data)}"})
            return
        headers = version | {
            "Content-Range": f"bytes {start}-{min(stop, len(data)) - 1}/{len(data)}"
        }
        self.reply(206, data[start:stop], body=body, headers=headers)

    def reply(
        self, status: int, data: bytes, *, body: bool, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        if self.server.tells_size:
            self.send_header("Content-Length", str(len(data)))
        else:
            self.send_header("Transfer-Encoding", "chunked")
        if self.server.knows_ranges:
            self.send_header("Accept-Ranges", "bytes")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if body and self.server.tells_size:
            self.wfile.write(data)
        elif body:
            self.stream(data[start : start + 1000] for start in range(0, len(data), 1000))
            self.wfile.write(b"0\r\n\r\n")

    def stream(self, pieces: Iterable[bytes]) -> None:
        """Pieces of a chunked body, of which a client may have had enough."""
        for piece in pieces:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))

    def log_message(self, format: str, *args: Any) -> None:
        pass
