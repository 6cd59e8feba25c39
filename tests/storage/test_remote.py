"""HTTP, S3 and others: few requests, none of them a listing, and faults that are named."""

from __future__ import annotations

import gc
import http.server
import re
import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from unidino_fast.errors import PixelError, UsageError
from unidino_fast.plate import open_plate
from unidino_fast.reading import FieldReader, FieldRequest
from unidino_fast.storage import remote

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType


WELLS = {"A/1": ["0", "1"], "B/2": ["0", "1"]}


VERSIONS: dict[int, dict[str, Any]] = {2: {}, 3: {"zarr_format": 3, "ngff": "0.5"}}


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder, lists nothing, counts requests, fails where it is told to."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests: list[str] = []
        self.absent_status = 404
        self.knows_ranges = True
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
        path = self.path.split("?")[0].lstrip("/")
        self.server.requests.append(path)
        file = self.server.root / path
        if self.server.pauses.get(path):
            self.server.wakes.wait(self.server.pauses[path].pop(0))
        failures = self.server.failures.get(path, [])
        if failures:
            self.reply(failures.pop(0) if len(failures) > 1 else failures[0], b"", body=body)
        elif not file.is_file():
            self.reply(self.server.absent_status, b"", body=body)
        else:
            self.send_file(file.read_bytes(), body=body)

    def send_file(self, data: bytes, *, body: bool) -> None:
        span = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if span is None or not self.server.knows_ranges:
            self.reply(200, data, body=body)
            return
        first, last = span.groups()
        start = int(first) if first else len(data) - int(last)
        stop = int(last) + 1 if first and last else len(data)
        headers = {"Content-Range": f"bytes {start}-{min(stop, len(data)) - 1}/{len(data)}"}
        self.reply(206, data[start:stop], body=body, headers=headers)

    def reply(
        self, status: int, data: bytes, *, body: bool, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if self.server.knows_ranges:
            self.send_header("Accept-Ranges", "bytes")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(remote, "_PAUSES_S", (0.01, 0.02))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server(tmp_path)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    gc.collect()  # sessions end with their plates, while the server is there
    server.wakes.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("absent_status", [404, 403])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_http(
    zarr_format: int, absent_status: int, server: Server, plates: ModuleType, tmp_path: Path
) -> None:
    """Some servers forbid what does not exist; neither kind is ever asked for a listing."""
    server.absent_status = absent_status
    layout = plates.Layout(**VERSIONS[zarr_format], absent=((1, 0, 0),))
    written = plates.write_plate(tmp_path / "p.zarr", WELLS, layout)
    plate = open_plate(f"{server.url}/p.zarr/", strict=True)
    assert plate.digest == open_plate(tmp_path / "p.zarr").digest
    assert (plate.name, plate.storage.stamps("A"), plate.storage.children()) == (
        "plate one",
        None,
        [],
    )
    assert not any(path.endswith("/") or path in ("", "p.zarr") for path in server.requests)
    plates.check_pixels(plate, written)
    probes = sum("no-such-key" in path for path in server.requests)
    assert probes == (1 if absent_status == 403 else 0)


def test_consolidated_metadata_over_http(
    server: Server, plates: ModuleType, tmp_path: Path
) -> None:
    wells = {f"A/{column}": ["0", "1", "2"] for column in range(1, 9)}
    plates.write_plate(tmp_path / "p.zarr", wells)
    plates.write_json(tmp_path / "p.zarr/A/.zgroup", {"zarr_format": 2})
    open_plate(f"{server.url}/p.zarr")
    without = len(server.requests)
    assert without == 3 + 8 + 2 * 24
    zarr.consolidate_metadata(str(tmp_path / "p.zarr"))
    server.requests.clear()
    plate = open_plate(f"{server.url}/p.zarr", strict=True)
    assert len(plate.fields) == 24
    assert sorted(server.requests) == ["p.zarr/.zattrs", "p.zarr/.zmetadata", "p.zarr/zarr.json"]


def test_a_plate_one_folder_down_over_http(
    server: Server, plates: ModuleType, tmp_path: Path
) -> None:
    plates.write_plate(tmp_path / "set/plate")
    assert open_plate(f"{server.url}/set").root == "plate"
    plates.write_plate(tmp_path / "x/x.zarr")
    assert open_plate(f"{server.url}/x").root == "x.zarr"


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_shards_over_http(
    knows_ranges: bool, server: Server, plates: ModuleType, tmp_path: Path
) -> None:
    server.knows_ranges = knows_ranges
    layout = plates.Layout(**VERSIONS[3], chunks=(1, 16, 17), shards=(3, 48, 51), codec="none")
    written = plates.write_plate(tmp_path / "p.zarr", WELLS, layout)
    plates.check_pixels(open_plate(f"{server.url}/p.zarr"), written)


def test_a_server_that_fails_for_good(server: Server, plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p.zarr", WELLS)
    server.failures = {"p.zarr/A/1/.zattrs": [500], "p.zarr/B/2/1/0/2/0/0": [500]}
    message = plates.refusal(f"{server.url}/p.zarr")
    assert "well A01: metadata at A/1: 500" in message
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
    original = Handler.answer

    def answer(self: Handler, *, body: bool) -> None:
        failures = self.server.failures.get(self.path.lstrip("/"))
        if failures == [200]:
            del self.server.failures[self.path.lstrip("/")]
        original(self, body=body)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Handler, "answer", answer)
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
    original = Handler.answer

    def answer(self: Handler, *, body: bool) -> None:
        how = (answers.get(self.path.lstrip("/")) or ["well"]).pop(0)
        if how in ("500", "503"):
            self.server.requests.append(self.path.lstrip("/"))
            self.reply(int(how), b"", body=body)
            return
        self.server.wakes.wait({"never": 5.0, "late": 0.1}.get(how, 0.0))
        original(self, body=body)

    monkeypatch.setattr(Handler, "answer", answer)
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
    assert refused.startswith("chunk B/2/0/0/0/0/0 cannot be read (503")
    assert server.requests.count(broken) == 3


def test_fetches_run_side_by_side(
    server: Server, plates: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve chunks meet at a gate that opens for all of them at once."""
    written = plates.write_plate(tmp_path / "p.zarr", WELLS)
    plate = open_plate(f"{server.url}/p.zarr", strict=True)
    gate = threading.Barrier(4 * 3)
    original = Handler.answer

    def answer(self: Handler, *, body: bool) -> None:
        gate.wait(10)
        original(self, body=body)

    monkeypatch.setattr(Handler, "answer", answer)
    requests = [FieldRequest(field, 0, (0, 1, 2), "max") for field in plate.fields]
    for pixels, other in zip(
        FieldReader(plate.storage).stream(requests), written.values(), strict=True
    ):
        np.testing.assert_array_equal(pixels, other)  # type: ignore[arg-type]


def test_nothing_may_be_read(server: Server, plates: ModuleType, tmp_path: Path) -> None:
    server.absent_status = 403
    message = plates.refusal(f"{server.url}/p.zarr")
    assert "is no readable plate: metadata at its root: 403" in message
    server.absent_status = 404
    assert "is not an OME-Zarr plate" in plates.refusal(f"{server.url}/p.zarr")


def test_a_server_that_is_not_there(plates: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_PAUSES_S", ())
    message = plates.refusal("http://127.0.0.1:1/p.zarr")
    assert "is no readable plate: metadata at its root: Cannot connect" in message
    assert "cannot be opened" in plates.refusal("http://127.0.0.1:1/p.zip")


def test_a_signed_url_keeps_its_query(server: Server, plates: ModuleType, tmp_path: Path) -> None:
    written = plates.write_plate(tmp_path / "p.zarr", WELLS)
    seen: list[str] = []
    original = Handler.answer

    def answer(self: Handler, *, body: bool) -> None:
        seen.append(self.path)
        original(self, body=body)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Handler, "answer", answer)
        plates.check_pixels(open_plate(f"{server.url}/p.zarr?token=a%2Fb"), written)
    assert all(path.endswith("?token=a%2Fb") for path in seen)


def test_names_with_spaces_over_http(server: Server, plates: ModuleType, tmp_path: Path) -> None:
    written = plates.write_plate(tmp_path / "p.zarr", {"A/1": ["f#1 50%"]})
    original = Handler.answer

    def answer(self: Handler, *, body: bool) -> None:
        import urllib.parse

        self.path = urllib.parse.unquote(self.path)
        original(self, body=body)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Handler, "answer", answer)
        plates.check_pixels(open_plate(f"{server.url}/p.zarr", strict=True), written)


@pytest.mark.parametrize("inside", ["", "p.zarr"])
def test_a_zip_over_http(inside: str, server: Server, plates: ModuleType, tmp_path: Path) -> None:
    written = plates.write_plate(tmp_path / "p", WELLS, **VERSIONS[3])
    plates.make_zip(tmp_path / "p", tmp_path / "p.ozx", inside)
    plate = open_plate(f"{server.url}/p.ozx", strict=True)
    plates.check_pixels(plate, written)
    del plate
    assert "cannot be opened" in plates.refusal(f"{server.url}/none.zip")
    (tmp_path / "bad.zip").write_bytes(b"no zip at all")
    assert "is no readable zip" in plates.refusal(f"{server.url}/bad.zip")


def test_a_zip_on_a_server_without_ranges(
    server: Server, plates: ModuleType, tmp_path: Path
) -> None:
    server.knows_ranges = False
    plates.write_plate(tmp_path / "p", WELLS, sizes={"y": 512, "x": 512}, codec="none")
    plates.make_zip(tmp_path / "p", tmp_path / "p.zip")
    assert "p.zip" in plates.refusal(f"{server.url}/p.zip")


def test_other_file_systems(plates: ModuleType, tmp_path: Path) -> None:
    """One without asynchronous reads."""
    import fsspec

    written = plates.write_plate(tmp_path / "p", WELLS)
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "p"), "/bucket/p.zarr", recursive=True)
    try:
        plates.check_pixels(open_plate("memory://bucket/p.zarr", strict=True), written)
    finally:
        memory.rm("/bucket", recursive=True)


def test_an_unknown_protocol(plates: ModuleType) -> None:
    assert "unknown protocol 'gopher'" in plates.refusal("gopher://x/p.zarr", UsageError)


@pytest.mark.parametrize(
    ("url", "module", "remedy"),
    [
        ("s3://bucket/p.zarr", "s3fs", "pip install 'unidino_fast[s3]'"),
        ("gs://bucket/p.zarr", "gcsfs", "pip install 'unidino_fast[gcs]'"),
    ],
)
def test_a_package_that_is_missing(
    plates: ModuleType, url: str, module: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.registry import _registry

    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    monkeypatch.delitem(_registry, url.split(":")[0], raising=False)
    assert remedy in plates.refusal(url, UsageError)


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(
    s3_url: str, plates: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, np.ndarray]]:
    import boto3

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_url)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setattr(remote, "_PAUSES_S", (0.01,))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    client = boto3.client("s3")
    client.create_bucket(Bucket="screens")
    layout = plates.Layout(**VERSIONS[3], chunks=(1, 16, 17), shards=(1, 48, 51),
                           absent=((2, 0, 0),))  # fmt: skip
    written = plates.write_plate(tmp_path / "p.zarr", WELLS, layout)
    for path in (tmp_path / "p.zarr").rglob("*"):
        if path.is_file():
            key = f"sets/{path.relative_to(tmp_path)}"
            client.put_object(Bucket="screens", Key=key, Body=path.read_bytes(), ACL="public-read")
    plates.make_zip(tmp_path / "p.zarr", tmp_path / "p.zip")
    client.put_object(Bucket="screens", Key="sets/p.zip", Body=(tmp_path / "p.zip").read_bytes())
    client.close()
    yield written
    gc.collect()


@pytest.mark.parametrize("location", ["s3://screens/sets/p.zarr", "s3://screens/sets/p.zip"])
def test_s3(plates: ModuleType, location: str, bucket: dict[str, np.ndarray]) -> None:
    plates.check_pixels(open_plate(location, strict=True), bucket)
    assert "is not an OME-Zarr plate" in plates.refusal("s3://screens/none")
    assert "s3://screens/none.zip cannot be opened" in plates.refusal("s3://screens/none.zip")


def test_s3_without_credentials_reads_anonymously(
    plates: ModuleType, bucket: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    plate = open_plate("s3://screens/sets/p.zarr", strict=True)
    assert plate.storage._fs.anon is True  # type: ignore[attr-defined]
    plates.check_pixels(plate, bucket)
