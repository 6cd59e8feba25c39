"""Plates in S3 buckets, of a server in this process."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import pytest

import unidino_fast as uf
from unidino_fast.config import EmbedOptions
from unidino_fast.errors import OutputError
from unidino_fast.plate import open_plate
from unidino_fast.storage import open_storage, remote
from unidino_fast.storage.remote import RemoteStorage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

    import numpy as np


WELLS = {"A/1": ["0", "1"], "B/2": ["0", "1"]}
VERSIONS: dict[int, dict[str, Any]] = {2: {}, 3: {"zarr_format": 3, "ngff": "0.5"}}


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


def test_tags_are_those_that_the_bucket_tells(
    plates: ModuleType, bucket: dict[str, np.ndarray]
) -> None:
    """Of spans and whole objects, read and only asked for; of one that is not there, or empty."""
    import boto3

    client = boto3.client("s3")
    storage = open_storage("s3://screens/sets/p.zarr")
    assert isinstance(storage, RemoteStorage)
    keys = ["A/1/0/0/c/0/0/0", "A/1/0/0/c/1/0/0", "A/1/0/0/c/2/0/0"]
    told = [
        "ETag " + client.head_object(Bucket="screens", Key=f"sets/p.zarr/{key}")["ETag"]
        for key in keys[:2]
    ]
    assert storage.tags(keys) == [*told, "absent"]
    for key, (start, stop) in zip(keys, [(0, 9), (-9, None), (None, None)], strict=True):
        found = storage.fetch(key, room, start, stop)
        assert found is None or len(found) == 9
    client.put_object(Bucket="screens", Key=f"sets/p.zarr/{keys[0]}", Body=b"")
    assert storage.tags_as_read(keys) == [*told, "absent"]
    assert storage.tags(keys[:1]) != told[:1]
    assert bytes(storage.fetch(keys[0], room, 5, 9) or b"") == b""
    client.close()


def test_pixels_that_changed_between_two_runs_are_an_error(
    plates: ModuleType, bucket: dict[str, np.ndarray], model: uf.Embedder, tmp_path: Path
) -> None:
    import boto3

    url, out = "s3://screens/sets/p.zarr", tmp_path / "out"
    options = EmbedOptions(tile=32)
    uf.embed_to_folder(open_plate(url), model, out, options)
    assert uf.embed_to_folder(open_plate(url), model, out, options).n_resumed == 2
    keys = [key for well in WELLS for site in "01" for key in (f"{well}/{site}/0/c/0/0/0",)]
    client = boto3.client("s3")
    for key in [key.replace("c/0", f"c/{channel}") for key in keys for channel in (0, 1)]:
        source = f"sets/p.zarr/{key}"
        content = client.get_object(Bucket="screens", Key=source)["Body"].read()
        client.put_object(Bucket="screens", Key=source, Body=content + b"x", ACL="public-read")
    client.close()
    with pytest.raises(
        OutputError, match=r'chunk .* of well .* changed \(it was: ETag ".*; now: E'
    ):
        uf.embed_to_folder(open_plate(url), model, out, options)


def room(n_bytes: int) -> memoryview:
    return memoryview(bytearray(n_bytes))
