"""What one pass over the pixels of a plane of whole numbers finds: all that quality is told by.

A compiled pass takes a tenth of the time. To have it takes memory, and a second or two where it
was never compiled before: a look at some fields is spared that, and goes by numpy. Both give the
same numbers, in whole numbers throughout.

Letters: H x W pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from unidino_fast.compiled import Compiled

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Pass = Callable[[NDArray[Any], int, tuple[int, int]], "Found"]

COUNTED = ("uint8", "uint16")
"""Dtypes that have few enough values to be counted."""
EDGE = 8
"""Edge in pixels of the largest squares whose sums are found, and of the smallest plane."""
PIXELS_BY_NUMPY = 16 << 20
"""Of one dtype, before the compiled pass is taken: ten wells are to take the memory that a thousand
do."""
SQUARE = 64
"""Edge in pixels of the squares that are empty or not."""


class Found(NamedTuple):
    """What a pass finds.

    Attributes:
        total: of all pixels.
        lowest, highest: of all pixels.
        n_highest: pixels of the highest value.
        low, high: what stands at two places of the ordered sample.
        middle: median of the crosswise differences of 2 x 2 pixels without their signs; every other
            one is looked at, both ways.
        cross: squares of the crosswise differences of 2 x 2 pixels, added up.
        fine: likewise, of squares of 2 x 2 pixels.
        coarse: squares of the differences down and to the right, of squares of 4 x 4 pixels.
        spans: highest less lowest sum of 8 x 8 pixels in each whole square of 64 x 64, or in what
            there is of the only one.
        down, right: sums of 8 x 8 pixels, added up by their rows (H // 8) and columns (W // 8).
    """

    total: int
    lowest: int
    highest: int
    n_highest: int
    low: int
    high: int
    middle: int
    cross: int
    fine: int
    coarse: int
    spans: NDArray[np.int32]
    down: NDArray[np.int64]
    right: NDArray[np.int64]


def pass_over(plane: NDArray[Any], step: int, places: tuple[int, int]) -> Found:
    """Goes over a plane (H, W) of `COUNTED` dtype, 8 x 8 pixels or larger.

    Squares that an odd edge would cut are left out of what squares say.

    Args:
        plane: the pixels.
        step: from pixel to pixel of the sample, both ways.
        places: in the ordered sample, from 0.
    """
    plane = np.require(plane, plane.dtype.newbyteorder("="), ["C", "W"])  # numba tells others apart
    go = _COMPILED[plane.dtype.name].for_more(plane.size) or pass_by_numpy
    return go(plane, step, places)


def pass_by_numpy(plane: NDArray[Any], step: int, places: tuple[int, int]) -> Found:
    """See `pass_over`."""
    upto = np.bincount(plane[::step, ::step].reshape(-1)).cumsum()
    low, high = np.searchsorted(upto, places, side="right").tolist()
    highest = plane.max()
    twos, cross = halved(*quarters(plane.astype(np.int32)))
    fours, fine = halved(*quarters(twos))
    a, b, c, d = quarters(fours)
    crosses = np.abs(cross[::2, ::2]).reshape(-1)
    middle = crosses.size // 2
    return Found(
        total=int(plane.sum(dtype=np.int64)),
        lowest=int(plane.min()),
        highest=int(highest),
        n_highest=int(np.count_nonzero(plane == highest)),
        low=low,
        high=high,
        middle=int(np.partition(crosses, middle)[middle]),
        cross=_energy(cross),
        fine=_energy(fine),
        coarse=_energy((c + d) - (a + b)) + _energy((a - b) + (c - d)),
        **summed_up((a + b) + (c + d)),
    )


def summed_up(sums: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """`Found.spans`, `down` and `right` of sums of 8 x 8 pixels (H // 8, W // 8)."""
    rows, columns = n_squares(sums.shape)
    width = min(SQUARE // EDGE, sums.shape[1])
    strips = sums[: rows * SQUARE // EDGE, : columns * width].reshape(rows, -1, columns * width)
    # whole rows first are quicker
    highest, lowest = (
        strip.reshape(rows, columns, width) for strip in (strips.max(axis=1), strips.min(axis=1))
    )
    wide = np.float64 if sums.dtype.kind == "f" else np.int64
    return {
        "spans": highest.max(axis=2) - lowest.min(axis=2),
        "down": sums.sum(axis=1, dtype=wide),
        "right": sums.sum(axis=0, dtype=wide),
    }


def n_squares(sums: tuple[int, ...]) -> tuple[int, int]:
    """How many squares of 64 pixels so many sums of 8 fill down and across: one at least."""
    down, across = (max(edge * EDGE // SQUARE, 1) for edge in sums)
    return down, across


def quarters(
    sums: NDArray[Any],
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Upper left, upper right, lower left and lower right of each 2 x 2; odd edges lose a line."""
    height, width = (edge // 2 * 2 for edge in sums.shape)
    even, odd = sums[0:height:2, :width], sums[1:height:2, :width]
    return even[:, 0::2], even[:, 1::2], odd[:, 0::2], odd[:, 1::2]


def halved(
    a: NDArray[Any], b: NDArray[Any], c: NDArray[Any], d: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Sums and crosswise differences."""
    return (a + b) + (c + d), (a - b) - (c - d)


def _energy(detail: NDArray[np.int32]) -> int:
    """Squares, added up; a row of them fits 64 bits, a plane may not."""
    rows: list[int] = np.square(detail, dtype=np.int64).sum(axis=1).tolist()
    return sum(rows)


def _compiled_for(dtype: str) -> Compiled[Pass]:
    def make() -> Pass:
        from unidino_fast.qc.haar import compiled_pass

        compiled_pass(np.zeros((EDGE, EDGE), dtype), 1, (0, 0))
        return compiled_pass

    lack = "quality is measured by numpy, which is slower"
    return Compiled(make, after=PIXELS_BY_NUMPY, lack=lack)


_COMPILED = {dtype: _compiled_for(dtype) for dtype in COUNTED}
