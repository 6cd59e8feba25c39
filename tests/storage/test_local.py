"""Folders, file URLs and zips: the same plate from each, nothing left open."""

from __future__ import annotations

import errno
import gc
import os
import pickle
import shutil
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numcodecs import Delta

from unidino_fast.errors import PixelError, PlateError
from unidino_fast.plate import open_plate
from unidino_fast.reading import FieldReader, FieldRequest
from unidino_fast.storage import FolderStorage, StorageFault, ZipStorage, open_storage

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


WELLS = {"A/1": ["0", "1"], "B/2": ["0", "1"]}


VERSIONS: dict[int, dict[str, Any]] = {2: {}, 3: {"zarr_format": 3, "ngff": "0.5"}}


def test_a_missing_path(plates: ModuleType, tmp_path: Path) -> None:
    assert plates.refusal(tmp_path / "none.zarr").endswith(
        "none.zarr does not exist: give a plate's path or URL"
    )
    assert "does not exist" in plates.refusal("")
    assert "cannot be read" in plates.refusal("~nobody-of-this-name/plate.zarr")
    assert "does not exist" in plates.refusal(f"file://{tmp_path}/none.zarr")


def test_a_file_url(plates: ModuleType, tmp_path: Path) -> None:
    written = plates.write_plate(tmp_path / "a plate.zarr", WELLS)
    url = (tmp_path / "a plate.zarr").as_uri()
    assert "%20" in url
    plate = open_plate(url)
    assert plate.location == url
    plates.check_pixels(plate, written)


def test_spans_of_objects(tmp_path: Path) -> None:
    (tmp_path / "object").write_bytes(b"0123456789")
    with zipfile.ZipFile(tmp_path / "p.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.write(tmp_path / "object", "object")
    for storage in (open_storage(tmp_path), open_storage(tmp_path / "p.zip")):
        assert storage.read("object") == b"0123456789"
        assert storage.read("object", 2, 5) == b"234"
        assert storage.read("object", 7, None) == b"789"
        assert storage.read("object", -3, None) == b"789"
        assert storage.read("object", -30, None) == b"0123456789"
        assert storage.read("object", 8, 30) == b"89"
        assert storage.read("none") is None
        assert storage.read("object/none") is None


def test_parts_of_objects_come_into_ready_buffers(tmp_path: Path) -> None:
    (tmp_path / "object").write_bytes(b"0123456789")
    storage = open_storage(tmp_path)
    one, two, three = memoryview(bytearray(4)), memoryview(bytearray(2)), memoryview(bytearray(3))
    assert storage.grab("object", [(1, (one, two)), (9, (three,))]) == 4 + 2 + 1
    assert (bytes(one), bytes(two), bytes(three)) == (b"1234", b"56", b"9\0\0")
    assert storage.grab("object", [(10, (one,))]) == 0
    for key in ("none", "object/none", ".", "nul\0"):
        assert storage.grab(key, [(0, (one,))]) is None
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as file:
        file.write(tmp_path / "object", "object")
    assert open_storage(tmp_path / "p.zip").grab("object", [(0, (one,))]) is None


def test_stamps_change_with_the_pixels(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p", WELLS)
    storage = open_storage(tmp_path / "p")
    before = storage.stamps("A/1/0/0")
    assert before is not None
    keys = [key for key, *_ in before]
    assert keys == sorted(keys)
    chunks = {key for key in keys if not key.rsplit("/", 1)[-1].startswith(".z")}
    assert chunks == {f"A/1/0/0/{channel}/0/0" for channel in range(3)}
    (tmp_path / "p/A/1/0/0/1/0/0").write_bytes(b"other")
    after = storage.stamps("A/1/0/0")
    assert after is not None
    assert [a[0] for a, b in zip(after, before, strict=True) if a != b] == ["A/1/0/0/1/0/0"]
    with pytest.raises(PlateError, match="A/9/0/0 cannot be listed") as caught:
        storage.stamps("A/9/0/0")
    assert str(caught.value).isprintable()


def test_what_is_there_is_looked_at_and_what_is_absent_is_told(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/file").write_bytes(b"12345")
    os.utime(tmp_path / "a/file", ns=(0, 77))
    (tmp_path / "a/link").symlink_to("file")
    (tmp_path / "a/broken").symlink_to("none")
    (tmp_path / "a/loop").symlink_to("loop")
    (tmp_path / "gone").symlink_to("none")
    expected = {
        "a/file": (5, 77),
        "a/link": (5, 77),
        "a/broken": (-1, 0),
        "a/loop": (-1, errno.ELOOP),
        "gone/x": (-1, 0),
        "gone/y/z": (-1, 0),
        "nul\0": (-1, 0),
    }
    absent = ["a/none", "a/b", "a/b/none", "none/x/y", "none/x/z", "a/file/x"]
    with storage.absent_seen() as seen:
        assert storage.sizes_and_times(list(expected)) == list(expected.values())
        assert seen == set()
        assert storage.sizes_and_times(absent) == [None] * len(absent)
        assert seen == set(absent)
    with storage.absent_seen() as seen, storage.absent_seen() as others:
        assert storage.sizes_and_times([]) == []
        for key in absent:
            assert storage.read(key) is None
        assert seen == others == set(absent)
        assert isinstance(storage.read("gone/x"), StorageFault)
        assert isinstance(storage.read("a/broken"), StorageFault)
        assert storage.read("a/file") == b"12345"
        assert seen == set(absent)


def test_a_folder_goes_to_other_processes_without_those_who_watch_it(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    with storage.absent_seen() as seen:
        other = pickle.loads(pickle.dumps(storage))
        with other.absent_seen() as seen_there:
            assert other.read("none") is None
        assert (seen, seen_there) == (set(), {"none"})


def test_sizes_and_checksums_of_a_zip(tmp_path: Path) -> None:
    for content in (b"12345", b"54321"):
        with zipfile.ZipFile(tmp_path / "p.zip", "w") as file:
            file.writestr("a/file", content)
        storage = open_storage(tmp_path / "p.zip")
        with storage.absent_seen() as seen:
            found = storage.sizes_and_times(["a/file", "a/none", "a"])
            assert found == [(5, zlib.crc32(content)), None, None]
            assert seen == {"a/none", "a"}
        with storage.absent_seen() as seen:
            assert storage.read("b") is None
            assert seen == {"b"}


@pytest.mark.parametrize("place", ["A/1/0/0/1/0/0", "A/1/0/0/1/0", "A/1/0/0/1"])
@pytest.mark.parametrize("to", ["nowhere", "itself"])
@pytest.mark.parametrize("by_zarr", [False, True])
def test_links_that_lead_nowhere_are_no_absent_chunks(
    by_zarr: bool, to: str, place: str, plates: ModuleType, tmp_path: Path
) -> None:
    """As in copies by git-annex whose files were not fetched."""
    plates.write_plate(tmp_path / "p", WELLS)
    if by_zarr:
        filters = [Delta("<u2").get_config()]
        plates.edit_json(tmp_path / "p/A/1/0/0/.zarray", lambda d: d.update(filters=filters))
    link = tmp_path / "p" / place
    shutil.rmtree(link) if link.is_dir() else link.unlink()
    link.symlink_to(link if to == "itself" else tmp_path / "not-fetched")
    plate = open_plate(tmp_path / "p")
    stamps = plate.storage.stamps("A/1/0/0")
    assert stamps is not None
    assert (place, 0, 0) in stamps
    requests = [FieldRequest(field, 0, (0, 1, 2), "max") for field in plate.fields]
    first, *others = FieldReader(plate.storage).stream(requests)
    assert isinstance(first, PixelError)
    assert "A/1/0/0" in str(first)
    assert "link" in str(first)
    assert not any(isinstance(other, PixelError) for other in others)


@pytest.mark.parametrize("compress", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("inside", ["", "p.zarr"])
@pytest.mark.parametrize("suffix", [".zip", ".ozx", ".ZIP", ".dat"])
def test_zips(suffix: str, inside: str, compress: int, plates: ModuleType, tmp_path: Path) -> None:
    written = plates.write_plate(tmp_path / "p", WELLS, **VERSIONS[3])
    path = plates.make_zip(tmp_path / "p", tmp_path / f"plate{suffix}", inside, compress)
    plate = open_plate(path, strict=True)
    assert plate.root == inside
    plates.check_pixels(plate, written)


def test_shards_and_mosaics_in_a_zip(plates: ModuleType, tmp_path: Path) -> None:
    layout = plates.Layout(**VERSIONS[3], chunks=(1, 16, 17), shards=(3, 48, 51))
    written = plates.write_plate(tmp_path / "p", {"A/1": ["0"]}, layout)
    plates.write_roi_table(tmp_path / "p/A/1/0", 3, {"F": (0.0, 0.0, 13.0, 13.0)})
    plate = open_plate(plates.make_zip(tmp_path / "p", tmp_path / "p.ozx"))
    [field] = plate.fields
    read = FieldReader(plate.storage).read(field, time=0, channels=(1,), z="max")
    np.testing.assert_array_equal(read, written["A/1/0"][1:2, :20, :20])


def test_stamps_of_a_zip(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p", {"A/1": ["0"], "A/10": ["0"]})
    storage = open_storage(plates.make_zip(tmp_path / "p", tmp_path / "p.zip"))
    folder = open_storage(tmp_path / "p")
    for prefix in ("A/1", "A/1/0/0", "A", ""):
        found, expected = storage.stamps(prefix), folder.stamps(prefix)
        assert found is not None
        assert expected is not None
        assert [stamp[:2] for stamp in found] == [stamp[:2] for stamp in expected]
    assert storage.stamps("none") == []


def test_what_is_no_zip(plates: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "p.zip").write_bytes(b"PK\x03\x04 but no more")
    assert "is no readable zip" in plates.refusal(tmp_path / "p.zip")
    (tmp_path / "p.ozx").write_bytes(b"")
    assert "is no readable zip" in plates.refusal(tmp_path / "p.ozx")
    (tmp_path / "p.txt").write_text("text")
    assert "is a file, not a plate" in plates.refusal(tmp_path / "p.txt")


@pytest.mark.parametrize("compress", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_member_is_named(compress: int, plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]})
    path = plates.make_zip(tmp_path / "p", tmp_path / "p.zip", "", compress)
    with zipfile.ZipFile(path) as file:
        entry = file.getinfo("A/1/0/0/2/0/0")
    data = bytearray(path.read_bytes())
    middle = entry.header_offset + 60 + entry.compress_size // 2
    data[middle : middle + 20] = bytes(20)
    path.write_bytes(data)
    plate = open_plate(path)
    reader = FieldReader(plate.storage)
    with pytest.raises(PixelError, match="chunk A/1/0/0/2/0/0 cannot be read") as caught:
        reader.read(plate.fields[0], time=0, channels=(0, 1, 2), z="max")
    assert str(caught.value).isprintable()


def test_a_zip_is_closed_with_its_plate(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p")
    storage = open_storage(plates.make_zip(tmp_path / "p", tmp_path / "p.zip"))
    assert isinstance(storage, ZipStorage)
    file = storage._file
    del storage
    gc.collect()
    assert file.closed


def test_storages_say_whether_reads_cost_trips(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p")
    assert FolderStorage(tmp_path, location="p").is_remote is False
    assert open_storage(plates.make_zip(tmp_path / "p", tmp_path / "p.zip")).is_remote is False
    assert open_storage("memory://p").is_remote is True
    assert StorageFault("why").is_forbidden is False
