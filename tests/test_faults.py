"""What goes wrong around a run: full disks, folders that vanish, plates that change, odd clocks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zarr
from result_files import tables_of

import unidino_fast as uf
from unidino_fast import plate_run, stamps
from unidino_fast.config import EmbedOptions
from unidino_fast.errors import OutputError, PixelError
from unidino_fast.output import TABLES
from unidino_fast.storage import FolderStorage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from unidino_fast.planning import WellTask
    from unidino_fast.run_summary import RunSummary

OPTIONS = EmbedOptions(tile=32)


@pytest.fixture
def expected(plate_path: Path, model: uf.Embedder, tmp_path: Path) -> dict[str, bytes]:
    uf.embed_to_folder(uf.open_plate(plate_path), model, tmp_path / "expected", OPTIONS)
    return tables_of(tmp_path / "expected/small")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 kB: room for a few parts."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_keeps_finished_wells(
    plate_path: Path, model: uf.Embedder, small_disk: Path, expected: dict[str, bytes]
) -> None:
    plate = uf.open_plate(plate_path)
    with pytest.raises(OutputError, match="No space left on device") as caught:
        uf.embed_to_folder(plate, model, small_disk, OPTIONS)
    assert "\n" not in str(caught.value)
    n_kept = len(list(small_disk.glob("small/parts/[A-Z]*.parquet")))
    assert 0 < n_kept <= 6
    assert not list(small_disk.rglob("*.tmp"))
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    summary = uf.embed_to_folder(plate, model, small_disk, OPTIONS)
    assert summary.n_resumed == n_kept
    assert tables_of(small_disk / "small") == expected


@pytest.mark.parametrize("lost", TABLES)
def test_a_table_that_cannot_be_written(
    plate_path: Path,
    model: uf.Embedder,
    tmp_path: Path,
    expected: dict[str, bytes],
    lost: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each is written in a thread of its own."""
    replace = Path.replace

    def failing(path: Path, target: Path) -> Path:
        if target.name == lost:
            raise OSError(28, "No space left on device")
        return replace(path, target)

    plate, out = uf.open_plate(plate_path), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", failing)
        with pytest.raises(OutputError, match=rf"{lost} cannot be written \(No space left"):
            uf.embed_to_folder(plate, model, out, OPTIONS)
    assert not (out / "small" / lost).exists()
    assert json.loads((out / "small/manifest.json").read_bytes())["run"] == {"status": "running"}
    summary = uf.embed_to_folder(plate, model, out, OPTIONS)
    assert summary.n_resumed == summary.n_wells
    assert tables_of(out / "small") == expected


def test_an_output_folder_that_vanishes(
    plate_path: Path, model: uf.Embedder, tmp_path: Path
) -> None:
    def remove(task: WellTask) -> None:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)

    with pytest.raises(OutputError, match="its folder is not there, or is being removed") as caught:
        uf.embed_to_folder(
            uf.open_plate(plate_path), model, tmp_path / "out", OPTIONS, on_well=remove
        )
    assert "\n" not in str(caught.value)


def losing(plate_path: Path, chunk: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has a chunk vanish once the files of its well were looked at, before they are read."""
    real = plate_run.stamps_before

    def stamps_before(*args: Any) -> Any:
        found = real(*args)
        if any(chunk.startswith(field.field.array_path) for one in args[1] for field in one.fields):
            (plate_path / chunk).unlink()
        return found

    monkeypatch.setattr(plate_run, "stamps_before", stamps_before)


SAID_OF_ONE = (
    "1 of the plate's 36 chunks is absent and reads as the fill value, the first in A/2/0/0: is"
    " the copy of the plate complete?"
)


@pytest.mark.parametrize("by_zarr", [False, True])
def test_a_chunk_that_vanishes_before_it_is_read_is_said(
    by_zarr: bool,
    plates: ModuleType,
    plate_path: Path,
    model: uf.Embedder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And from then on, as long as it is away; a run that does not need it says nothing."""
    if by_zarr:
        filters = [{"id": "delta", "dtype": "<u2"}]
        for path in plate_path.rglob(".zarray"):
            plates.edit_json(path, lambda d: d.update(filters=filters))
    with monkeypatch.context() as patch:
        losing(plate_path, "A/2/0/0/1/0/0", patch)
        summary = uf.embed_to_folder(uf.open_plate(plate_path), model, tmp_path / "out", OPTIONS)
    assert summary.warnings == (SAID_OF_ONE,)
    for verify, overwrite in ((True, False), (False, False), (False, True)):
        summary = uf.embed_to_folder(
            uf.open_plate(plate_path),
            model,
            tmp_path / "out",
            OPTIONS,
            verify=verify,
            overwrite=overwrite,
        )
        assert summary.warnings == (SAID_OF_ONE,)
        assert summary.n_resumed == (0 if overwrite else 6)
    other = EmbedOptions(tile=32, channels=("Mito",))
    summary = uf.embed_to_folder(uf.open_plate(plate_path), model, tmp_path / "other", other)
    assert summary.warnings == ()


def test_absent_chunks_are_said_by_every_run_where_they_are_too_many_to_ask_for(
    plate_path: Path, model: uf.Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stamps, "_MOST_ASKED", 2)
    (plate_path / "A/2/0/0/1/0/0").unlink()
    for n_resumed in (0, 6):
        summary = uf.embed_to_folder(uf.open_plate(plate_path), model, tmp_path, OPTIONS)
        assert (summary.n_resumed, summary.warnings) == (n_resumed, (SAID_OF_ONE,))


@pytest.mark.parametrize("what", ["a stray file", "its folder is gone"])
def test_absent_chunks_are_said_whatever_a_listing_says(
    what: str, plate_path: Path, model: uf.Embedder, tmp_path: Path
) -> None:
    """What stands where another chunk would makes up the number; arrays may be moved meanwhile."""
    folder = plate_path / "A/2/0/0"
    (folder / "1/0/0").unlink()
    (folder / "1/0/7").write_bytes(b"stray")

    def vanish(task: WellTask) -> None:
        if what == "its folder is gone" and task.name == "B03":
            shutil.rmtree(folder)

    summary = uf.embed_to_folder(
        uf.open_plate(plate_path), model, tmp_path, OPTIONS, on_well=vanish
    )
    assert summary.warnings == (
        "chunks are absent and read as the fill value, the first A/2/0/0/1/0/0: is the copy of the"
        " plate complete?",
    )


def test_a_plate_that_is_complete_is_not_listed(
    plate_path: Path, model: uf.Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders of hundreds of thousands of chunks, each its own: a listing takes minutes."""

    def stamps(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(FolderStorage, "stamps", stamps)
    for n_resumed in (0, 6):
        summary = uf.embed_to_folder(uf.open_plate(plate_path), model, tmp_path, OPTIONS)
        assert (summary.n_resumed, summary.warnings) == (n_resumed, ())


def test_metadata_broken_after_the_start_changes_nothing(
    plate_path: Path, model: uf.Embedder, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    """It was read once, before the first well."""

    def spoil(task: WellTask) -> None:
        for path in [*plate_path.rglob(".zattrs"), *plate_path.rglob(".zarray")]:
            path.write_text("{")

    plate = uf.open_plate(plate_path)
    plan_started = uf.embed_to_folder(plate, model, tmp_path / "out", OPTIONS, on_well=spoil)
    assert plan_started.n_wells == 6
    assert tables_of(tmp_path / "out/small") == expected


@pytest.mark.parametrize("seconds", [0, 2**33])
def test_writers_whose_clocks_are_off(
    plate_path: Path,
    model: uf.Embedder,
    tmp_path: Path,
    expected: dict[str, bytes],
    seconds: int,
) -> None:
    """Files of a host that lives in another year: no time of ours decides anything."""
    out = tmp_path / "out"
    uf.embed_to_folder(uf.open_plate(plate_path), model, out, OPTIONS)
    for name in (*TABLES, "parts/A02.parquet"):
        (out / "small" / name).unlink()
    for path in out.rglob("*"):
        os.utime(path, (seconds, seconds))
    summary = uf.embed_to_folder(uf.open_plate(plate_path), model, out, OPTIONS)
    assert summary.n_resumed == 5
    assert tables_of(out / "small") == expected


def test_a_part_whose_bits_rot_is_computed_again(
    plate_path: Path, model: uf.Embedder, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    uf.embed_to_folder(uf.open_plate(plate_path), model, out, OPTIONS)
    part = out / "small/parts/B01.parquet"
    content = part.read_bytes()
    for place in range(100, len(content), len(content) // 12):
        spoilt = bytearray(content)
        spoilt[place] ^= 4
        part.write_bytes(spoilt)
        uf.embed_to_folder(uf.open_plate(plate_path), model, out, OPTIONS)
        assert tables_of(out / "small") == expected
    assert json.loads((out / "small/manifest.json").read_text())["run"]["n_wells"] == 6


def test_verify_leaves_out_what_cannot_be_read_again(
    plate_path: Path, model: uf.Embedder, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    def verified(**options: Any) -> RunSummary:
        plate = uf.open_plate(plate_path)
        return uf.embed_to_folder(plate, model, tmp_path / "out", OPTIONS, verify=True, **options)

    uf.embed_to_folder(uf.open_plate(plate_path), model, tmp_path / "out", OPTIONS)
    chunk = plate_path / "A/2/0/0/1/0/0"
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:100])
    with pytest.raises(PixelError, match=r"truncated.*; --on-error skip leaves such wells out"):
        verified()
    summary = verified(on_error="skip")
    assert (summary.n_resumed, summary.n_wells) == (5, 5)
    assert list(summary.left_out) == ["A02"]
    assert "truncated" in summary.left_out["A02"]
    chunk.write_bytes(whole)
    assert (verified().n_resumed, tables_of(tmp_path / "out/small")) == (6, expected)


def test_verify_accepts_a_copy_and_finds_a_changed_pixel(
    plate_path: Path, model: uf.Embedder, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    uf.embed_to_folder(uf.open_plate(plate_path), model, out, OPTIONS)
    for path in plate_path.rglob("*"):
        os.utime(path, (1, 1))  # as `cp -r` does, to another time
    with pytest.raises(OutputError, match=r"add --verify, which compares the pixels"):
        uf.embed_to_folder(uf.open_plate(plate_path), model, out, OPTIONS)
    summary = uf.embed_to_folder(uf.open_plate(plate_path), model, out, OPTIONS, verify=True)
    assert summary.n_resumed == 6
    assert tables_of(out / "small") == expected
    uf.embed_to_folder(uf.open_plate(plate_path), model, out, OPTIONS)  # the times are known now
    array = zarr.open_array(plate_path / "B/2/1/0", mode="r+")
    array[1, 5, 7] ^= 1
    with pytest.raises(OutputError, match="pixels of field B02/1 differ") as caught:
        uf.embed_to_folder(uf.open_plate(plate_path), model, out, OPTIONS, verify=True)
    assert "\n" not in str(caught.value)
