"""Reading ahead: in order, within its bound, and over when it is closed."""

from __future__ import annotations

import gc
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from reading_threads import reading_threads

from unidino_fast.errors import PixelError
from unidino_fast.plate import open_plate
from unidino_fast.reading import FieldReader, FieldRequest
from unidino_fast.reading import plan as plan_module
from unidino_fast.reading import reader as reader_module
from unidino_fast.reading import recipe as recipe_module
from unidino_fast.reading.piles import PileReader

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

WELLS = {f"A/{column}": ["0", "1"] for column in range(1, 5)}
FIELD = 3 * 45 * 51 * 2


def requests_of(plate: Any, **changes: Any) -> list[FieldRequest]:
    return [FieldRequest(f, 0, (0, 1, 2), "max") for f in plate.fields]


def few_at_a_time(plate: Any, n_threads: int) -> tuple[FieldReader, list[int]]:
    """A reader that begins two fields at most, and the sizes of what it allocates."""
    made: list[int] = []

    def allocate(n_bytes: int) -> memoryview:
        made.append(n_bytes)
        return memoryview(bytearray(n_bytes))

    options: dict[str, Any] = {"max_in_flight": 4 * FIELD, "allocate": allocate}
    return FieldReader(plate.storage, n_threads=n_threads, **options), made


@pytest.mark.parametrize("n_threads", [1, 2, 5])
@pytest.mark.parametrize("max_in_flight", [1, 3 * FIELD, 2**30])
def test_fields_come_in_order(
    n_threads: int, max_in_flight: int, plates: ModuleType, tmp_path: Path
) -> None:
    written = plates.write_plate(tmp_path / "p", WELLS, chunks=(1, 16, 16))
    plate = open_plate(tmp_path / "p")
    reader = FieldReader(plate.storage, n_threads=n_threads, max_in_flight=max_in_flight)
    for _ in range(2):
        kept = list(reader.stream(requests_of(plate)))
        assert len(kept) == 8
        for pixels, other in zip(kept, written.values(), strict=True):
            np.testing.assert_array_equal(pixels, other)  # type: ignore[arg-type]
    assert not reading_threads()


@pytest.mark.parametrize("max_in_flight", [1, 2**30])
@pytest.mark.parametrize("chunks", [(1, 16, 16), (2, 45, 51), (3, 15, 51)])
def test_notes_are_of_whole_planes_and_made_by_the_threads_that_read(
    chunks: tuple[int, ...], max_in_flight: int, plates: ModuleType, tmp_path: Path
) -> None:
    written = plates.write_plate(tmp_path / "p", WELLS, chunks=chunks)
    stored = [path for path in (tmp_path / "p/A/2/1/0").rglob("*") if path.name.isdigit()]
    max(path for path in stored if path.is_file()).write_bytes(b"broken")
    plate = open_plate(tmp_path / "p")
    reader = FieldReader(plate.storage, n_threads=3, max_in_flight=max_in_flight)
    noted: list[str] = []

    def note(pixels: Any, numbers: Any, _: Any) -> list[tuple[int, int]]:
        noted.extend([threading.current_thread().name] * len(numbers))
        return [(number, int(pixels[number].sum(dtype=np.int64))) for number in numbers]

    found = list(reader.stream_noted(requests_of(plate), note, tuple))
    for (path, other), one in zip(written.items(), found, strict=True):
        if path == "A/2/1":
            assert isinstance(one, PixelError)
        else:
            assert not isinstance(one, PixelError)
            np.testing.assert_array_equal(one[0], other)  # type: ignore[arg-type]
            assert one[1] == tuple(enumerate(other.sum((1, 2), dtype=np.int64).tolist()))
    assert 3 * (len(written) - 1) <= len(noted) < 3 * len(written)
    assert {name for name in noted if not name.startswith("read-")} <= {"MainThread"}


def test_no_field_is_held_while_the_next_is_read(plates: ModuleType, tmp_path: Path) -> None:
    """Its memory is in the caches: that is where the next but one is read to."""
    plates.write_plate(tmp_path / "p", WELLS, chunks=(1, 45, 51))
    plate = open_plate(tmp_path / "p")
    for n_threads in (1, 2):
        reader, made = few_at_a_time(plate, n_threads)
        requests = requests_of(plate) * 5
        views = (lambda pixels, numbers, _: pixels[numbers].sum((1, 2)), sum)
        assert sum(1 for _ in map(type, reader.stream(requests))) == 40
        assert sum(1 for _ in map(type, reader.stream_noted(requests, *views))) == 40
        assert len(made) == 2  # at most half of `max_in_flight`


def test_an_error_that_is_kept_holds_no_pixels(plates: ModuleType, tmp_path: Path) -> None:
    written = plates.write_plate(tmp_path / "p", WELLS, chunks=(1, 45, 51))
    for path in written:
        (tmp_path / "p" / path / "0/1/0/0").write_bytes(b"broken")
    plate = open_plate(tmp_path / "p")
    for n_threads in (1, 2):
        reader, made = few_at_a_time(plate, n_threads)
        kept = list(reader.stream(requests_of(plate) * 5))
        assert all(isinstance(one, PixelError) for one in kept)
        assert len(made) <= 3  # of 40


def test_a_note_that_fails_holds_no_pixels(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p", WELLS, chunks=(1, 45, 51))
    plate = open_plate(tmp_path / "p")

    def note(pixels: Any, *_: Any) -> None:
        raise PixelError(f"odd {pixels.shape}")

    for n_threads in (1, 2):
        reader, made = few_at_a_time(plate, n_threads)
        kept = list(reader.stream_noted(requests_of(plate) * 5, note, list))
        assert all(isinstance(one, PixelError) for one in kept)
        assert len(made) <= 3  # of 40


def test_a_note_that_fails_is_the_fault_of_its_field(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p", {"A/1": ["0"]})
    plate = open_plate(tmp_path / "p")

    def note(pixels: Any, *_: Any) -> None:
        raise PixelError("odd")

    [found] = FieldReader(plate.storage).stream_noted(requests_of(plate), note, list)
    assert str(found) == "odd"


def test_a_fault_stands_in_its_place(plates: ModuleType, tmp_path: Path) -> None:
    written = plates.write_plate(tmp_path / "p", WELLS)
    (tmp_path / "p/A/2/1/0/1/0/0").write_bytes(b"broken")
    (tmp_path / "p/A/3/0/0/0/0/0").write_bytes(b"broken")
    plate = open_plate(tmp_path / "p")
    found = list(FieldReader(plate.storage).stream(requests_of(plate)))
    assert [i for i, one in enumerate(found) if isinstance(one, PixelError)] == [3, 4]
    assert "chunk A/2/1/0/1/0/0" in str(found[3])
    for (path, other), pixels in zip(written.items(), found, strict=True):
        if path not in ("A/2/1", "A/3/0"):
            np.testing.assert_array_equal(pixels, other)  # type: ignore[arg-type]


def test_a_fault_is_that_of_the_regions_it_touches(plates: ModuleType, tmp_path: Path) -> None:
    """Though one thread reads all of a mosaic's chunks in one go."""
    written = plates.write_plate(tmp_path / "p", {"A/1": ["0"]}, chunks=(1, 20, 20))["A/1/0"]
    rois = {f"F{n}": (0.0, 13.0 * n, 13.0, 6.5) for n in range(2)}
    rois["F2"] = (13.0, 0.0, 13.0, 26.0)
    plates.write_roi_table(tmp_path / "p/A/1/0", 2, rois)
    (tmp_path / "p/A/1/0/0/1/0/1").write_bytes(b"broken")
    plate = open_plate(tmp_path / "p")
    first, second, third = FieldReader(plate.storage, n_threads=1).stream(requests_of(plate))
    np.testing.assert_array_equal(first, written[:, :20, :10])  # type: ignore[arg-type]
    assert "chunk A/1/0/0/1/0/1 cannot be read" in str(second)
    np.testing.assert_array_equal(third, written[:, 20:40, :40])  # type: ignore[arg-type]


@pytest.mark.parametrize("by_zarr", [False, True])
@pytest.mark.parametrize("refused", [0, 1, 2])
def test_a_region_that_is_refused_leaves_the_others_theirs(
    refused: int, by_zarr: bool, plates: ModuleType, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    written = plates.write_plate(tmp_path / "p", {"A/1": ["0"]}, chunks=(1, 20, 20))["A/1/0"]
    rois = {f"F{n}": (0.0, 13.0 * n, 13.0, 6.5) for n in range(3)}
    plates.write_roi_table(tmp_path / "p/A/1/0", 2, rois)
    if by_zarr:
        filters = [{"id": "delta", "dtype": "<u2"}]  # for which there is no way of our own
        plates.edit_json(tmp_path / "p/A/1/0/0/.zarray", lambda d: d.update(filters=filters))

        def read_into(planes: Any, request: FieldRequest, _: object) -> None:
            planes[...] = int(request.field.site[-1])

        monkeypatch.setattr(reader_module, "read_into", read_into)
    plate = open_plate(tmp_path / "p")
    check = plan_module.check_size

    def checked(request: FieldRequest) -> None:
        check(request)
        if request.field.site.endswith(str(refused)):
            raise PixelError("too large")

    def slowly(self: PileReader, *arguments: Any, **more: Any) -> list[int]:
        time.sleep(0.003)  # so that a region that nobody waits for is given out unread
        return read(self, *arguments, **more)

    read = PileReader.read
    monkeypatch.setattr(PileReader, "read", slowly)
    monkeypatch.setattr(recipe_module, "_STEP_BYTES", 0)
    monkeypatch.setattr(recipe_module, "check_size", checked)
    monkeypatch.setattr(reader_module, "check_size", checked)
    found = list(FieldReader(plate.storage, n_threads=1).stream(requests_of(plate)))
    assert len(found) == 3
    for number, pixels in enumerate(found):
        if number == refused:
            assert str(pixels) == "too large"
        elif by_zarr:
            assert (np.asarray(pixels) == number).all()
        else:
            x = 20 * number
            np.testing.assert_array_equal(pixels, written[:, :20, x : x + 10])  # type: ignore[arg-type]


def test_closing_ends_the_threads(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p", WELLS)
    plate = open_plate(tmp_path / "p")
    stream = FieldReader(plate.storage, n_threads=2, max_in_flight=1).stream(requests_of(plate))
    assert not reading_threads()
    with closing(stream):
        next(stream)
        assert reading_threads()
    assert not reading_threads()
    stream = FieldReader(plate.storage, n_threads=2, max_in_flight=1).stream(requests_of(plate))
    next(stream)
    del stream
    gc.collect()
    assert not reading_threads()


def test_an_error_of_ours_is_not_hidden(plates: ModuleType, tmp_path: Path) -> None:
    plates.write_plate(tmp_path / "p", WELLS)
    plate = open_plate(tmp_path / "p")

    class Broken:
        is_remote = False
        files = None

        def fetch(self, *_: object) -> None:
            raise MemoryError

        grab = fetch

    reader = FieldReader(Broken())  # type: ignore[arg-type]
    [first, *_] = reader.stream(requests_of(plate))
    assert "field A/1/0/0 of 45 x 51 px does not fit in memory" in str(first)


def test_tensors_that_share_memory_keep_their_pixels(plates: ModuleType, tmp_path: Path) -> None:
    written = plates.write_plate(tmp_path / "p", WELLS)
    plate = open_plate(tmp_path / "p")
    reader = FieldReader(plate.storage)
    tensors = []
    for _ in range(3):
        for pixels in reader.stream(requests_of(plate)):
            assert not isinstance(pixels, PixelError)
            tensors.append(torch.from_numpy(pixels)[1])
    for tensor, other in zip(tensors, list(written.values()) * 3, strict=True):
        np.testing.assert_array_equal(tensor.numpy(), other[1])


def test_zarr_python_is_named_once_a_kind(
    plates: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written = plates.write_plate(tmp_path / "p", WELLS)
    for path in written:
        array = tmp_path / "p" / path / "0/.zarray"
        plates.edit_json(array, lambda d: d.update(fill_value="0"))
    plate = open_plate(tmp_path / "p")
    for pixels, other in zip(
        FieldReader(plate.storage).stream(requests_of(plate)), written.values(), strict=True
    ):
        np.testing.assert_array_equal(pixels, other)  # type: ignore[arg-type]
    [record] = caplog.records
    assert "read by zarr-python" in record.getMessage()
    assert "fill value" in record.getMessage()


def test_time_points_in_one_chunk_are_decoded_once(
    plates: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unidino_fast.reading import codecs

    layout = {"axes": "tcyx", "chunks": (2, 3, 45, 51), "codec": "zstd"}
    written = plates.write_plate(tmp_path / "p", {"A/1": ["0"]}, **layout)["A/1/0"]
    plate = open_plate(tmp_path / "p")
    decoded = []
    original = codecs.zstd_into

    def counted(stored: memoryview, out: Any) -> None:
        decoded.append(len(stored))
        original(stored, out)

    monkeypatch.setattr(codecs, "zstd_into", counted)
    requests = [FieldRequest(plate.fields[0], time, (2, 0), "max") for time in (0, 1)]
    found = list(FieldReader(plate.storage).stream(requests))
    np.testing.assert_array_equal(np.stack(found), written[:, [2, 0]])  # type: ignore[arg-type]
    assert len(decoded) == 1
