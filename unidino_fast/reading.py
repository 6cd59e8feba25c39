"""Executes reads: a field's stored chunks -> (C, Y, X) pixels in the stored dtype.

Arrays are built from the metadata that `open_plate` has parsed; nothing is read twice. Blocks
follow the chunks along channel and z, so each chunk of a field is decoded once and memory holds one
field and one block.
"""

from __future__ import annotations

import itertools
import math
import os
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from unidino_fast.errors import PixelError, first_line
from unidino_fast.names import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from zarr import Array
    from zarr.abc.store import Store

    from unidino_fast.plate_model import Field, Plate

    Pixels = NDArray[Any]

_MOST_CHUNKS = 1_000_000
"""Chunks of one block (a channel's planes, as a rule): more is a lie or a mistake."""

_CHUNK_KEY = re.compile(r"(c[/.])?[0-9]+([/.][0-9]+)*")


class FieldReader:
    """Reads fields of one plate; safe to use from several threads."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def read(self, field: Field, *, time: int, channels: Sequence[int], z: str | int) -> Pixels:
        """Pixels (C, Y, X) of some channels in native byte order.

        Args:
            field: what to read.
            time: index along t.
            channels: indices along c, in the order wanted.
            z: `max` or `mean` over the planes, or the index of one. The mean is rounded to the
                stored dtype.

        Raises:
            PixelError: a chunk cannot be read or decoded (names it), or the field is too large for
                this machine.
        """
        wanted = list(dict.fromkeys(channels))
        _check_size(field, len(wanted), z)
        try:
            planes = self._read(field, time, wanted, z)
        except MemoryError as error:
            raise PixelError(
                f"field {field.array_path} of {_size(field)} does not fit in memory"
            ) from error
        if wanted == list(channels):
            return planes
        return np.asarray(planes[[wanted.index(channel) for channel in channels]])

    def _read(self, field: Field, time: int, wanted: list[int], z: str | int) -> Pixels:
        planes = np.empty((len(wanted), field.height, field.width), dtype=field.array.dtype)
        depth = range(field.length("z")) if isinstance(z, str) else range(z, z + 1)
        array = self._open(field)
        for block in _aligned(wanted, _chunk(field, "c")):
            total: Pixels | None = None
            for part in _aligned(depth, _chunk(field, "z")):
                pixels = self._read_block(array, field, time, block, part)
                total = _reduced(total, pixels, z)
            if total is None:
                raise PixelError(f"field {field.array_path} has no z plane")
            if z == "mean":
                total = total / len(depth)
                total = np.rint(total) if planes.dtype.kind in "iu" else total
            planes[[wanted.index(channel) for channel in block]] = total
        return planes

    def _open(self, field: Field) -> Array[Any]:
        """The zarr array, from metadata in hand."""
        import zarr
        from zarr.core.metadata import ArrayV2Metadata, ArrayV3Metadata
        from zarr.storage import StorePath

        from unidino_fast.blosc_guard import guarded

        kind = ArrayV2Metadata if field.array.zarr_format == 2 else ArrayV3Metadata
        document = dict(field.array.document)
        if document.get("fill_value") is None:
            document["fill_value"] = 0
        try:
            metadata = kind.from_dict(guarded(document))
            place = StorePath(self._store, field.array_path)
            return zarr.Array(zarr.AsyncArray(metadata=metadata, store_path=place))
        except Exception as error:  # zarr's and numcodecs' parsers raise whatever they like
            raise PixelError(
                f"array {field.array_path} cannot be opened: {one_line(first_line(error))}"
            ) from error

    def _read_block(
        self, array: Array[Any], field: Field, time: int, channels: list[int], depth: list[int]
    ) -> Pixels:
        """Pixels (C, Z, Y, X) of one block of channels and planes."""
        y, x = (field.region.y, field.region.x) if field.region else (0, 0)
        spans = {
            "t": slice(time, time + 1),
            "c": slice(channels[0], channels[-1] + 1),
            "z": slice(depth[0], depth[-1] + 1),
            "y": slice(y, y + field.height),
            "x": slice(x, x + field.width),
        }
        selection = tuple(spans[axis] for axis in field.axes)
        try:
            pixels: Pixels = np.asarray(array[selection])
        except Exception as error:  # codecs and stores raise whatever they like
            key, reason = _faulty_chunk(array, field, selection) or (field.array_path, error)
            raise PixelError(
                f"chunk {key} cannot be read ({one_line(first_line(reason))}): restore it from its"
                " source, or leave its well out with --on-error skip"
            ) from error
        pixels = pixels.transpose([field.axes.index(a) for a in "tczyx" if a in field.axes])
        for position, axis in enumerate("tcz"):
            if axis not in field.axes:
                pixels = np.expand_dims(pixels, position)
        block: Pixels = pixels[0]
        if len(channels) < len(block):
            block = block[[channel - channels[0] for channel in channels]]
        return block


def _reduced(total: Pixels | None, pixels: Pixels, z: str | int) -> Pixels:
    """Takes a block (C, Z, Y, X) into the projection so far (C, Y, X)."""
    block: Pixels
    if z == "max":
        block = pixels.max(axis=1)
        return block if total is None else np.maximum(total, block)
    if z == "mean":
        block = pixels.sum(axis=1, dtype=np.float64)
        return block if total is None else np.add(total, block)
    return pixels[:, 0]


def _chunk(field: Field, axis: str) -> int:
    return field.array.chunks[field.axes.index(axis)] if axis in field.axes else 1


def _aligned(indices: Sequence[int], chunk: int) -> Iterator[list[int]]:
    """Splits indices into runs that share a chunk along their axis."""
    for _, group in itertools.groupby(sorted(indices), key=lambda index: index // chunk):
        yield list(group)


def _size(field: Field) -> str:
    return f"{field.height} x {field.width} px"


def _check_size(field: Field, n_channels: int, z: str | int) -> None:
    """Refuses what cannot be meant, before anything is allocated."""
    n_chunks = (-(-field.height // _chunk(field, "y")) + 1) * (
        -(-field.width // _chunk(field, "x")) + 1
    )
    if n_chunks > _MOST_CHUNKS:
        raise PixelError(
            f"field {field.array_path} of {_size(field)} lies in {n_chunks} chunks a plane:"
            f" at most {_MOST_CHUNKS} are read"
        )
    depth = min(_chunk(field, "z"), field.length("z")) if isinstance(z, str) else 1
    planes = n_channels + min(_chunk(field, "c"), n_channels) * depth
    n_bytes = planes * field.height * field.width * np.dtype(field.array.dtype).itemsize
    if n_bytes > (memory := _memory_bytes()):
        raise PixelError(
            f"field {field.array_path} of {_size(field)} needs {n_bytes / 2**30:.0f} GiB to be"
            f" read, but this machine has {memory / 2**30:.0f} GiB"
        )


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not told by this system
        return 2**48


def _faulty_chunk(
    array: Array[Any], field: Field, selection: tuple[slice, ...]
) -> tuple[str, BaseException] | None:
    """The first chunk in a selection that does not decode alone, and why."""
    stored = field.array.shards or field.array.chunks
    ranges = [
        range(span.start // size, (span.stop - 1) // size + 1)
        for span, size in zip(selection, stored, strict=True)
    ]
    for index in itertools.product(*ranges):
        part = tuple(slice(i * size, (i + 1) * size) for i, size in zip(index, stored, strict=True))
        try:
            array[part]
        except Exception as error:  # the same fault again, now with its place known
            return f"{field.array_path}/{array.metadata.encode_chunk_key(index)}", error
    return None


def stored_chunks(plate: Plate) -> tuple[int | None, int | None, int]:
    """Bytes on disk, chunks (or shards) that are not there, and how many there should be.

    The first two are None where the storage cannot tell.
    """
    n_bytes, n_found, n_chunks = 0, 0, 0
    for path, field in {field.array_path: field for field in plate.fields}.items():
        grid = field.array.shards or field.array.chunks
        n_chunks += math.prod(
            -(-length // size) for length, size in zip(field.array.shape, grid, strict=True)
        )
        stamps = plate.storage.stamps(path)
        if stamps is None:
            return None, None, n_chunks
        sizes = [size for key, size, _ in stamps if _CHUNK_KEY.fullmatch(key, len(path) + 1)]
        n_bytes += sum(sizes)
        n_found += len(sizes)
    return n_bytes, max(n_chunks - n_found, 0), n_chunks
