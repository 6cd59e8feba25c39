"""Fields as they are read, with what the threads that read note of their pixels."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import xxhash

from unidino_fast.planning import channels_to_read
from unidino_fast.preprocess import all_with_signal, tiles_with_signal
from unidino_fast.qc.measures import look_at, quality_watcher
from unidino_fast.reading import FieldReader, FieldRequest, unwatched

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from unidino_fast.config import EmbedOptions
    from unidino_fast.errors import PixelError
    from unidino_fast.planning import FieldTask, WellTask
    from unidino_fast.qc.measures import Seen
    from unidino_fast.reading import Known
    from unidino_fast.storage import Storage

    Pixels = NDArray[Any]
    Read = tuple[Pixels, "Noted"] | PixelError
    """A field (C, H, W), and what was noted of it."""


class _NotedPlane(NamedTuple):
    """What the thread that reads a plane notes of its pixels; for the attributes see `Noted`."""

    checksum: int
    n_dropped: int
    kept: Tensor | None
    seen: Seen | None


class Noted(NamedTuple):
    """What was noted of the pixels of a field while they were read.

    Attributes:
        checksum: XXH3 (64 bits) of those of its planes: what it was when it was embedded.
        n_dropped: tiles not to embed, if it was asked for.
        kept: places of the others, where there are any not to embed.
        seen: what a look at each plane found, if quality was asked for.
    """

    checksum: int
    n_dropped: int
    kept: Tensor | None
    seen: Sequence[Seen | None] | None

    @classmethod
    def of(cls, planes: Sequence[_NotedPlane], *, measures: bool) -> Noted:
        """Of what was noted of each plane; the first one decides which tiles are dropped."""
        checksums = np.array([plane.checksum for plane in planes], "<u8")
        return cls(
            xxhash.xxh3_64_intdigest(checksums.data),
            planes[0].n_dropped,
            planes[0].kept,
            [plane.seen for plane in planes] if measures else None,
        )

    def seen_of(self, task: FieldTask, options: EmbedOptions) -> Sequence[Seen | None] | None:
        """`seen` of the channels that are embedded."""
        read = channels_to_read(task, options)
        if self.seen is None or read == task.channels:
            return self.seen
        return [self.seen[read.index(channel)] for channel in task.channels]


def read_fields(
    tasks: Sequence[WellTask],
    storage: Storage,
    options: EmbedOptions,
    *,
    keeps: bool = False,
    measures: bool = False,
    allocate: Callable[[int], memoryview] | None = None,
    on_read: Callable[[WellTask], None] | None = None,
) -> Generator[Read, None, None]:
    """The pixels (C, H, W) that embedding wells takes in, field by field, read ahead.

    Args:
        tasks: the wells.
        storage: where their plate lies.
        options: of the run.
        keeps: note which tiles have signal.
        measures: note the quality of the pixels.
        allocate: makes memory of so many bytes to read into; ordinary memory by default.
        on_read: is told of each well before any of it is read, in any thread.
    """

    def requests() -> Iterator[FieldRequest]:
        for well in tasks:
            if on_read is not None:
                on_read(well)
            for field in well.fields:
                channels = channels_to_read(field, options)
                yield FieldRequest(field.field, field.time, channels, options.z)

    def note(pixels: Pixels, numbers: Sequence[int], known: Sequence[Known]) -> list[_NotedPlane]:
        looks = look_at(pixels, numbers, known) if measures else [None] * len(numbers)
        noted = []
        for number, (checksum, _), seen in zip(numbers, known, looks, strict=True):
            has_zeros = seen is None or seen.lowest <= 0  # else all tiles have signal
            chooses = keeps and number == 0 and has_zeros
            choice = _tiles_to_keep(pixels[0], options) if chooses else (0, None)
            checksum = checksum or xxhash.xxh3_64_intdigest(pixels[number].data)
            noted.append(_NotedPlane(checksum, *choice, seen))
        return noted

    return FieldReader(storage, allocate=allocate).stream_noted(
        requests(),
        note,
        partial(Noted.of, measures=measures),
        watching=quality_watcher if measures else unwatched,
    )


def _tiles_to_keep(plane: Pixels, options: EmbedOptions) -> tuple[int, Tensor | None]:
    """How many tiles of a plane (H, W) have no signal, and the places of the others, if any."""
    if all_with_signal(plane, tile=options.tile, stride=options.step):
        return 0, None
    keep = tiles_with_signal(torch.from_numpy(plane), tile=options.tile, stride=options.step)
    places = keep.nonzero()[:, 0]
    n_dropped = len(keep) - len(places)
    return n_dropped, places if n_dropped else None
