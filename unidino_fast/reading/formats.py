"""An array's own document -> how its chunks are named, stored and decoded. Pure.

What stands here is the fast path, strictly: a document that says anything else goes to zarr-python,
which judges it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from unidino_fast.reading.codecs import CRC_BYTES, decompressor, most_stored

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from unidino_fast.ngff import ArrayFacts
    from unidino_fast.reading.codecs import Bytes, Decompress

_BYTE_ORDERS: dict[str | None, Literal["<", ">", "="]] = {"little": "<", "big": ">", None: "="}
_FLOATS = {"NaN": np.nan, "Infinity": np.inf, "-Infinity": -np.inf}
_MOST_IN_SHARD = 2**22
"""Chunks of one shard: its index is then 64 MiB."""


class UnsupportedError(Exception):
    """An array that zarr-python has to read; the text says why."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How one chunk is stored.

    Attributes:
        n_bytes: of the decoded chunk.
        decompress: None where the pixels are stored as they are.
        has_crc: the stored bytes end with their CRC32C.
    """

    n_bytes: int
    decompress: Decompress | None
    has_crc: bool

    @property
    def most(self) -> int:
        """Stored bytes that can be meant."""
        return most_stored(self.n_bytes)


@dataclass(frozen=True, slots=True)
class ShardFormat:
    """How the chunks of a shard are found.

    Attributes:
        grid: chunks along each axis.
        at_end: the index stands behind the chunks, not before them.
        has_crc: the index ends with its CRC32C.
        byte_order: `<` or `>`.
    """

    grid: tuple[int, ...]
    at_end: bool
    has_crc: bool
    byte_order: str

    @property
    def n_bytes(self) -> int:
        """Of the index."""
        return 16 * math.prod(self.grid) + CRC_BYTES * self.has_crc

    def rows(self, first: tuple[int, ...], n_chunks: int) -> Iterator[tuple[tuple[int, ...], int]]:
        """Chunks side by side along the last axis, shard by shard: the first of each, how many."""
        end = first[-1] + n_chunks
        while first[-1] < end:
            number = min(self.grid[-1] - first[-1] % self.grid[-1], end - first[-1])
            yield first, number
            first = (*first[:-1], first[-1] + number)


@dataclass(frozen=True, slots=True)
class ArrayFormat:
    """How an array is stored.

    Attributes:
        dtype: as stored, with its byte order.
        fill: value of chunks that are absent, native.
        chunks: shape of a chunk.
        order: `C` or `F`, of the pixels in a chunk.
        prefix: of a chunk's key, before its indices.
        separator: between them.
    """

    dtype: np.dtype[Any]
    fill: NDArray[Any]
    chunks: tuple[int, ...]
    order: str
    prefix: str
    separator: str
    encoding: Encoding
    shard: ShardFormat | None

    def pixels(self, decoded: Bytes) -> np.ndarray[Any, Any]:
        """The decoded bytes of a chunk as an array of its axes."""
        flat = decoded.view(self.dtype)
        if self.order == "C":
            return flat.reshape(self.chunks)
        return flat.reshape(self.chunks[::-1]).T


def format_of(facts: ArrayFacts) -> ArrayFormat:
    """How an array is stored.

    Raises:
        UnsupportedError: it is not one of the ways that are read here.
    """
    try:
        return _v2(facts) if facts.zarr_format == 2 else _v3(facts)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UnsupportedError("its metadata are unusual") from error


def _v2(facts: ArrayFacts) -> ArrayFormat:
    document = facts.document
    _expect(document["zarr_format"] == 2, "its format is unknown")
    _expect(document.get("filters") in (None, []), "it has filters")
    order, separator = document["order"], document.get("dimension_separator", ".")
    _expect(order in ("C", "F") and separator in (".", "/"), "its metadata are unusual")
    dtype = np.dtype(document["dtype"])
    compressor = document["compressor"]
    return ArrayFormat(
        dtype=dtype,
        fill=_fill(document.get("fill_value"), dtype),
        chunks=facts.chunks,
        order=order,
        prefix="",
        separator=separator,
        encoding=Encoding(
            math.prod(facts.chunks) * dtype.itemsize,
            None if compressor is None else _decompressor(compressor["id"]),
            has_crc=False,
        ),
        shard=None,
    )


def _v3(facts: ArrayFacts) -> ArrayFormat:
    document = facts.document
    _expect(document["zarr_format"] == 3, "its format is unknown")
    _expect(document["chunk_grid"]["name"] == "regular", "its chunks are not regular")
    _expect(not document.get("storage_transformers"), "it has storage transformers")
    keys = document["chunk_key_encoding"]
    _expect(keys["name"] in ("default", "v2"), "its chunk keys are unusual")
    is_default = keys["name"] == "default"
    separator = keys.get("configuration", {}).get("separator", "/" if is_default else ".")
    _expect(separator in (".", "/"), "its chunk keys are unusual")
    codecs, shard = document["codecs"], None
    if codecs[0]["name"] == "sharding_indexed":
        _expect(len(codecs) == 1, "its shards are encoded as a whole")
        shard = _shard(codecs[0]["configuration"], facts)
        codecs = codecs[0]["configuration"]["codecs"]
    byte_order, decompress, has_crc = _chain(codecs)
    dtype = np.dtype(facts.dtype).newbyteorder(byte_order)
    _expect(byte_order != "=" or dtype.itemsize == 1, "its byte order is not told")
    return ArrayFormat(
        dtype=dtype,
        fill=_fill(document.get("fill_value"), dtype),
        chunks=facts.chunks,
        order="C",
        prefix=f"c{separator}" if is_default else "",
        separator=separator,
        encoding=Encoding(math.prod(facts.chunks) * dtype.itemsize, decompress, has_crc),
        shard=shard,
    )


def _shard(configuration: dict[str, Any], facts: ArrayFacts) -> ShardFormat:
    index_codecs = configuration["index_codecs"]
    byte_order, decompress, has_crc = _chain(index_codecs)
    _expect(decompress is None and byte_order in ("<", ">"), "its shard index is compressed")
    location = configuration.get("index_location", "end")
    _expect(location in ("start", "end"), "its shard index is in an unknown place")
    pairs = list(zip(facts.shards or (), facts.chunks, strict=True))
    _expect(all(outer % inner == 0 for outer, inner in pairs), "its chunks do not fit its shards")
    grid = tuple(outer // inner for outer, inner in pairs)
    _expect(math.prod(grid) <= _MOST_IN_SHARD, "its shards have too many chunks")
    return ShardFormat(grid, location == "end", has_crc, byte_order)


def _chain(codecs: list[dict[str, Any]]) -> tuple[Literal["<", ">", "="], Decompress | None, bool]:
    """Byte order, decompressor and checksum of `bytes`, then at most one codec, then `crc32c`."""
    names = [codec["name"] for codec in codecs]
    _expect(names[:1] == ["bytes"], f"codec {'+'.join(map(str, names))[:60]} is not built in")
    endian = codecs[0].get("configuration", {}).get("endian")
    byte_order = _BYTE_ORDERS[endian]
    rest = names[1:]
    has_crc = rest[-1:] == ["crc32c"]
    rest = rest[:-1] if has_crc else rest
    _expect(len(rest) <= 1 and "zlib" not in rest, "its codecs are unusual")
    return byte_order, _decompressor(rest[0]) if rest else None, has_crc


def _decompressor(name: str) -> Decompress:
    found = decompressor(name)
    if found is None:
        raise UnsupportedError(f"codec {name!r} is not built in")
    return found


def _fill(value: object, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A fill value as a native array without axes; null is 0."""
    if dtype.kind == "f" and isinstance(value, str) and value in _FLOATS:
        value = _FLOATS[value]
    elif isinstance(value, float) and value.is_integer() and dtype.kind != "f":
        value = int(value)
    is_number = isinstance(value, int) or (dtype.kind == "f" and isinstance(value, float))
    _expect(value is None or (is_number and not isinstance(value, bool)), "its fill value is odd")
    filled = np.zeros((), dtype.newbyteorder("="))
    filled[...] = 0 if value is None else value
    return filled


def _expect(holds: object, reason: str) -> None:
    if not holds:
        raise UnsupportedError(reason)
