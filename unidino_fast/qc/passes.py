"""What one pass over the pixels of a plane of whole numbers finds: all that quality is told by.

A compiled pass takes a seventh of the time. It is compiled anew in each process, which takes a
second or two and 150 MB: a look at some fields is spared that, and goes by numpy. Both give the
same numbers, in whole numbers throughout.

Letters: H x W pixels.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from unidino_fast.errors import first_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Pass = Callable[[NDArray[Any], int, tuple[int, int]], "Found"]

_LOG = logging.getLogger(__name__)
COUNTED = ("uint8", "uint16")
"""Dtypes that have few enough values to be counted."""
EDGE = 8
"""Edge in pixels of the largest squares whose sums are found, and of the smallest plane."""
PIXELS_BY_NUMPY = 16 << 20
"""Of one dtype, before the pass is compiled. Compiling is repaid by some 500 megapixels; but ten
wells of a plate are to take the memory that a thousand do."""
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
    return _CHOICE.of(plane)(plane, step, places)


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


class _Choice:
    """Which pass to take; for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_pixels: Counter[str] = Counter()
        self._chosen: dict[str, Pass] = {}

    def of(self, plane: NDArray[Any]) -> Pass:
        """That for a plane, which is counted."""
        name = plane.dtype.name
        chosen = self._chosen.get(name)
        if chosen is not None:
            return chosen
        with self._lock:
            self._n_pixels[name] += plane.size
            if self._n_pixels[name] <= PIXELS_BY_NUMPY or name in self._chosen:
                return pass_by_numpy
            self._chosen[name] = pass_by_numpy  # of other threads, meanwhile
        self._chosen[name] = _compiled_for(plane)
        return self._chosen[name]


def _compiled_for(plane: NDArray[Any]) -> Pass:
    """The compiled pass, once it has been compiled for planes like this one."""
    try:
        from unidino_fast.qc.haar import compiled_pass

        compiled_pass(plane[:EDGE, :EDGE].copy(), 1, (0, 0))
    except Exception as error:  # a compiler's own, of any kind
        _LOG.warning("quality is measured by numpy, which is slower: %s", first_line(error))
        return pass_by_numpy
    return compiled_pass


_CHOICE = _Choice()
