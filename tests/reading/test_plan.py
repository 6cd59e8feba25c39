"""Plans: every pixel once, neighbours joined where that is right, one plan for fields alike."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from unidino_fast.errors import PixelError
from unidino_fast.ngff import parse_array
from unidino_fast.plate_model import Field, Region
from unidino_fast.reading import FieldReader, FieldRequest
from unidino_fast.reading import recipe as recipe_module
from unidino_fast.reading.plan import Place, runs
from unidino_fast.reading.recipe import recipe
from unidino_fast.reading.shards import Indices
from unidino_fast.storage import FolderStorage

if TYPE_CHECKING:
    from pathlib import Path


def empty(root: Path, shape: tuple[int, ...], chunks: tuple[int, ...], fill: int = 0) -> Field:
    """A field of an array `czyx` without chunks."""
    zarr.create_array(
        root,
        shape=shape,
        chunks=chunks,
        dtype="uint16",
        compressors=None,
        zarr_format=2,
        fill_value=fill,
    )
    facts = parse_array(json.loads((root / ".zarray").read_text()), 2)
    return Field(
        root.name,
        root.name,
        "czyx",
        facts,
        tuple("abc")[: shape[0]],
        None,
        None,
        metadata_digest="",
    )


def write(root: Path, shape: tuple[int, ...], chunks: tuple[int, ...], fill: int = 0) -> Field:
    """A field of random pixels."""
    field = empty(root, shape, chunks, fill)
    random = np.random.default_rng([ord(letter) for letter in root.name])
    zarr.open_array(root)[...] = random.integers(1, 2**16, shape, np.uint16)
    return field


def request(field: Field, z: str | int = "max") -> FieldRequest:
    return FieldRequest(field, 0, tuple(range(len(field.channels))), z)


@pytest.mark.parametrize("most", [1, 2, 3, 100])
@pytest.mark.parametrize("fits", [True, False])
@pytest.mark.parametrize("region", [None, Region(3, 5, 20, 31), Region(7, 0, 1, 40)])
def test_every_pixel_is_planned_once(
    most: int, fits: bool, region: Region | None, tmp_path: Path
) -> None:
    field = replace(empty(tmp_path / "0", (2, 1, 30, 47), (1, 1, 7, 9)), region=region)
    found = np.zeros((2, field.height, field.width), int)
    for run in runs([request(field)], most=most, fits=fits):
        assert sum(len(strip.places) for strip in run.strips) <= most
        assert run.n_places == max(len(strip.places) for strip in run.strips)
        assert run.requests == (0,)
        for strip in run.strips:
            (target,) = strip.targets
            height, width = (span.stop - span.start for span in target.of)
            for position, _ in target.channels:
                pixels = found[position][target.to]
                assert pixels.shape == (height, len(strip.places) * width)
                pixels += 1
    np.testing.assert_array_equal(found, 1)


def test_only_whole_neighbours_of_a_row_are_joined(tmp_path: Path) -> None:
    field = empty(tmp_path / "0", (1, 1, 14, 47), (1, 1, 7, 9))
    (run,) = runs([request(field)], most=100, fits=True)
    row = [[Place(0, 0, y, x) for x in range(5)] for y in (0, 1)]
    cropped = [[Place(0, 0, y, 5)] for y in (0, 1)]
    assert [strip.places for strip in run.strips] == [row[0], cropped[0], row[1], cropped[1]]


def test_what_two_fields_share_is_joined_with_nothing(tmp_path: Path) -> None:
    """Regions of 22 px meet in the middle of the third chunk of 9 px."""
    whole = empty(tmp_path / "0", (1, 1, 9, 45), (1, 1, 9, 9))
    left, right = (replace(whole, region=Region(0, x, 9, 22)) for x in (0, 22))
    (run,) = runs([request(left), request(right)], most=100, fits=True)
    assert run.requests == (0, 1)
    assert run.n_targets == 2
    found = [([place.x for place in strip.places], len(strip.targets)) for strip in run.strips]
    assert found == [([0, 1], 1), ([2], 2), ([3], 1), ([4], 1)]


@pytest.mark.parametrize(
    ("chunk", "most", "n_threads", "lengths"),
    [
        (40, 2, 1, [2, 1]),
        (40, 2, 2, [2, 1]),
        (40, 2, 8, [1, 1, 1]),  # no thread is idle
        (10, 5, 1, [8] * 6),  # whole rows of four
        (10, 48, 1, [48]),
        (10, 48, 2, [24, 24]),
        (10, 48, 5, [12, 12, 12, 12]),
        (10, 3, 2, [3] * 16),
    ],
)
def test_threads_share_a_field(
    chunk: int, most: int, n_threads: int, lengths: list[int], tmp_path: Path
) -> None:
    field = empty(tmp_path / "0", (3, 1, 40, 40), (1, 1, chunk, chunk))
    found = runs([request(field)], most=most, fits=True, n_threads=n_threads)
    assert [sum(len(strip.places) for strip in run.strips) for run in found] == lengths


@pytest.mark.parametrize(
    ("chunks", "wholes"),
    [
        ((1, 1, 30, 47), [(slice(0, 1), slice(0, 30)), (slice(1, 2), slice(0, 30))]),
        ((2, 1, 30, 47), [(slice(0, 2), slice(0, 30))]),
        ((1, 1, 15, 47), [(slice(c, c + 1), slice(y, y + 15)) for c in (0, 1) for y in (0, 15)]),
        ((2, 1, 15, 47), [None, None]),  # of two planes, apart in the field
        ((1, 1, 30, 24), [None, None, None, None]),  # rows are apart; the second is cut
        ((1, 1, 32, 47), [None, None]),  # longer than the field
    ],
)
def test_chunks_whose_bytes_stand_together_in_the_field(
    chunks: tuple[int, ...], wholes: list[Any], tmp_path: Path
) -> None:
    field = empty(tmp_path / "0", (2, 1, 30, 47), chunks)
    found = [
        strip.whole
        for run in runs([request(field)], most=1, fits=True)
        for strip in run.strips
    ]  # fmt: skip
    assert found == [None if whole is None else (*whole, slice(0, 47)) for whole in wholes]


def test_which_fields_are_alike(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path, location="here")
    one = empty(tmp_path / "0", (2, 1, 30, 47), (1, 1, 7, 9))
    found = recipe([request(one)], storage, Indices(), n_threads=2)
    assert found.suits([request(empty(tmp_path / "11", (2, 1, 30, 47), (1, 1, 7, 9)))])
    told = {**one.array.document, "attributes": {"stage": [1, 2]}}
    assert found.suits([request(replace(one, array=replace(one.array, document=told)))])
    odd = {**one.array.document, "fill_value": False}  # equal to 0 in Python, and no number
    unlike = [
        request(replace(one, array=replace(one.array, document=odd))),
        request(replace(one, array=replace(one.array, dtype="int16"))),
        request(replace(one, axes="tcyx")),
        request(replace(one, region=Region(0, 0, 30, 46))),
        request(empty(tmp_path / "1", (2, 1, 30, 47), (1, 1, 7, 8))),
        request(empty(tmp_path / "2", (2, 1, 30, 46), (1, 1, 7, 9))),
        request(empty(tmp_path / "3", (2, 1, 30, 47), (1, 1, 7, 9), fill=3)),
        replace(request(one), channels=(1, 0)),
        replace(request(one), time=1),
        replace(request(one), z=0),
    ]
    assert not any(found.suits([each]) for each in unlike)
    assert not found.suits([request(one), request(one)])


def test_another_stream_may_take_the_place_of_a_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any moment: here right after it has been looked at."""
    field = write(tmp_path / "0", (2, 1, 30, 45), (1, 1, 7, 9))
    written = zarr.open_array(tmp_path / "0", mode="r")[:, 0]
    storage = FolderStorage(tmp_path, location="here")
    reader = FieldReader(storage, n_threads=2)
    other = recipe([replace(request(field), channels=(1,))], storage, Indices(), n_threads=2)
    suits = recipe_module.Recipe.suits

    def swapped(self: Any, requests: Any) -> bool:
        found = suits(self, requests)
        monkeypatch.setattr(reader, "_recipe", other)
        return found

    monkeypatch.setattr(recipe_module.Recipe, "suits", swapped)
    for _ in range(3):
        pixels = reader.read(field, time=0, channels=(0,), z="max")
        np.testing.assert_array_equal(pixels, written[:1])  # type: ignore[index]


def test_a_recipe_is_made_once_for_fields_that_are_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def counted(*arguments: Any, **options: Any) -> Any:
        asked.append(arguments)
        return runs(*arguments, **options)

    monkeypatch.setattr(recipe_module, "runs", counted)
    alike = [write(tmp_path / str(n), (2, 1, 30, 45), (1, 1, 7, 9)) for n in range(3)]
    unlike = write(tmp_path / "other", (2, 1, 30, 45), (1, 1, 30, 45))
    fields = [*alike, unlike, alike[0]]
    reader = FieldReader(FolderStorage(tmp_path, location="here"), n_threads=2)
    for field, pixels in zip(fields, reader.stream(map(request, fields)), strict=True):
        written = zarr.open_array(tmp_path / field.array_path, mode="r")[:, 0]
        np.testing.assert_array_equal(pixels, written)  # type: ignore[arg-type]
    assert len(asked) == 3


@pytest.mark.parametrize("z", ["max", "mean", 1])
def test_absent_chunks_of_a_row_are_filled(z: str | int, tmp_path: Path) -> None:
    field = write(tmp_path / "0", (3, 2, 14, 40), (1, 1, 7, 9), fill=7)
    for key in ("0/0.0.0.1", "0/1.1.1.0", "0/1.0.1.0", "0/2.1.0.3"):
        (tmp_path / key).unlink()
    stack = np.asarray(zarr.open_array(tmp_path / "0", mode="r")[...])
    assert (stack[0, 0, :7, 9:18] == 7).all()
    wanted = {"max": stack.max(1), "mean": np.rint(stack.mean(1)), 1: stack[:, 1]}[z]
    reader = FieldReader(FolderStorage(tmp_path, location="here"), n_threads=1)
    found = reader.read(field, time=0, channels=(2, 0, 1), z=z)
    np.testing.assert_array_equal(found, wanted[[2, 0, 1]])


def test_a_broken_chunk_within_a_row_is_named(tmp_path: Path) -> None:
    fields = [write(tmp_path / str(n), (1, 1, 14, 45), (1, 1, 7, 9)) for n in range(3)]
    (tmp_path / "1/0.0.1.3").write_bytes(b"short")
    reader = FieldReader(FolderStorage(tmp_path, location="here"), n_threads=2)
    found = list(reader.stream(map(request, fields)))
    assert [isinstance(each, PixelError) for each in found] == [False, True, False]
    assert "chunk 1/0.0.1.3 cannot be read (it holds 5 bytes of pixels, not 126)" in str(found[1])


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_rows_across_shards(codec: str, tmp_path: Path) -> None:
    """Five chunks wide on shards of two, some of them absent, their chunks in any order."""
    array = zarr.create_array(
        tmp_path / "0",
        shape=(2, 14, 45),
        chunks=(1, 7, 9),
        shards=(1, 14, 18),
        dtype="uint16",
        compressors=None if codec == "none" else zarr.codecs.ZstdCodec(),
        fill_value=7,
    )
    random = np.random.default_rng(0)
    written = random.integers(1, 2**16, array.shape, np.uint16)
    written[1, :7, 9:18] = 7  # not stored, in a shard that is
    array[...] = written
    (tmp_path / "0/c/0/0/1").unlink()
    written[0, :, 18:36] = 7
    facts = parse_array(json.loads((tmp_path / "0/zarr.json").read_text()), 3)
    field = Field("0", "0", "cyx", facts, ("a", "b"), None, None, metadata_digest="")
    reader = FieldReader(FolderStorage(tmp_path, location="here"), n_threads=2)
    np.testing.assert_array_equal(reader.read(field, time=0, channels=(0, 1), z="max"), written)
    broken = tmp_path / "0/c/1/0/2"
    broken.write_bytes(broken.read_bytes()[:100])  # within the first chunk; the index is known
    with pytest.raises(PixelError, match=r"chunk 0/c/1/0/2 cannot be read \("):
        reader.read(field, time=0, channels=(1,), z="max")
