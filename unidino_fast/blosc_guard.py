"""Blosc codecs that refuse a chunk of the wrong length.

c-blosc trusts the length in a chunk's header: of a truncated chunk it reads whatever stands behind
it in memory, and gives that out as pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numcodecs import Blosc
from zarr.codecs import BloscCodec

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer

_HEADER = 16


def guarded(document: dict[str, Any]) -> dict[str, Any]:
    """An array's document (v2 or v3) with its blosc codecs, inside shards too, made ours."""
    if "codecs" in document:
        return document | {"codecs": [_guarded_v3(codec) for codec in document["codecs"]]}
    compressor = document.get("compressor")
    if isinstance(compressor, dict) and compressor.get("id") == Blosc.codec_id:
        config = {name: value for name, value in compressor.items() if name != "id"}
        return document | {"compressor": GuardedBlosc(**config)}
    return document


def _guarded_v3(codec: Any) -> Any:
    if not isinstance(codec, dict):
        return codec
    if codec.get("name") == "blosc":
        return GuardedBloscCodec.from_dict(codec)
    if codec.get("name") == "sharding_indexed":
        inner = codec["configuration"]
        codecs = [_guarded_v3(part) for part in inner["codecs"]]
        return codec | {"configuration": inner | {"codecs": codecs}}
    return codec


class GuardedBlosc(Blosc):  # type: ignore[misc]
    """For Zarr v2."""

    def decode(self, buf: Any, out: Any = None) -> Any:
        """Decompresses a whole chunk."""
        _check(np.frombuffer(buf, np.uint8))
        return super().decode(buf, out)


class GuardedBloscCodec(BloscCodec):
    """For Zarr v3; zarr decodes by the one method or the other, as its version may be."""

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        _check(chunk_bytes.as_numpy_array())
        return await super()._decode_single(chunk_bytes, chunk_spec)

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        _check(chunk_bytes.as_numpy_array())
        return super()._decode_sync(chunk_bytes, chunk_spec)


def _check(chunk: NDArray[np.uint8]) -> None:
    length = int.from_bytes(chunk[_HEADER - 4 : _HEADER].tobytes(), "little")
    if len(chunk) < _HEADER or len(chunk) != length:
        raise ValueError(f"{len(chunk)} bytes where blosc says {length}: the chunk is truncated")
