"""Chunks and array documents that are broken: each fault is one line that names its place."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from unidino_fast.errors import PixelError
from unidino_fast.plate import open_plate
from unidino_fast.reading import FieldReader
from unidino_fast.storage import FolderStorage

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

V3 = {"zarr_format": 3, "ngff": "0.5"}
BROKEN: dict[str, dict[str, Any]] = {
    "blosc": {"codec": "blosc-lz4-shuffle"},
    "blosc-zstd": {},
    "zstd": {"codec": "zstd"},
    "gzip": {"codec": "gzip"},
    "zlib": {"codec": "zlib"},
    "none": {"codec": "none"},
    "v3-blosc": {**V3},
    "v3-none": {**V3, "codec": "none"},
    "v3-crc32c": {**V3, "codec": "none", "crc32c": True},
    "v3-shard": {**V3, "codec": "zstd", "chunks": (1, 15, 17), "shards": (1, 45, 51)},
}


def reader_error(root: Path) -> str:
    plate = open_plate(root)
    reader = FieldReader(plate.storage)
    with pytest.raises(PixelError) as caught:
        reader.read(plate.fields[0], time=0, channels=(0, 1, 2), z="max")
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage", "short"])
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_chunk_is_named(
    name: str, damage: str, plates: ModuleType, tmp_path: Path
) -> None:
    layout = plates.Layout(**BROKEN[name])
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]}, layout)
    key = f"A/1/0/0/{plates.chunk_key(layout, (1, 0, 0))}"
    chunk = tmp_path / "p" / key
    data = chunk.read_bytes()
    noise = np.random.default_rng(0).bytes(len(data) - 1)
    broken = {
        "truncated": data[: len(data) // 2],
        "empty": b"",
        "garbage": noise,
        "short": data[:3],
    }
    chunk.write_bytes(broken[damage])
    assert reader_error(tmp_path / "p").startswith(f"chunk {key} cannot be read (")


def test_a_chunk_that_claims_to_be_huge(plates: ModuleType, tmp_path: Path) -> None:
    """A zstd frame of one segment whose header says 2**62 bytes."""
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]}, codec="zstd")
    frame = b"\x28\xb5\x2f\xfd\xe0" + (2**62).to_bytes(8, "little") + bytes(20)
    (tmp_path / "p/A/1/0/0/1/0/0").write_bytes(frame)
    assert "chunk A/1/0/0/1/0/0 cannot be read" in reader_error(tmp_path / "p")


def test_every_truncation_of_a_blosc_chunk_is_found(plates: ModuleType, tmp_path: Path) -> None:
    """Blosc itself reads on in whatever memory follows."""
    for root, version in (("p", {}), ("q", V3)):
        plates.write_plate(tmp_path / root, {"A/1": ["0"]}, **version, sizes={"y": 9, "x": 9})
        name = "A/1/0/0/0/0/0" if root == "p" else "A/1/0/0/c/0/0/0"
        chunk = tmp_path / root / name
        data = chunk.read_bytes()
        for length in range(0, len(data), 7):
            chunk.write_bytes(data[:length])
            assert f"chunk {name} cannot be read" in reader_error(tmp_path / root)


@pytest.mark.parametrize("sharded", [False, True])
def test_a_flipped_bit_is_found_by_its_checksum(
    sharded: bool, plates: ModuleType, tmp_path: Path
) -> None:
    shards = (1, 45, 51) if sharded else None
    layout = plates.Layout(**V3, codec="none", crc32c=True, shards=shards, chunks=(1, 45, 51))
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]}, layout)
    chunk = tmp_path / "p/A/1/0/0/c/2/0/0"
    data = bytearray(chunk.read_bytes())
    data[100] ^= 1
    chunk.write_bytes(data)
    message = reader_error(tmp_path / "p")
    assert "chunk A/1/0/0/c/2/0/0 cannot be read" in message
    assert "checksum" in message.lower()


def test_a_chunk_that_is_a_folder_or_unreadable(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]})
    chunk = tmp_path / "p/A/1/0/0/1/0/0"
    chunk.unlink()
    chunk.symlink_to(chunk)  # a loop: an error that is neither "absent" nor a matter of rights
    assert "chunk A/1/0/0/1/0/0 cannot be read" in reader_error(tmp_path / "p")


def test_an_unknown_codec_is_one_line(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]})
    plates.edit_json(
        tmp_path / "p/A/1/0/0/.zarray", lambda d: d.update(compressor={"id": "jpeg\nxl"})
    )
    assert "array A/1/0/0 cannot be opened" in reader_error(tmp_path / "p")
    plates.write_plate(tmp_path / "q", {"A/1": ["0"]}, **V3)
    plates.edit_json(
        tmp_path / "q/A/1/0/0/zarr.json", lambda d: d["codecs"].append({"name": "jpegxl"})
    )
    assert "array A/1/0/0 cannot be opened" in reader_error(tmp_path / "q")


@pytest.mark.parametrize(
    "change",
    [
        {"fill_value": "many"}, {"fill_value": -1}, {"fill_value": [1]}, {"order": "Z"},
        {"filters": [{"id": "none such"}]}, {"filters": 3}, {"dimension_separator": "/../"},
        {"compressor": {"id": 3}},
    ],
)  # fmt: skip
def test_array_metadata_that_zarr_refuses(
    change: dict[str, Any], plates: ModuleType, tmp_path: Path
) -> None:
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]})
    plates.edit_json(tmp_path / "p/A/1/0/0/.zarray", lambda d: d.update(change))
    assert "A/1/0/0" in reader_error(tmp_path / "p")


@pytest.mark.parametrize(
    ("zarr_format", "change"),
    [
        (2, {"shape": [3, 10**12, 10**12]}),
        (2, {"shape": [3, 10**6, 10**6], "chunks": [1, 10**6, 10**6]}),
        (2, {"shape": [3, 10**4, 10**4], "chunks": [1, 1, 1]}),
        (2, {"chunks": [1, 10**12, 10**12]}),
        (3, {"shape": [3, 10**12, 10**12]}),
        (3, {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 10**12, 99]}}}),
    ],
)
def test_absurd_sizes_are_refused_not_allocated(
    zarr_format: int, change: dict[str, Any], plates: ModuleType, tmp_path: Path
) -> None:
    ngff = {2: "0.4", 3: "0.5"}[zarr_format]
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]}, zarr_format=zarr_format, ngff=ngff)
    name = {2: ".zarray", 3: "zarr.json"}[zarr_format]
    plates.edit_json(tmp_path / f"p/A/1/0/0/{name}", lambda d: d.update(change))
    assert "A/1/0/0" in reader_error(tmp_path / "p")


def test_memory_that_runs_out_is_one_line(
    plates: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]})

    def full(*args: object, **kwargs: object) -> None:
        raise MemoryError

    monkeypatch.setattr(np, "empty", full)
    assert "field A/1/0/0 of 45 x 51 px does not fit in memory" in reader_error(tmp_path / "p")


@pytest.mark.parametrize(
    ("chunks", "n_sound"), [((1, 45, 51), 1), ((1, 15, 17), 4), ((3, 16, 16), 2)]
)
def test_of_several_damaged_chunks_the_first_is_named(
    chunks: tuple[int, ...],
    n_sound: int,
    plates: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whichever thread comes first: a message that changes from run to run tells nothing."""
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]}, chunks=chunks)
    stored = [path for path in (tmp_path / "p/A/1/0/0").rglob("*") if path.name.isdigit()]
    files = sorted(path for path in stored if path.is_file())
    for path in files[n_sound:]:
        path.write_bytes(b"broken")
    plate = open_plate(tmp_path / "p")
    [field] = plate.fields
    random = np.random.default_rng(0)
    real = FolderStorage.grab

    def grab(self: FolderStorage, *args: Any) -> int | None:
        time.sleep(random.uniform(0, 0.002))
        return real(self, *args)

    monkeypatch.setattr(FolderStorage, "grab", grab)
    said = set()
    for _ in range(30):
        reader = FieldReader(plate.storage, n_threads=4)
        with pytest.raises(PixelError) as caught:
            reader.read(field, time=0, channels=(0, 1, 2), z="max")
        said.add(str(caught.value))
    [message] = said
    assert f"chunk {files[n_sound].relative_to(tmp_path / 'p')} " in message
