"""Fields to read -> piles of chunks, each chunk in one pile. Pure.

A pile is the chunks that lie above one another along z, at one place of the grid, and every field
that takes pixels from there. Piles side by side make a strip; a run of strips is what one thread
does in one go. Fields that share chunks (regions of a mosaic, time points in one chunk) are planned
together, so that such a chunk is decoded once.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from unidino_fast.errors import PixelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from unidino_fast.plate_model import Field

AXES = "tczyx"
"""In the order of a block."""
_MOST_CHUNKS = 500_000
"""Chunks of one z plane of a field: more is a lie or a mistake, and plans of it fill memory."""


@dataclass(frozen=True, slots=True)
class FieldRequest:
    """Pixels (C, Y, X) to read.

    Attributes:
        time: index along t.
        channels: indices along c, in the order wanted; each once.
        z: `max` or `mean` over the planes, or the index of one. The mean is rounded to the stored
            dtype.
    """

    field: Field
    time: int
    channels: tuple[int, ...]
    z: str | int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the pixels."""
        return len(self.channels), self.field.height, self.field.width

    @property
    def n_bytes(self) -> int:
        """Of the pixels."""
        n_channels, height, width = self.shape
        return n_channels * height * width * np.dtype(self.field.array.dtype).itemsize


class Target(NamedTuple):
    """A field that takes pixels from a pile.

    Attributes:
        request: which of the planned requests.
        time: index within the chunk.
        channels: (index in the field's pixels, index within the chunk).
        to: rows and columns of the field's planes.
        of: rows and columns of the chunk.
    """

    request: int
    time: int
    channels: list[tuple[int, int]]
    to: tuple[slice, slice]
    of: tuple[slice, slice]


class Place(NamedTuple):
    """Indices of a pile in the grid of chunks, but for z."""

    t: int
    c: int
    y: int
    x: int


class Strip(NamedTuple):
    """What is put into place in one go: a pile, or several that lie side by side.

    Attributes:
        places: of the piles; they differ in x alone.
        targets: of the piles together. Several piles have one, which takes all columns of each.
        whole: where in the planes (C, Y, X) of the one target a chunk of the one pile stands as a
            whole, its bytes one after another; None where it does not.
    """

    places: list[Place]
    targets: list[Target]
    whole: tuple[slice, slice, slice] | None = None


class Run(NamedTuple):
    """Strips that one thread reads one after another.

    Attributes:
        strips: in order.
        requests: that take pixels from them.
        n_places: the most of a strip.
        n_targets: likewise.
    """

    strips: list[Strip]
    requests: tuple[int, ...]
    n_places: int
    n_targets: int


def runs(
    requests: Sequence[FieldRequest], *, most: int, fits: bool, n_threads: int = 1
) -> list[Run]:
    """The plan of requests of one array and one choice of z.

    Args:
        requests: neighbours, so that those of the first are read first.
        most: piles in a run, or a row of the field where that is a little more.
        n_threads: that are to have something to do, if there are as many piles.
        fits: whether the bytes of a chunk are planes as they are wanted, so that piles that lie
            side by side become one strip, and a chunk may be decoded into place.
    """
    piles = list(planned(requests).items())
    field = requests[0].field
    width = chunk(field, "x")
    most = min(most, -(-len(piles) // n_threads))
    n_columns = -(-field.width // width)
    if n_columns <= most:
        most = -(-most // n_columns) * n_columns
    found = []
    for first in range(0, len(piles), most):
        own = piles[first : first + most]
        if fits:
            joined = [_in_place(strip, requests) for strip in strips(own, width=width)]
        else:
            joined = [Strip([place], targets) for place, targets in own]
        found.append(
            Run(
                joined,
                tuple(sorted({target.request for _, targets in own for target in targets})),
                max(len(strip.places) for strip in joined),
                max(len(strip.targets) for strip in joined),
            )
        )
    return found


def planned(requests: Sequence[FieldRequest]) -> dict[Place, list[Target]]:
    """The piles of requests of one array and one choice of z, those of the first request first."""
    piles: dict[Place, list[Target]] = {}
    for number, request in enumerate(requests):
        field = request.field
        time, within = divmod(request.time, chunk(field, "t"))
        y, x = (field.region.y, field.region.x) if field.region else (0, 0)
        blocks: dict[int, list[tuple[int, int]]] = {}
        for position, channel in enumerate(request.channels):
            block, offset = divmod(channel, chunk(field, "c"))
            blocks.setdefault(block, []).append((position, offset))
        rows = _cuts(y, field.height, chunk(field, "y"))
        columns = _cuts(x, field.width, chunk(field, "x"))
        for block, channels in blocks.items():
            for row, to_y, of_y in rows:
                for column, to_x, of_x in columns:
                    target = Target(number, within, channels, (to_y, to_x), (of_y, of_x))
                    place = Place(time, block, row, column)
                    piles.setdefault(place, []).append(target)
    return piles


def strips(piles: Sequence[tuple[Place, list[Target]]], *, width: int) -> Iterator[Strip]:
    """Joins neighbours, of chunks `width` wide, of which one and the same field takes all columns.

    Written from end to end, the rows of a field come into the processor's caches once; written
    chunk by chunk, each page of them comes again for each chunk.
    """
    run: list[tuple[Place, list[Target]]] = []
    everything = slice(0, width)
    for pile in piles:
        if run and not _continues(run[-1], pile, everything):
            yield _strip(run)
            run = []
        run.append(pile)
    if run:
        yield _strip(run)


def _continues(
    one: tuple[Place, list[Target]], other: tuple[Place, list[Target]], everything: slice
) -> bool:
    (place, targets), (next_place, next_targets) = one, other
    if next_place != (place.t, place.c, place.y, place.x + 1):
        return False
    if len(targets) != 1 or len(next_targets) != 1:
        return False
    target, following = targets[0], next_targets[0]
    return target.request == following.request and target.of[1] == everything == following.of[1]


def _strip(run: list[tuple[Place, list[Target]]]) -> Strip:
    places = [place for place, _ in run]
    _, targets = run[0]
    if len(run) > 1:
        rows, columns = targets[0].to
        _, last = run[-1][1][0].to
        targets = [targets[0]._replace(to=(rows, slice(columns.start, last.stop)))]
    return Strip(places, targets)


def _in_place(strip: Strip, requests: Sequence[FieldRequest]) -> Strip:
    """The strip with its `whole`."""
    if len(strip.places) > 1 or len(strip.targets) > 1:
        return strip
    target = strip.targets[0]
    field = requests[target.request].field
    n_channels, height, width = (chunk(field, axis) for axis in "cyx")
    first = target.channels[0][0]
    takes_all = target.of == (slice(0, height), slice(0, width)) and target.channels == [
        (first + offset, offset) for offset in range(n_channels)
    ]
    is_dense = width == field.width and (n_channels == 1 or height == field.height)
    if not (takes_all and is_dense):
        return strip
    return strip._replace(whole=(slice(first, first + n_channels), *target.to))


def _cuts(start: int, length: int, size: int) -> list[tuple[int, slice, slice]]:
    """The chunks of `size` that a span lies in: index, part of the span, part of the chunk."""
    found = []
    for index in touched(start, length, size):
        origin = index * size
        low, high = max(start, origin), min(start + length, origin + size)
        found.append((index, slice(low - start, high - start), slice(low - origin, high - origin)))
    return found


def layers(field: Field, z: str | int) -> list[tuple[int, range]]:
    """Chunks along z and the planes to take of each, by their index within it."""
    size = chunk(field, "z")
    if isinstance(z, int):
        return [(z // size, range(z % size, z % size + 1))]
    depth = field.length("z")
    return [(index, range(min(size, depth - index * size))) for index in touched(0, depth, size)]


def grouped(requests: Iterable[FieldRequest], *, most_bytes: int) -> Iterator[list[FieldRequest]]:
    """Joins neighbours that share chunks, as long as their pixels stay below `most_bytes`."""
    group: list[FieldRequest] = []
    n_bytes = n_chunks = 0
    for request in requests:
        if group and _may_share(group[-1], request):
            if len(group) == 1:  # most fields stay alone, and need no sums
                n_bytes, n_chunks = group[0].n_bytes, _n_chunks(group[0])
            n_bytes += request.n_bytes
            n_chunks += _n_chunks(request)
            if n_bytes <= most_bytes and n_chunks <= _MOST_CHUNKS:
                group.append(request)
                continue
        if group:
            yield group
        group = [request]
    if group:
        yield group


def _may_share(one: FieldRequest, other: FieldRequest) -> bool:
    if one.field.array_path != other.field.array_path or one.z != other.z:
        return False
    return one.time == other.time or chunk(one.field, "t") > 1


def chunk(field: Field, axis: str) -> int:
    """Length of a chunk along an axis; 1 where the image does not have it."""
    return field.array.chunks[field.axes.index(axis)] if axis in field.axes else 1


def touched(start: int, length: int, size: int) -> range:
    """Indices of the chunks of `size` that a span lies in."""
    return range(start // size, (start + length - 1) // size + 1)


def check_size(request: FieldRequest) -> None:
    """Refuses what cannot be meant, before anything is allocated.

    Raises:
        PixelError: the field lies in too many chunks, or it does not fit this machine's memory.
    """
    field = request.field
    size = f"{field.height} x {field.width} px"
    if (n_chunks := _n_chunks(request)) > _MOST_CHUNKS:
        raise PixelError(
            f"field {field.array_path} of {size} lies in {n_chunks} chunks: at most {_MOST_CHUNKS}"
            " are read"
        )
    n_bytes = request.n_bytes + chunk_bytes(field)
    if n_bytes > (memory := memory_bytes()):
        raise PixelError(
            f"field {field.array_path} of {size} needs {n_bytes / 2**30:.0f} GiB to be"
            f" read, but this machine has {memory / 2**30:.0f} GiB"
        )


def _n_chunks(request: FieldRequest) -> int:
    """Chunks of one z plane of a field, or a few more."""
    field = request.field
    rows = -(-field.height // chunk(field, "y")) + 1
    columns = -(-field.width // chunk(field, "x")) + 1
    size = chunk(field, "c")
    return rows * columns * len({channel // size for channel in request.channels})


def chunk_bytes(field: Field) -> int:
    """Of one decoded chunk."""
    n_bytes = np.dtype(field.array.dtype).itemsize
    for size in field.array.chunks:
        n_bytes *= size
    return n_bytes


@functools.cache
def memory_bytes() -> int:
    """Of this machine; very many where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 2**48
