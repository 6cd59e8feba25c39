"""Simulated fields, stored in every layout that is measured.

Letters: F fields, C channels; a field is (C, Y, X) uint16.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from unidino_fast.ngff import parse_array
from unidino_fast.plate_model import Field

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from unidino_fast.ngff import ArrayFacts

    Pixels = NDArray[np.uint16]

EDGE = 1080
CHANNELS = ("DNA", "ER", "AGP", "Mito")
CODECS = ("raw", "blosc-lz4", "blosc-zstd", "zstd", "gzip", "sharded")
"""`sharded` is v3: blosc-lz4 chunks, a plane (or, where a chunk is a plane, a field) a shard."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How the fields are stored.

    Attributes:
        codec: one of `CODECS`.
        chunk: edge of a chunk, pixels.
    """

    codec: str
    chunk: int

    @property
    def chunks(self) -> tuple[int, int, int]:
        """Shape of a chunk."""
        return 1, self.chunk, self.chunk

    @property
    def shards(self) -> tuple[int, int, int] | None:
        """Shape of a shard."""
        if self.codec != "sharded":
            return None
        return (len(CHANNELS) if self.chunk == EDGE else 1), EDGE, EDGE


@dataclass(frozen=True, slots=True)
class Stored:
    """Fields in one layout.

    Attributes:
        root: folder with an array a field, named by number.
        pixels: that each holds.
        n_bytes: stored.
    """

    layout: Layout
    root: Path
    pixels: list[Pixels]
    n_bytes: int

    @property
    def pixel_bytes(self) -> int:
        """Of all fields, decoded."""
        return sum(one.nbytes for one in self.pixels)

    def fields(self) -> list[Field]:
        """The arrays as `open_plate` gives them."""
        version = 2 if self.layout.shards is None else 3
        name = ".zarray" if version == 2 else "zarr.json"
        facts: dict[str, ArrayFacts] = {}  # one for all arrays that say the same, as there
        found = []
        for number in range(len(self.pixels)):
            said = (self.root / str(number) / name).read_text()
            if said not in facts:
                facts[said] = parse_array(json.loads(said), cast("Any", version))
            path = str(number)
            facts_of_all = (path, path, "cyx", facts[said], CHANNELS, None, None)
            found.append(Field(*facts_of_all, metadata_digest=""))
        return found


def simulated(n_fields: int) -> list[Pixels]:
    """Fields of cells with the noise of a camera: one is drawn, the others are turns of it."""
    from unidino_fast.simulate.field import simulate_field

    drawn = simulate_field(np.random.default_rng(0), size=(EDGE, EDGE), channels=CHANNELS)
    turns = [np.rot90(drawn, turn % 4, axes=(1, 2)) for turn in range(n_fields)]
    return [np.ascontiguousarray(np.roll(one, turn, 0)) for turn, one in enumerate(turns)]


def store(layout: Layout, pixels: list[Pixels], root: Path) -> Stored:
    """Writes fields by zarr-python."""
    import zarr

    for number, field in enumerate(pixels):
        array: Any = zarr.create_array(
            root / str(number),
            shape=field.shape,
            chunks=layout.chunks,
            shards=layout.shards,
            dtype=field.dtype,
            compressors=_compressor(layout.codec),
            zarr_format=2 if layout.shards is None else 3,
            chunk_key_encoding=None if layout.shards else {"name": "v2", "separator": "/"},
        )
        array[...] = field
    n_bytes = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    return Stored(layout, root, pixels, n_bytes)


def _compressor(codec: str) -> Any:
    from numcodecs import Blosc, GZip, Zstd
    from zarr.codecs import BloscCodec

    return {
        "raw": None,
        "blosc-lz4": Blosc("lz4", 5, Blosc.SHUFFLE),
        "blosc-zstd": Blosc("zstd", 3, Blosc.BITSHUFFLE),
        "zstd": Zstd(3),
        "gzip": GZip(5),
        "sharded": BloscCodec(typesize=2, cname="lz4", clevel=5, shuffle="shuffle"),
    }[codec]
