"""Wells -> features: reads fields ahead, cuts their tiles, embeds them in full batches.

Letters: C channels, N tiles of a plane, T tokens, P patch edge, D features.
"""

from __future__ import annotations

from collections import deque
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from unidino_fast.errors import PixelError
from unidino_fast.heap import HeapTrimmer
from unidino_fast.noted_fields import read_fields
from unidino_fast.planning import channels_to_read
from unidino_fast.preprocess import tiles_of
from unidino_fast.qc.measures import measured
from unidino_fast.reading import FieldReader
from unidino_fast.results import FieldResult, WellResult
from unidino_fast.upload import Uploader

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from unidino_fast.clock import StageClock
    from unidino_fast.config import EmbedOptions
    from unidino_fast.engines import Embedder
    from unidino_fast.engines.packing import Ticket, TilePacker
    from unidino_fast.noted_fields import Noted, Read
    from unidino_fast.planning import FieldTask, WellTask
    from unidino_fast.qc.measures import Seen
    from unidino_fast.storage import Storage

    Planes = NDArray[Any]

SAMPLE_TILES = 16
"""Tiles that an engine is held against the reference on."""
BLANK_FIELDS = 8
"""Readable fields in which they are looked for, while those are blank."""
_BYTES_TOGETHER = 2**28
"""Of tiles that are cut in one step on a GPU: overlapping ones are many times their planes."""


def embed_wells(
    tasks: Sequence[WellTask],
    storage: Storage,
    model: Embedder,
    options: EmbedOptions,
    clock: StageClock,
    *,
    measures: bool = False,
    on_read: Callable[[WellTask], None] | None = None,
) -> Generator[tuple[WellTask, WellResult | PixelError], None, None]:
    """Embeds wells; batches of the network run across fields and wells.

    Args:
        tasks: the wells.
        storage: where their plate lies.
        model: the backbone with its engine.
        options: what to embed and how.
        clock: its stages are `read` (waiting for fields, and reading some meanwhile),
            `preprocess`, `embed`.
        measures: measure the quality of the pixels too, in the threads that read.
        on_read: is told of each well before any of it is read, in any thread.

    Yields:
        Each task, in order, with its result or with the error that its pixels gave.
    """
    packer = model.packer()
    uploader = Uploader(model.device)
    begun: deque[_Begun] = deque()
    heap = HeapTrimmer()
    fields = read_fields(
        tasks,
        storage,
        options,
        keeps=not options.keep_empty,
        measures=measures,
        allocate=uploader.allocate,
        on_read=on_read,
    )
    with closing(fields):  # ends the reading threads however this ends
        for task in tasks:
            own = islice(fields, len(task.fields))
            begun.append(_begin_well(task, own, uploader, packer, options, clock))
            while begun and begun[0].done:
                yield _finished(begun.popleft())
                heap.trim()
    with clock.stage("embed"):
        packer.flush()
    yield from map(_finished, begun)


def sample_patches(
    tasks: Sequence[WellTask], storage: Storage, model: Embedder, options: EmbedOptions
) -> Tensor:
    """Some tiles of a plate for the self-check of an engine, of its first field with signal.

    Tiles of one value throughout say little: an engine that mixes up pixels gives the same of them.
    They are taken where the first `BLANK_FIELDS` readable fields have no others.

    Returns:
        (N, T, P * P) on the model's device, N at most `SAMPLE_TILES`, 0 if no field is readable.
    """
    reader = FieldReader(storage)
    patch = model.backbone.patch_size
    blank: list[Tensor] = []
    for task in (one for well in tasks for one in well.fields):
        if len(blank) == BLANK_FIELDS:
            break
        try:
            planes = reader.read(task.field, time=task.time, channels=task.channels, z=options.z)
            pixels = torch.from_numpy(planes).to(model.device)
            everything = _patches("", task, task.labels, pixels, options, patch).flatten(0, 1)
        except PixelError:
            continue  # said in its place, when the well is embedded
        varied = everything.amax(dim=(1, 2)) > everything.amin(dim=(1, 2))
        if bool(varied.any()):
            return _spread_over(everything, varied.nonzero()[:, 0])
        blank.append(_spread_over(everything, torch.arange(len(everything))))
    return blank[0] if blank else torch.empty((0, 1, patch**2))


def _spread_over(patches: Tensor, places: Tensor) -> Tensor:
    """At most `SAMPLE_TILES` of the tiles at these places, evenly from the first to the last."""
    n_tiles = min(len(places), SAMPLE_TILES)
    return patches[places[torch.linspace(0, len(places) - 1, n_tiles).long()]]


@dataclass(slots=True)
class _Begun:
    """A well whose tiles wait in the packer, or one that has failed."""

    task: WellTask
    fields: list[_BegunField] = field(default_factory=list)
    error: PixelError | None = None

    @property
    def done(self) -> bool:
        return self.error is not None or all(
            ticket.done for begun in self.fields for ticket in begun.tickets
        )


@dataclass(frozen=True, slots=True)
class _BegunField:
    task: FieldTask
    checksum: int
    seen: Sequence[Seen | None] | None
    n_dropped: int
    tickets: list[Ticket]
    """Of tiles of all channels, one channel after the other."""


def _begin_well(
    task: WellTask,
    fields: Iterator[Read],
    uploader: Uploader,
    packer: TilePacker,
    options: EmbedOptions,
    clock: StageClock,
) -> _Begun:
    """Hands the tiles of a well to the packer."""
    begun = _Begun(task)
    try:
        for field_task in task.fields:
            with clock.stage("read"):
                found = next(fields)
            if isinstance(found, PixelError):
                raise found
            begun.fields.append(
                _begin_field(task, field_task, *found, uploader, packer, options, clock)
            )
            del found  # the next field is read into its memory while that is in the caches
    except PixelError as error:
        begun.error = error
        deque(fields, maxlen=0)  # lets go of what the well has left
    return begun


def _begin_field(
    well: WellTask,
    task: FieldTask,
    planes: Planes,
    noted: Noted,
    uploader: Uploader,
    packer: TilePacker,
    options: EmbedOptions,
    clock: StageClock,
) -> _BegunField:
    with clock.stage("preprocess"):
        pixels = _embedded_planes(uploader.upload(planes), task, options)
        kept = None if noted.kept is None else uploader.upload(noted.kept)
    tickets = []
    together = _together(task, options, packer)
    for first in range(0, len(pixels), together):
        part = slice(first, first + together)
        with clock.stage("preprocess"):
            patches = _patches(
                well.name,
                task,
                task.labels[part],
                pixels if together >= len(pixels) else pixels[part],
                options,
                packer.patch,
                packer.dtype,
            )
            if kept is not None:
                patches = patches[:, kept]
        with clock.stage("embed"):
            tickets.append(packer.add(patches.flatten(0, 1)))
    seen = noted.seen_of(task, options)
    return _BegunField(task, noted.checksum, seen, noted.n_dropped, tickets)


def _together(task: FieldTask, options: EmbedOptions, packer: TilePacker) -> int:
    """Channels whose tiles are cut in one step.

    A GPU takes all in the time of one; what a core makes of one stays in its caches.
    """
    if packer.device.type != "cuda":
        return 1
    n_bytes = task.n_tiles * options.tile**2 * packer.dtype.itemsize
    return max(1, _BYTES_TOGETHER // max(n_bytes, 1))


def _embedded_planes(pixels: Tensor, task: FieldTask, options: EmbedOptions) -> Tensor:
    """Of the planes that were read those to embed (C, H, W).

    Without a copy, but where a field has its channels in another order than its plate.
    """
    read = channels_to_read(task, options)
    if read == task.channels:
        return pixels
    places = [read.index(channel) for channel in task.channels]
    first = places[0]
    if places == list(range(first, first + len(places))):
        return pixels[first : first + len(places)]
    return torch.stack([pixels[place] for place in places])


def _finished(begun: _Begun) -> tuple[WellTask, WellResult | PixelError]:
    """The result of a well whose features are all there."""
    if begun.error is not None:
        return begun.task, begun.error
    fields = tuple(map(_field_result, begun.fields, _qualities(begun.fields)))
    return begun.task, WellResult(begun.task.well.position, fields)


def _qualities(fields: Sequence[_BegunField]) -> Iterator[NDArray[np.float32] | None]:
    """Measures of the channels of each field (C, M), of all in one go."""
    measures = measured([one for begun in fields for one in begun.seen or ()])
    start = 0
    for begun in fields:
        end = start + len(begun.seen or ())
        yield None if begun.seen is None else measures[start:end]
        start = end


def _patches(
    well: str,
    field: FieldTask,
    labels: Sequence[str],
    planes: Tensor,
    options: EmbedOptions,
    patch: int,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Scaled tiles of planes (C, H, W) as patches (C, N, T, P * P)."""
    try:
        return tiles_of(
            planes,
            options.intensity,
            tile=options.tile,
            stride=options.step,
            patch=patch,
            dtype=dtype,
        )
    except PixelError as error:
        if len(labels) == 1:
            where = f"field {well}/{field.field.site}, channel {labels[0]}"
            raise PixelError(f"{where}: {error}") from None
        for label, plane in zip(labels, planes, strict=True):  # which of them is it
            _patches(well, field, (label,), plane[None], options, patch, dtype)
        raise


def _field_result(begun: _BegunField, quality: NDArray[np.float32] | None) -> FieldResult:
    """Means over the tiles of one field."""
    of_tiles = np.concatenate([ticket.features for ticket in begun.tickets])
    of_tiles = of_tiles.reshape(len(begun.task.channels), -1, of_tiles.shape[1])  # (C, N, D)
    return FieldResult(
        site=begun.task.field.site,
        time=begun.task.time,
        labels=begun.task.labels,
        n_tiles=of_tiles.shape[1],
        n_tiles_dropped=begun.n_dropped,
        checksum=begun.checksum,
        metadata_digest=begun.task.field.metadata_digest,
        features=of_tiles.mean(axis=1, dtype=np.float64).astype(np.float32),  # (C, D)
        quality=quality,
    )
