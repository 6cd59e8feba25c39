"""Pixels of a field -> what tells whether they are sound, a few numbers a channel.

Measured in the threads that read, while the pixels are in the caches: 2 to 3 ms of processor time
for a megapixel of 8 or 16 bits, so that the network hardly waits for it. Only operations of numpy
whose result does not depend on threads are used: equal pixels give equal bits wherever they are
measured.

Letters: C channels, H x W pixels, M measures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Plane = NDArray[Any]
    Values = NDArray[np.float32]

MEASURES = (
    "Intensity",
    "Background",
    "Signal",
    "Focus",
    "Saturated",
    "EmptyTiles",
    "GradientY",
    "GradientX",
)
"""Names of the measures, in their order; docs/qc.md says what each is."""

SQUARE = 64
"""Edge in pixels of the squares that are empty or not."""
EDGE = 8
"""Edge in pixels of the smallest plane that can be measured, and of the means that empty squares
and gradients are told by."""
_LEAST_DETAIL = 1.5
"""Detail of 8 pixels over that of noise: below that a plane shows nothing that could be sharp."""
_LEAST_FINE = 1 / 16
"""Share of the detail of 4 pixels that is left of it when noise is taken off, at least: sharp
images of coarse pixels look like noise."""
_EMPTY_SPAN = 1.25
_SAMPLED = 256**2
"""Pixels that percentiles are taken of, at least, where there are as many."""
_PERCENTILES = (5, 99)
_LEAST_RANGE = 64
"""Grey levels: planes that span fewer are only saturated at the end of their dtype."""
_PAIRS = {"uint8": ("u2", "i2", 8), "uint16": ("u4", "i4", 16)}
"""Whole numbers that are worked on two at a time: the types that hold a pair, and bits of one."""
_NORMAL_MEDIAN = 0.67449
"""Median of the absolute value of a standard normal number."""


def measure_planes(planes: Plane) -> Values:
    """Measures of the channels of a field.

    Args:
        planes: (C, H, W) in the stored dtype.

    Returns:
        (C, M), in the order of `MEASURES`, NaN where the pixels leave one open; all NaN where
        they are not finite or fewer than `EDGE` either way.
    """
    values = np.full((len(planes), len(MEASURES)), np.nan, np.float32)
    for plane, row in zip(planes, values, strict=True):
        with np.errstate(all="ignore"):  # what is not finite is said where it is embedded
            sound = plane.dtype.kind != "f" or np.isfinite(plane).all()
            if sound and min(plane.shape) >= EDGE:
                row[:] = _measures(plane)
    return values


def _measures(plane: Plane) -> tuple[float, ...]:
    low, high = _percentiles(plane)
    detail = _Detail.of(plane)
    return (
        detail.total / plane.size,
        low,
        high - low,
        _focus(detail),
        _saturated(plane),
        _empty(detail, in_levels=plane.dtype.kind != "f", counts=_counts(plane)),
        *_gradients(detail.means),
    )


def _percentiles(plane: Plane) -> tuple[float, float]:
    """Of every n-th pixel both ways; the pixel that stands there, not one between."""
    step = max(1, int((plane.size / _SAMPLED) ** 0.5))
    sample = plane[::step, ::step].reshape(-1)
    places = [round((sample.size - 1) * percent / 100) for percent in _PERCENTILES]
    low, high = _counted(sample, places) if _counts(plane) else _parted(sample, places)
    return low, high


def _counts(plane: Plane) -> bool:
    """Whether its values are few enough to be counted, which is quicker than putting in order."""
    return plane.dtype.name in _PAIRS


def _counted(values: NDArray[Any], places: list[int]) -> list[float]:
    """What stands at places of the ordered values, which are whole numbers from 0 up."""
    upto = np.bincount(values).cumsum()
    return [float(value) for value in np.searchsorted(upto, places, side="right")]


def _parted(values: NDArray[Any], places: list[int]) -> list[float]:
    """What stands at places of the ordered values."""
    return [float(value) for value in np.partition(values, places)[places]]


@dataclass(frozen=True, slots=True)
class _Detail:
    """What the Haar transform of a plane keeps of it.

    Attributes:
        total: of all pixels; of whole numbers, exact.
        cross: crosswise differences of 2 x 2 pixels, scaled as pixels are: mostly noise.
        noise: their mean square; white noise has its own variance at each level.
        fine: mean square of the crosswise differences of squares of 2 pixels.
        coarse: mean square of differences down and to the right of squares of 4 pixels.
        means: of squares of 8 pixels.
    """

    total: float
    cross: Values
    noise: float
    fine: float
    coarse: float
    means: Values

    @classmethod
    def of(cls, plane: Plane) -> _Detail:
        """Of a plane of `EDGE` x `EDGE` pixels or more; odd edges lose their last line."""
        if _counts(plane):
            sums, cross = _halved_in_pairs(plane)
            height, width = (2 * edge for edge in sums.shape)
            lines = plane[height:], plane[:height, width:]
            total = float(sums.sum(dtype=np.float64)) + sum(float(line.sum()) for line in lines)
            sums, fine = _halved_exactly(sums)
        else:
            total = float(plane.sum(dtype=np.float64 if plane.dtype.kind == "f" else np.int64))
            sums, cross = _halved(*_quarters(plane.astype(np.float32)))
            sums, fine = _halved(*_quarters(sums))
        a, b, c, d = _quarters(sums)
        top, bottom = a + b, c + d
        coarse = _energy(3, bottom - top) + _energy(3, (a - b) + (c - d))
        cross *= np.float32(0.5)
        return cls(
            total=total,
            cross=cross,
            noise=_energy(0, cross),
            fine=_energy(2, fine),
            coarse=coarse / 2,
            means=np.divide(top + bottom, EDGE**2, dtype=np.float32),
        )


def _quarters(sums: Values) -> tuple[Values, Values, Values, Values]:
    """Upper left, upper right, lower left and lower right of each 2 x 2."""
    height, width = (edge // 2 * 2 for edge in sums.shape)
    even, odd = sums[0:height:2, :width], sums[1:height:2, :width]
    return even[:, 0::2], even[:, 1::2], odd[:, 0::2], odd[:, 1::2]


def _halved(a: Values, b: Values, c: Values, d: Values) -> tuple[Values, Values]:
    """Sums and crosswise differences."""
    return (a + b) + (c + d), (a - b) - (c - d)


def _halved_exactly(sums: Values) -> tuple[Values, Values]:
    """`_halved` of whole numbers that no order of sums rounds: whole rows first are quicker."""
    height, width = (edge // 2 * 2 for edge in sums.shape)
    even, odd = sums[0:height:2, :width], sums[1:height:2, :width]
    both, down = even + odd, even - odd
    return both[:, 0::2] + both[:, 1::2], down[:, 0::2] - down[:, 1::2]


def _halved_in_pairs(plane: Plane) -> tuple[Values, Values]:
    """`_halved` of whole numbers of 8 or 16 bits, exact as there, with each row read side by side.

    Which pixel of a pair stands first in a machine's words turns the sign of the differences, which
    nobody looks at.
    """
    height, width = (edge // 2 * 2 for edge in plane.shape)
    word, signed, bits = _PAIRS[plane.dtype.name]
    pairs = np.ascontiguousarray(plane[:height, :width]).view(word)
    one, other = (pairs & (2**bits - 1)).view(signed), (pairs >> bits).view(signed)
    sums = one + other
    one -= other
    cross = one[0::2] - one[1::2]
    return (sums[0::2] + sums[1::2]).astype(np.float32), cross.astype(np.float32)


def _energy(level: int, detail: Values) -> float:
    """Mean square, scaled so that white noise has its own variance at each level."""
    total = float(np.square(detail).sum(dtype=np.float64))
    return total / float(detail.size * 4**level)


def _focus(detail: _Detail) -> float:
    """Detail of 4 pixels against that of 8, in octaves of energy, without the noise of the camera.

    Both are of the same light, so that brightness and contrast cancel. A slope of the power
    spectrum, as CellProfiler's PowerLogLogSlope (Bray et al. 2012), but at its fine end alone,
    which a blur takes first; the finest detail of all, of 2 pixels, is taken for noise.
    """
    if detail.coarse <= _LEAST_DETAIL * detail.noise:
        return float("nan")
    fine = max(detail.fine - detail.noise, detail.fine * _LEAST_FINE)
    return float(np.log2(fine) - np.log2(detail.coarse - detail.noise))


def _saturated(plane: Plane) -> float:
    """Share of pixels at the highest value, as CellProfiler's PercentMaximal (Bray et al. 2012).

    The first of them does not count: some pixel is the highest of any plane.
    Cameras of 12 bits stop at 4095 in 16, others at odd values, so that it is not the end of the
    dtype that counts. A plane that spans few levels has many pixels at each.
    """
    top = plane.max()
    if plane.dtype.kind == "f":
        spans = top > plane.min()
    else:
        spans = top == np.iinfo(plane.dtype).max or int(top) - int(plane.min()) >= _LEAST_RANGE
    return (np.count_nonzero(plane == top) - 1) / plane.size if spans else 0.0


def _empty(detail: _Detail, *, in_levels: bool, counts: bool) -> float:
    """Share of squares whose means of 8 pixels span no more than 1.25 times the noise of a pixel.

    Of such means noise has left an eighth: 64 of them span some 5/8 of it, and twice that hardly
    ever by chance. The noise is that of most places, so that bright cells do not hide dim ones.
    """
    sample = np.abs(detail.cross[::2, ::2]).reshape(-1)
    middle = [sample.size // 2]
    if counts:  # halves of whole numbers
        noise = _counted((sample * 2).astype(np.int32), middle)[0] / 2 / _NORMAL_MEDIAN
    else:
        noise = _parted(sample, middle)[0] / _NORMAL_MEDIAN
    if in_levels:
        noise = max(noise, 12**-0.5)  # of rounding to whole numbers
    n = SQUARE // EDGE
    rows, columns = (max(edge // n, 1) for edge in detail.means.shape)
    squares = detail.means[: rows * n, : columns * n]
    squares = squares.reshape(rows, -1, columns, squares.shape[1] // columns)
    span = squares.max(axis=(1, 3)) - squares.min(axis=(1, 3))
    return float(np.count_nonzero(span <= _EMPTY_SPAN * noise)) / float(span.size)


def _gradients(means: Values) -> tuple[float, float]:
    """Rise of a straight line through the means, edge to edge over the mean, down and right."""
    mean = float(means.mean(dtype=np.float64))
    if mean <= 0:
        return float("nan"), float("nan")
    down, right = (_rise(means.mean(axis=axis, dtype=np.float64)) for axis in (1, 0))
    return down / mean, right / mean


def _rise(line: NDArray[np.float64]) -> float:
    """What a straight line through values gains from one end to the other."""
    places = np.arange(len(line)) - (len(line) - 1) / 2
    square = float(np.square(places).sum())
    slope = float((places * line).sum()) / square if square else 0.0
    return slope * len(line)
