"""Wells -> features: reads fields ahead, cuts their tiles, embeds them in full batches.

Letters: C channels, N tiles of a plane, T tile edge, D features.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from unidino_fast import ops
from unidino_fast.errors import PixelError
from unidino_fast.preprocess import tiles_of, tiles_with_signal
from unidino_fast.reading import FieldReader
from unidino_fast.results import FieldResult, WellResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray
    from torch import Tensor

    from unidino_fast.clock import StageClock
    from unidino_fast.config import EmbedOptions
    from unidino_fast.engines import Embedder
    from unidino_fast.planning import FieldTask, WellTask
    from unidino_fast.plate_model import Plate

    Planes = NDArray[Any]

FIELDS_AHEAD = 2
"""Fields read while another is embedded: with the one in hand, the bound on pixels in memory."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def embed_wells(
    tasks: Sequence[WellTask],
    plate: Plate,
    model: Embedder,
    options: EmbedOptions,
    clock: StageClock,
) -> Iterator[tuple[WellTask, WellResult | PixelError]]:
    """Embeds wells in order.

    The clock's stages are `read` (waiting for the thread that reads ahead), `preprocess`, `embed`.

    Yields:
        Each task with its result, or with the error that its pixels gave.
    """
    reader = FieldReader(plate.storage.zarr_store())

    def read(task: FieldTask) -> Planes:
        # the field's first channel decides which tiles are empty, whichever are embedded
        channels = task.channels if options.keep_empty else (0, *task.channels)
        return reader.read(task.field, time=task.time, channels=channels, z=options.z)

    pending = _read_ahead([field for well in tasks for field in well.fields], read)
    for task in tasks:
        planes = islice(pending, len(task.fields))
        try:
            yield task, _embed_well(task, planes, model, options, clock)
        except PixelError as error:
            yield task, error
        deque(planes, maxlen=0)  # lets go of what a failed well has left


def _read_ahead(items: Iterable[Item], read: Callable[[Item], Result]) -> Iterator[Future[Result]]:
    """Futures of reads in order, a few running ahead in one thread."""
    with ThreadPoolExecutor(1, thread_name_prefix="read") as pool:
        window: deque[Future[Result]] = deque()
        try:
            for item in items:
                window.append(pool.submit(read, item))
                if len(window) > FIELDS_AHEAD:
                    yield window.popleft()
            while window:
                yield window.popleft()
        finally:
            for future in window:
                future.cancel()


def _embed_well(
    task: WellTask,
    planes: Iterator[Future[Planes]],
    model: Embedder,
    options: EmbedOptions,
    clock: StageClock,
) -> WellResult:
    kept: list[Tensor] = []  # one mask (N,) a field

    def blocks() -> Iterator[Tensor]:
        for field, future in zip(task.fields, planes, strict=True):
            with clock.stage("read"):
                pixels = torch.from_numpy(future.result())
            with clock.stage("preprocess"):
                pixels = pixels.to(model.device, non_blocking=True)
                keep = _kept_tiles(field, pixels, options)
                kept.append(keep.cpu())
            first = 0 if options.keep_empty else 1
            for label, plane in zip(field.labels, pixels[first:], strict=True):
                with clock.stage("preprocess"):
                    tiles = _tiles(task.name, field, label, plane, options)[keep]
                yield tiles

    with clock.stage("embed"):
        features = torch.from_numpy(model.embed_stream(blocks()))
    return WellResult(task.well.position, _field_results(task, kept, features))


def _kept_tiles(field: FieldTask, pixels: Tensor, options: EmbedOptions) -> Tensor:
    """Mask (N,) of the tiles to embed, on the device of the pixels."""
    if options.keep_empty:
        return torch.ones(field.n_tiles, dtype=torch.bool, device=pixels.device)
    return tiles_with_signal(pixels[0], tile=options.tile, stride=options.step)


def _tiles(well: str, field: FieldTask, label: str, plane: Tensor, options: EmbedOptions) -> Tensor:
    """Scaled tiles (N, T, T) of one plane."""
    try:
        return tiles_of(plane[None], options.intensity, tile=options.tile, stride=options.step)[0]
    except PixelError as error:
        raise PixelError(f"field {well}/{field.field.site}, channel {label}: {error}") from None


def _field_results(
    task: WellTask, kept: Sequence[Tensor], features: Tensor
) -> tuple[FieldResult, ...]:
    """Splits the features of a well's tiles into field means."""
    results = []
    start = 0
    for field, keep in zip(task.fields, kept, strict=True):
        n_kept, n_channels = int(keep.sum()), len(field.labels)
        stop = start + n_channels * n_kept
        of_tiles = features[start:stop].reshape(n_channels, n_kept, -1)  # (C, kept, D)
        everything = torch.ones(n_kept, dtype=torch.bool)
        results.append(
            FieldResult(
                site=field.field.site,
                time=field.time,
                labels=field.labels,
                n_tiles=n_kept,
                n_tiles_dropped=len(keep) - n_kept,
                features=ops.segment_mean(of_tiles, everything).numpy(),
            )
        )
        start = stop
    return tuple(results)
