"""Fields by zarr-python, for arrays that are stored in ways which `formats` does not know."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from unidino_fast.errors import PixelError, first_line
from unidino_fast.names import one_line
from unidino_fast.reading.faults import chunk_error
from unidino_fast.reading.plan import chunk, layers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from zarr import Array

    from unidino_fast.plate_model import Field
    from unidino_fast.reading.plan import FieldRequest
    from unidino_fast.storage import Storage

    Pixels = NDArray[Any]


def read_into(planes: Pixels, request: FieldRequest, storage: Storage) -> None:
    """Reads a field's pixels (C, Y, X), a block of channels and planes that share chunks at a time.

    Chunks that other fields share are read again for each of them.

    Raises:
        PixelError: zarr-python does not know the array, or a chunk cannot be read (names it).
    """
    field, z = request.field, request.z
    array = _open(field, storage)
    for block in _aligned(request.channels, chunk(field, "c")):
        total: Pixels | None = None
        n_planes = 0
        for layer, within in layers(field, z):
            first = layer * chunk(field, "z") + within.start
            n_planes += len(within)
            pixels = _block(array, request, block, slice(first, first + len(within)))
            total = _reduced(total, pixels, z)
        if total is None:
            raise PixelError(f"field {field.array_path} has no z plane")
        if z == "mean":
            total = total / n_planes
            total = np.rint(total) if planes.dtype.kind in "iu" else total
        planes[[request.channels.index(channel) for channel in block]] = total


def _open(field: Field, storage: Storage) -> Array[Any]:
    """The zarr array, from metadata in hand."""
    import zarr
    from zarr.core.metadata import ArrayV2Metadata, ArrayV3Metadata
    from zarr.storage import StorePath

    from unidino_fast.reading.guard import guarded, most_of
    from unidino_fast.storage.zarr_store import StorageStore

    kind = ArrayV2Metadata if field.array.zarr_format == 2 else ArrayV3Metadata
    document = dict(field.array.document)
    if document.get("fill_value") is None:
        document["fill_value"] = 0
    try:
        metadata = kind.from_dict(guarded(document, field.array))
        place = StorePath(StorageStore(storage, most=most_of(field.array)), field.array_path)
        return zarr.Array(zarr.AsyncArray(metadata=metadata, store_path=place))
    except Exception as error:  # zarr's and numcodecs' parsers raise whatever they like
        raise PixelError(
            f"array {field.array_path} cannot be opened: {one_line(first_line(error))}"
        ) from error


def _block(array: Array[Any], request: FieldRequest, channels: list[int], planes: slice) -> Pixels:
    """Pixels (C, Z, Y, X) of one block of channels and planes."""
    field = request.field
    y, x = (field.region.y, field.region.x) if field.region else (0, 0)
    spans = {
        "t": slice(request.time, request.time + 1),
        "c": slice(channels[0], channels[-1] + 1),
        "z": planes,
        "y": slice(y, y + field.height),
        "x": slice(x, x + field.width),
    }
    selection = tuple(spans[axis] for axis in field.axes)
    try:
        pixels: Pixels = np.asarray(array[selection])
    except Exception as error:  # codecs and stores raise whatever they like
        key, reason = _faulty_chunk(array, field, selection) or (field.array_path, error)
        raise chunk_error(key, reason) from error
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


def _aligned(indices: Sequence[int], chunk: int) -> Iterator[list[int]]:
    """Splits indices into runs that share a chunk along their axis."""
    for _, group in itertools.groupby(sorted(indices), key=lambda index: index // chunk):
        yield list(group)


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
