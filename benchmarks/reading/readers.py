"""Ways to read fields: each gives the pixels of all fields in order, or raises ImportError.

None forks: decoders with threads of their own hang or abort in a child.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from unidino_fast.errors import PixelError
from unidino_fast.reading import FieldReader, FieldRequest
from unidino_fast.reading.buffers import PAGE_BYTES, aligned
from unidino_fast.storage import FolderStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from numpy.typing import DTypeLike, NDArray

    from unidino_fast.benchmarks.reading.layouts import Stored

    Read = Callable[[], Iterator[Any]]
    Piece = tuple[Path, int, int]

OURS = "unidino_fast"
BARE = "numcodecs into a ready buffer"
PLACED = "numcodecs into fields"
LOOP = "zarr-python loop"
LOOP_OF_PLANES = "zarr-python loop over planes"
_AHEAD = 2
"""Fields that others are asked for ahead, where they can."""


def ours(stored: Stored, n_threads: int) -> Read:
    """What `embed` runs."""
    storage = FolderStorage(stored.root, location=str(stored.root))
    reader = FieldReader(storage, n_threads=n_threads)
    channels = tuple(range(len(stored.pixels[0])))
    requests = [FieldRequest(field, 0, channels, "max") for field in stored.fields()]

    def sound(pixels: NDArray[Any] | PixelError) -> NDArray[Any]:
        if isinstance(pixels, PixelError):
            raise pixels
        return pixels

    # a generator's loop would hold a field while the next is read
    return lambda: map(sound, reader.stream(requests))


def bare(stored: Stored, n_threads: int) -> Read:
    """Files into one ready buffer of a thread, decoded into another that holds a field.

    The bytes are right, but not where they belong: a field's chunks stand one after another.
    Nothing is looked for, named, checked or placed, and no pixels are given out.
    """
    pieces = [piece for number in range(len(stored.pixels)) for piece in _pieces(stored, number)]
    n_bytes = 2 * stored.layout.chunk**2
    n_places = stored.pixels[0].nbytes // n_bytes
    run = decoding(pieces, stored.layout.codec, n_bytes, n_places, n_threads)

    def read() -> Iterator[NDArray[Any]]:
        run()
        return iter(())

    return read


def decoding(
    pieces: Sequence[Piece], codec: str, n_bytes: int, n_places: int, n_threads: int
) -> Callable[[], None]:
    """Reads and decodes chunks of so many bytes by numcodecs, each thread its share.

    Each thread holds room for a chunk as stored and for `n_places` decoded ones, one after another.
    """
    decode = _decoder(codec)
    local = threading.local()

    def share(number: int) -> None:
        if not hasattr(local, "field"):
            local.field = _zeros((n_places, n_bytes), np.uint8)
            local.stored = _ready(n_bytes)
        for place, piece in enumerate(pieces[number::n_threads]):
            decode(_read(piece, local.stored), local.field[place % n_places])

    def run() -> None:
        if n_threads == 1:
            share(0)
        else:
            list(pool.map(share, range(n_threads)))

    pool = ThreadPoolExecutor(n_threads)
    return run


def placed(stored: Stored, n_threads: int) -> Read:
    """As `bare`, but it gives fields out, their pixels in place: what anybody needs to use them.

    As it would be written by hand for one layout: a thread reads a field at a time, into memory
    that is ready; where files and chunks stand is known before, and nothing is checked.
    """
    decode = _decoder(stored.layout.codec)
    edge = stored.layout.chunk
    pieces = [_pieces(stored, number) for number in range(len(stored.pixels))]
    ready = [_zeros(stored.pixels[0].shape, np.uint16) for _ in range(n_threads + 2)]
    corners = [
        (c, y, x)
        for c in range(ready[0].shape[0])
        for y in range(0, ready[0].shape[1], edge)
        for x in range(0, ready[0].shape[2], edge)
    ]
    local = threading.local()

    def fill(number: int) -> NDArray[Any]:
        if not hasattr(local, "chunk"):
            local.chunk = _zeros((edge, edge), np.uint16)
            local.stored = _ready(local.chunk.nbytes)
        field = ready[number % len(ready)]
        for piece, (c, y, x) in zip(pieces[number], corners, strict=True):
            target = field[c, y : y + edge, x : x + edge]
            is_whole = target.flags.c_contiguous
            out = target if is_whole else local.chunk
            decode(_read(piece, local.stored), out.reshape(-1).view(np.uint8))
            if not is_whole:
                target[...] = out
        return field

    def read() -> Iterator[NDArray[Any]]:
        waiting: deque[Future[NDArray[Any]]] = deque()
        for number in range(len(pieces)):
            waiting.append(pool.submit(fill, number))
            if len(waiting) > n_threads:  # one of them is not begun
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    pool = ThreadPoolExecutor(n_threads)
    return read


def zarr_loop(stored: Stored) -> Read:
    """A loop over opened arrays."""
    arrays = _zarr_arrays(stored)
    return lambda: (np.asarray(array[...]) for array in arrays)


def zarr_planes(stored: Stored) -> Read:
    """The loop a plane at a time, as images are looked at.

    Of a whole field zarr-python decodes several chunks at once, in threads of its own.
    """
    arrays = _zarr_arrays(stored)
    return lambda: ([array[c] for c in range(array.shape[0])] for array in arrays)


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
        waiting = deque(array.read() for array in arrays[:_AHEAD])
        for number in range(len(arrays)):
            if number + _AHEAD < len(arrays):
                waiting.append(arrays[number + _AHEAD].read())
            yield waiting.popleft().result()

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
        f"{PLACED}, 2 threads": lambda stored: placed(stored, 2),
        LOOP: zarr_loop,
        LOOP_OF_PLANES: zarr_planes,
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


def _zeros(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """From the start of a page on: where it begins must not decide what is measured."""
    found = aligned(math.prod(shape) * np.dtype(dtype).itemsize)
    found[:] = 0
    return found.view(dtype).reshape(shape)


def _ready(n_bytes: int) -> memoryview:
    """Room for any chunk of so many bytes, stored."""
    return aligned(2 * n_bytes + 65_536).data


def _read(piece: Piece, ready: memoryview) -> memoryview:
    """The stored bytes of a chunk, half a page from their place in the file; see `aligned`."""
    path, start, length = piece
    skip = (start + PAGE_BYTES // 2) % PAGE_BYTES
    view = ready[skip : skip + length]
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        file.readinto(view)
    return view


def _pieces(stored: Stored, number: int) -> list[Piece]:
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
