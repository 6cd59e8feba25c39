"""zarr-python's compressors, made to refuse chunks that lie about their length.

On the way by zarr-python a filter may stand between a compressor and the pixels, so the decoded
size is not known there; what is known is a size that cannot be meant.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from numcodecs import Blosc, GZip, Zlib, Zstd
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

from unidino_fast.reading.codecs import blosc_size, zstd_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from zarr.abc.codec import BytesBytesCodec
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer

    from unidino_fast.ngff import ArrayFacts

_WIDEST = 16
"""How many times more bytes than its pixels a chunk may have between two of its codecs."""
_LEAST = 2**20


def most_of(facts: ArrayFacts) -> int:
    """Bytes that a stored object of an array, or anything that it decodes to, may have."""
    n_bytes = math.prod(facts.shards or facts.chunks) * np.dtype(facts.dtype).itemsize
    return _LEAST + _WIDEST * n_bytes


def guarded(document: dict[str, Any], facts: ArrayFacts) -> dict[str, Any]:
    """An array's document (v2 or v3) with its compressors, inside shards too, made ours."""
    most = most_of(facts)
    if "codecs" in document:
        return document | {"codecs": [_guarded_v3(codec, most) for codec in document["codecs"]]}
    filters = document.get("filters")
    if isinstance(filters, list):
        document = document | {"filters": [_guarded_v2(entry, most) for entry in filters]}
    return document | {"compressor": _guarded_v2(document.get("compressor"), most)}


def blosc_decoded(stored: memoryview, most: int) -> Any:
    """Decodes a blosc chunk; raises ValueError where it is truncated or too large."""
    _check(blosc_size(stored), most)
    return Blosc().decode(stored)


def zstd_decoded(stored: memoryview, most: int) -> Any:
    """Decodes a zstd frame; raises ValueError where it is none or too large."""
    declared = zstd_size(stored)
    if declared is None:
        import imagecodecs

        decode: Any = imagecodecs.zstd_decode
        return decode(stored, out=np.empty(most, np.uint8))  # as much as there is
    _check(declared, most)
    return Zstd().decode(stored)


def gzip_decoded(stored: memoryview, most: int) -> bytes:
    """Decodes gzip; raises ValueError where it is too large."""
    with gzip.GzipFile(fileobj=io.BytesIO(stored)) as file:
        found = file.read(most + 1)
    _check(len(found), most)
    return found


def zlib_decoded(stored: memoryview, most: int) -> bytes:
    """Decodes zlib's own format; raises ValueError where it is truncated or too large."""
    stream = zlib.decompressobj()
    found = stream.decompress(stored, most + 1)
    _check(len(found), most)
    if not stream.eof:
        raise ValueError("the zlib stream is truncated")
    return found


def _check(n_bytes: int, most: int) -> None:
    if n_bytes > most:
        raise ValueError(f"it holds {n_bytes} bytes or more, where at most {most} can be meant")


def _guarded_v2(entry: Any, most: int) -> Any:
    name = entry.get("id") if isinstance(entry, dict) else None
    found = _V2.get(name) if isinstance(name, str) else None
    if found is None:
        return entry
    kind, decode = found
    codec = type(f"Guarded{kind.__name__}", (_Guarded2, kind), {})(
        **{key: value for key, value in entry.items() if key != "id"}
    )
    codec.most, codec.decoded = most, decode
    return codec


class _Guarded2:
    """What a numcodecs codec does first when it is guarded."""

    most: int
    decoded: Callable[[memoryview, int], Any]

    def decode(self, buf: Any, out: Any = None) -> Any:
        found = self.decoded(_view(buf), self.most)
        if out is None:
            return found
        np.copyto(np.frombuffer(out, np.uint8), np.frombuffer(found, np.uint8))
        return out


def _guarded_v3(codec: Any, most: int) -> Any:
    if not isinstance(codec, dict):
        return codec
    name = codec.get("name")
    if name == "sharding_indexed":
        inner = codec["configuration"]
        codecs = [_guarded_v3(part, most) for part in inner["codecs"]]
        return codec | {"configuration": inner | {"codecs": codecs}}
    found = _V3.get(name.removeprefix("numcodecs.")) if isinstance(name, str) else None
    if found is None:
        return codec
    kind, decode = found
    bound = {"most": most, "decoded": staticmethod(decode)}
    guarded_kind: Any = type(f"Guarded{kind.__name__}", (_Guarded3, kind), bound)
    # numcodecs' configurations are spelt differently; what decodes needs none
    return guarded_kind.from_dict(codec) if name in _V3 else guarded_kind()


class _Guarded3:
    """What a zarr codec does instead; zarr decodes by one method or the other."""

    most: int
    decoded: Callable[[memoryview, int], Any]

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        import asyncio

        return await asyncio.to_thread(self._decode_sync, chunk_bytes, chunk_spec)

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        found = self.decoded(_view(chunk_bytes.as_numpy_array()), self.most)
        return chunk_spec.prototype.buffer.from_bytes(found)


def _view(buf: Any) -> memoryview:
    return np.frombuffer(buf, np.uint8).data


_V2: dict[str, tuple[type[Any], Callable[[memoryview, int], Any]]] = {
    "blosc": (Blosc, blosc_decoded),
    "zstd": (Zstd, zstd_decoded),
    "gzip": (GZip, gzip_decoded),
    "zlib": (Zlib, zlib_decoded),
}
_V3: dict[str, tuple[type[BytesBytesCodec], Callable[[memoryview, int], Any]]] = {
    "blosc": (BloscCodec, blosc_decoded),
    "zstd": (ZstdCodec, zstd_decoded),
    "gzip": (GzipCodec, gzip_decoded),
}
