"""Ways to read fields: each gives the pixels of all fields in order, or raises ImportError.

None forks: decoders with threads of their own hang or abort in a child.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from unidino_fast.reading import FieldReader, FieldRequest
from unidino_fast.storage import FolderStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from unidino_fast.benchmarks.reading.layouts import Stored

    Read = Callable[[], Iterator[NDArray[Any]]]

OURS = "unidino_fast"
BARE = "numcodecs into a ready buffer"
LOOP = "zarr-python loop"
_AHEAD = 2
"""Fields that others are asked for ahead, where they can."""


def ours(stored: Stored, n_threads: int) -> Read:
    """What `embed` runs."""
    storage = FolderStorage(stored.root, location=str(stored.root))
    reader = FieldReader(storage, n_threads=n_threads)
    channels = tuple(range(len(stored.pixels[0])))
    requests = [FieldRequest(field, 0, channels, "max") for field in stored.fields()]

    def read() -> Iterator[NDArray[Any]]:
        for pixels in reader.stream(requests):
            if isinstance(pixels, Exception):
                raise pixels
            yield pixels

    return read


def bare(stored: Stored, n_threads: int) -> Read:
    """Files into one ready buffer of a thread, decoded into another that holds a field.

    The bytes are right, but not where they belong: a field's chunks stand one after another.
    Nothing is looked for, named, checked or placed, and no pixels are given out.
    """
    decode = _decoder(stored.layout.codec)
    pieces = [piece for number in range(len(stored.pixels)) for piece in _pieces(stored, number)]
    n_bytes = 2 * stored.layout.chunk**2
    n_places = stored.pixels[0].nbytes // n_bytes
    local = threading.local()

    def share(number: int) -> None:
        if not hasattr(local, "field"):
            local.field = np.zeros((n_places, n_bytes), np.uint8)
            local.stored = bytearray(2 * n_bytes + 65_536)
        for place, (path, start, length) in enumerate(pieces[number::n_threads]):
            view = memoryview(local.stored)[:length]
            with path.open("rb", buffering=0) as file:
                file.seek(start)
                file.readinto(view)
            decode(view, local.field[place % n_places])

    def read() -> Iterator[NDArray[Any]]:
        if n_threads == 1:
            share(0)
        else:
            list(pool.map(share, range(n_threads)))
        return iter(())

    pool = ThreadPoolExecutor(n_threads)
    return read


def zarr_loop(stored: Stored) -> Read:
    """A loop over opened arrays."""
    arrays = _zarr_arrays(stored)
    return lambda: (np.asarray(array[...]) for array in arrays)


def zarr_threads(stored: Stored) -> Read:
    """Two threads over opened arrays."""
    arrays = _zarr_arrays(stored)
    pool = ThreadPoolExecutor(2)
    return lambda: pool.map(lambda array: np.asarray(array[...]), arrays)


def zarrs(stored: Stored) -> Read:
    """The loop, with the codec pipeline in Rust."""
    import zarr
    import zarrs as _  # noqa: F401 (registers itself)

    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        arrays = _zarr_arrays(stored)
    return lambda: (np.asarray(array[...]) for array in arrays)


def tensorstore(stored: Stored) -> Read:
    """Opened arrays, asked for ahead; with as many threads as it likes."""
    import tensorstore as ts

    driver = "zarr" if stored.layout.shards is None else "zarr3"
    arrays = [
        ts.open(
            {"driver": driver, "kvstore": {"driver": "file", "path": f"{stored.root / str(n)}/"}},
            open=True,
        ).result()
        for n in range(len(stored.pixels))
    ]

    def read() -> Iterator[NDArray[Any]]:
        waiting: list[Any] = [array.read() for array in arrays[:_AHEAD]]
        for number in range(len(arrays)):
            if number + _AHEAD < len(arrays):
                waiting.append(arrays[number + _AHEAD].read())
            found, waiting[number] = waiting[number].result(), None
            yield found

    return read


def dask_array(stored: Stored) -> Read:
    """A `dask.array` of each opened array, computed by two threads."""
    import dask.array

    wrap: Any = dask.array.from_array
    arrays = [wrap(array, chunks=stored.layout.chunks) for array in _zarr_arrays(stored)]
    return lambda: (one.compute(scheduler="threads", num_workers=2) for one in arrays)


def readers() -> dict[str, Callable[[Stored], Read]]:
    """All ways by name, those that `rows` compare with first."""
    return {
        f"{BARE}, 2 threads": lambda stored: bare(stored, 2),
        f"{BARE}, 1 thread": lambda stored: bare(stored, 1),
        LOOP: zarr_loop,
        f"{OURS}, 2 threads": lambda stored: ours(stored, 2),
        f"{OURS}, 1 thread": lambda stored: ours(stored, 1),
        "zarr-python, 2 threads": zarr_threads,
        "zarrs": zarrs,
        "tensorstore": tensorstore,
        "dask.array, 2 threads": dask_array,
    }


def _zarr_arrays(stored: Stored) -> list[Any]:
    import zarr

    return [zarr.open_array(stored.root / str(n), mode="r") for n in range(len(stored.pixels))]


def _pieces(stored: Stored, number: int) -> list[tuple[Path, int, int]]:
    """File, first byte and length of each chunk of a field."""
    root = stored.root / str(number)
    layout = stored.layout
    n_channels, height, width = stored.pixels[number].shape
    grid = np.ndindex(n_channels, height // layout.chunk, width // layout.chunk)
    if layout.shards is None:
        paths = [root / "/".join(map(str, index)) for index in grid]
        return [(path, 0, path.stat().st_size) for path in paths]
    found = []
    for path in sorted(path for path in (root / "c").rglob("*") if path.is_file()):
        n_chunks = stored.pixels[number].nbytes // (2 * layout.chunk**2)
        n_chunks //= n_channels // layout.shards[0]
        data = path.read_bytes()
        index = np.frombuffer(data[-4 - 16 * n_chunks : -4], "<u8").reshape(-1, 2)
        found += [(path, int(start), int(length)) for start, length in index]
    return found


def _decoder(codec: str) -> Callable[[memoryview, NDArray[np.uint8]], object]:
    from numcodecs import GZip, blosc, zstd

    if codec == "raw":
        return lambda chunk, out: np.copyto(out, np.frombuffer(chunk, np.uint8))
    if codec == "gzip":
        return GZip().decode  # type: ignore[no-any-return]
    return zstd.decompress if codec == "zstd" else blosc.decompress  # type: ignore[no-any-return]
