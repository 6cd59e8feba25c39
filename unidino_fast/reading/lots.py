"""Lots: strips whose chunks are put where their pixels belong in one go. Pure.

Letters: N chunks of a lot.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from unidino_fast.reading.files import ChunkFiles
    from unidino_fast.reading.plan import Strip

    Shape = tuple[int, int, int]
    Index = tuple[int, int, int, int, int]
    """Of a chunk in the grid of chunks, as (t, c, z, y, x)."""
    Rows = list[tuple[Index, int]]
    """Chunks that lie side by side along x: the first of each row, and how many."""


class Chunks(NamedTuple):
    """The chunks of a lot.

    Attributes:
        rows: of them.
        windows: (N, 3): where in the field's memory the first pixel of each goes, and how many of
            its rows and columns.
        pitch: from row to row there, in pixels.
        are_planes: whether each is a plane of the field, neither more nor less.
        files: where they stand; None where that is no file.
    """

    rows: Rows
    windows: NDArray[np.int64]
    pitch: int
    are_planes: bool
    files: ChunkFiles | None


class Lot(NamedTuple):
    """Strips that are read together.

    Attributes:
        strips: in order.
        first: number of the first, among those of all steps.
        planes: of each request that takes pixels from them, which ones.
        chunks: those of the first of the layers along z, where they can be put into place as they
            are: the lot is of one request then. Otherwise None, and the lot is one strip.
    """

    strips: list[Strip]
    first: int
    planes: dict[int, list[int]]
    chunks: Chunks | None


def lots(
    strips: Sequence[Strip],
    first: int,
    *,
    block: Shape | None,
    shapes: Mapping[int, Shape],
    layers: Sequence[int],
    files: Callable[[Rows], ChunkFiles | None],
) -> Iterator[Lot]:
    """Joins strips that follow one another.

    Args:
        strips: of the plan.
        first: number of the first.
        block: shape of a chunk (C, Y, X) whose bytes are planes as they are wanted; None where they
            are not.
        shapes: of the pixels (C, Y, X) of each request.
        layers: indices of chunks along z. Of several the strips are lots each for itself: what the
            others are added to is then in the caches.
        files: says where some chunks stand.
    """

    def owner(numbered: tuple[int, Strip]) -> tuple[int, int]:
        """The same for strips that are read together."""
        number, strip = numbered
        if block is None or len(layers) > 1 or not _is_placed(strip, block):
            return number, -1
        return -1, strip.targets[0].request

    for _, own in groupby(enumerate(strips, first), owner):
        numbers, together = zip(*own, strict=True)
        strip = together[0]
        chunks = None
        if block is not None and _is_placed(strip, block):
            found = _chunks(together, block, shapes[strip.targets[0].request], layers[0])
            chunks = found._replace(files=files(found.rows))
        yield Lot(list(together), numbers[0], _planes(together), chunks)


def _is_placed(strip: Strip, block: Shape) -> bool:
    """Whether one field takes the first rows and columns of its chunks, and all their channels."""
    of_y, of_x = strip.targets[0].of
    takes_all = block[0] == 1 or strip.whole is not None
    return len(strip.targets) == 1 and of_y.start == of_x.start == 0 and takes_all


def _chunks(strips: Sequence[Strip], block: Shape, shape: Shape, layer: int) -> Chunks:
    n_channels, _, width = block
    _, height, pitch = shape
    rows, windows = [], []
    for strip in strips:
        target = strip.targets[0]
        (to_y, to_x), (of_y, of_x) = target.to, target.of
        start = (target.channels[0][0] * height + to_y.start) * pitch + to_x.start
        n_rows, n_columns = n_channels * (of_y.stop - of_y.start), of_x.stop - of_x.start
        t, c, y, x = strip.places[0]
        rows.append(((t, c, layer, y, x), len(strip.places)))
        windows += [(start + n * width, n_rows, n_columns) for n in range(len(strip.places))]
    # regions of just that size may take parts of two chunks each
    are_planes = block == (1, height, pitch) and all(strip.whole is not None for strip in strips)
    return Chunks(rows, np.array(windows, np.int64), pitch, are_planes, None)


def _planes(strips: Sequence[Strip]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for target in (one for strip in strips for one in strip.targets):
        found.setdefault(target.request, []).extend(position for position, _ in target.channels)
    return found
