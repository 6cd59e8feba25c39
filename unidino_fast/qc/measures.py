"""Pixels of a field -> what tells whether they are sound, a few numbers a channel.

Measured in the threads that read, of some planes at a time: some .1 to .5 ms of processor time for
a megapixel of 8 or 16 bits, as it comes from the caches or from memory, so that the network does
not wait for it. Nothing here depends on threads: equal pixels of one dtype give equal bits wherever
they are measured.

Letters: C channels, H x W pixels, M measures.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from unidino_fast.qc.passes import (
    EDGE,
    Found,
    Sampling,
    along,
    halved,
    median_of,
    n_squares,
    pass_over,
    quarters,
    some_strips,
    square_sums,
    summed_up,
    watcher,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from unidino_fast.reading import Known, Watcher

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

_LEAST_DETAIL = 1.5
"""Detail of 8 pixels over that of noise: below that a plane shows nothing that could be sharp."""
_LEAST_FINE = 1 / 16
"""Share of the detail of 4 pixels that is left of it when noise is taken off, at least: sharp
images of coarse pixels look like noise."""
_EMPTY_SPAN = 1.25
"""Noise of a pixel that the means of 8 x 8 pixels of an empty square span at most. Of such means
noise has left an eighth: 64 of them span some 5/8 of it, and twice that hardly ever by chance. It
is told by the median of differences, so that bright cells do not hide dim ones."""
_SAMPLED = 128**2
"""Pixels that percentiles are taken of, at least, where there are as many, all over the plane."""
_STRIPS = 32
"""Strips of `EDGE` rows that detail is looked for in, at least, where there are as many, all over
the plane: some of them cross any cell that is larger than a 32nd of it."""
MEASURED_AS = (*MEASURES, "2")
"""Which measures these are, and how they are taken: the number rises where values change."""
_PERCENTILES = (5, 99)
_LEAST_RANGE = 64
"""Grey levels: planes that span fewer are only saturated at the end of their dtype."""
_COUNTED_BYTES = 2
"""Of whole numbers that have few enough values to be counted."""
_ROUNDED_SPAN = _EMPTY_SPAN * EDGE**2 * 12**-0.5
"""Of sums, by the noise of numbers that are rounded to whole ones."""
_LOWEST = Found._fields.index("lowest")
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
    return measured(look_at(planes, range(len(planes))))


def quality_watcher(shape: tuple[int, int], dtype: np.dtype[Any]) -> Watcher | None:
    """What looks at planes (H, W) of a dtype while this thread decodes them, if anything does."""
    if min(shape) < EDGE:
        return None
    plan = _plan(shape, dtype)
    return watcher(shape, dtype, plan.sampling) if plan.is_counted else None


class Seen(NamedTuple):
    """What a look at a plane found (F,), as `Found` has it in order, and how it was taken."""

    plan: _Plan
    found: NDArray[Any]

    @property
    def lowest(self) -> float:
        """Of all pixels."""
        value: float = self.found[_LOWEST]
        return value


def look_at(
    planes: Plane, numbers: Sequence[int], known: Sequence[Known] = ()
) -> list[Seen | None]:
    """What `measured` needs of some planes.

    Args:
        planes: (C, H, W).
        numbers: of those to look at.
        known: of each of these what `quality_watcher` has found of it, or of none.

    Returns:
        Of each; None of one where that leaves all open.
    """
    if not numbers or min(planes.shape[1:]) < EDGE:
        return [None] * len(numbers)
    plan = _plan(planes.shape[1:], planes.dtype)
    if plan.is_counted:
        found = [one.found for one in known] or [None] * len(numbers)
        left = [number for number, row in zip(numbers, found, strict=True) if row is None]
        rows = iter(pass_over(planes, left, plan.sampling) if left else ())
        return [Seen(plan, next(rows) if row is None else row) for row in found]
    return [_look_at_numbers(planes[number], plan) for number in numbers]


def measured(seen: Sequence[Seen | None]) -> Values:
    """Measures (C, M) of any planes, as `measure_planes` gives them.

    Of many at a time: Python's steps for each by itself take a fifth of what the look takes.
    """
    values = np.full((len(seen), len(MEASURES)), np.nan, np.float32)
    known = ((row, one) for row, one in enumerate(seen) if one is not None)
    for plan, own in groupby(known, lambda pair: pair[1].plan):
        rows, looks = zip(*own, strict=True)
        found = Found(*np.array([look.found for look in looks], np.float64).T)
        with np.errstate(all="ignore"):
            values[list(rows)] = np.stack(_measures(found, plan), axis=1)
    return values


class _Plan(NamedTuple):
    """How planes of a shape and dtype are looked at, and what is made of it.

    Attributes:
        sampling: the sample is for percentiles, the strips for detail.
        is_counted: whether they are whole numbers of few bits.
        is_float: whether they are floating-point.
        ceiling: the highest value of whole ones.
        n_pixels: of a plane.
        n_squares: that are empty or not.
        n_down, n_right: squares of `EDGE` pixels both ways.
        divisors: of squared differences that were added up, from the finest to the coarsest: white
            noise has its own variance at each level.
    """

    sampling: Sampling
    is_counted: bool
    is_float: bool
    ceiling: float
    n_pixels: int
    n_squares: int
    n_down: int
    n_right: int
    divisors: tuple[int, int, int]


@lru_cache(maxsize=8)
def _plan(shape: tuple[int, int], dtype: np.dtype[Any]) -> _Plan:
    height, width = shape
    step = max(1, int((height * width / _SAMPLED) ** 0.5))
    n_sampled = -(-height // step) * -(-width // step)
    low, high = (round((n_sampled - 1) * percent / 100) for percent in _PERCENTILES)
    n_down, n_right = height // EDGE, width // EDGE
    every = max(1, n_down // _STRIPS)
    n_strips = -(-n_down // every)
    squares_down, squares_across = n_squares((n_down, n_right))
    is_float = dtype.kind == "f"
    is_counted = dtype.kind == "u" and dtype.itemsize <= _COUNTED_BYTES
    counts = (1, 1, 2)  # averages; of pixels that are counted, sums
    if is_counted:
        counts = (4 * n_strips * (width // 2), 2 * n_strips * (width // 4), 2 * n_strips * n_right)
    noise = _EMPTY_SPAN * EDGE**2 / 2 / _NORMAL_MEDIAN, 0.0 if is_float else _ROUNDED_SPAN
    return _Plan(
        Sampling(step, (low, high), every, noise),
        is_counted=is_counted,
        is_float=is_float,
        ceiling=math.inf if is_float else float(np.iinfo(dtype).max),
        n_pixels=height * width,
        n_squares=squares_down * squares_across,
        n_down=n_down,
        n_right=n_right,
        divisors=(4 * counts[0], 16 * counts[1], 64 * counts[2]),
    )


def _look_at_numbers(plane: Plane, plan: _Plan) -> Seen | None:
    """At a plane of any numbers."""
    if plan.is_float and not np.isfinite(plane).all():  # which is said where it is embedded
        return None
    with np.errstate(all="ignore"):
        return Seen(plan, np.array(_computed(plane, plan), np.float64))


def _computed(plane: Plane, plan: _Plan) -> Found:
    """Of any numbers."""
    step, places, every, noise = plan.sampling
    sample = np.partition(plane[::step, ::step].reshape(-1), places)
    twos, cross = halved(*quarters(some_strips(plane, every).astype(np.float32)))
    fours, fine = halved(*quarters(twos))
    down, right = along(*quarters(fours))
    middle = median_of(cross)
    highest = plane.max().item()
    return Found(
        total=plane.sum(dtype=np.float64 if plan.is_float else np.int64).item(),
        lowest=plane.min().item(),
        highest=highest,
        n_highest=int(np.count_nonzero(plane == highest)),
        low=sample[places[0]].item(),
        high=sample[places[1]].item(),
        middle=middle,
        cross=_mean_square(cross),
        fine=_mean_square(fine),
        coarse=_mean_square(down) + _mean_square(right),
        **summed_up(square_sums(plane, np.float32), middle, noise),
    )


def _mean_square(detail: Values) -> float:
    return float(np.square(detail).mean(dtype=np.float64))


def _measures(found: Found, plan: _Plan) -> tuple[NDArray[np.float64], ...]:
    """All of `MEASURES`, of arrays of what was found of each plane."""
    span = found.highest - found.lowest
    ends = span > 0 if plan.is_float else (found.highest == plan.ceiling) | (span >= _LEAST_RANGE)
    return (
        found.total / plan.n_pixels,
        found.low,
        found.high - found.low,
        _focus(found, plan),
        np.where(ends, (found.n_highest - 1) / plan.n_pixels, 0.0),
        found.n_empty / plan.n_squares,
        _gradient(found.down, found.within, plan.n_down),
        _gradient(found.right, found.within, plan.n_right),
    )


def _focus(found: Found, plan: _Plan) -> NDArray[np.float64]:
    """Detail of 4 pixels against that of 8, in octaves of energy, without the noise of the camera.

    Both are of the same light, so that brightness and contrast cancel. A slope of the power
    spectrum, as CellProfiler's PowerLogLogSlope (Bray et al. 2012), but at its fine end alone,
    which a blur takes first; the finest detail of all, of 2 pixels, is taken for noise.
    """
    details = zip((found.cross, found.fine, found.coarse), plan.divisors, strict=True)
    noise, fine, coarse = (energy / divisor for energy, divisor in details)
    ratio = np.maximum(fine - noise, fine * _LEAST_FINE) / (coarse - noise)
    ratio[coarse <= _LEAST_DETAIL * noise] = math.nan
    # one by one: numpy's logarithm is not the same on all processors
    return np.array([_log2(one) for one in ratio.tolist()])


def _log2(ratio: float) -> float:
    if ratio > 0:
        return math.log2(ratio)
    return -math.inf if ratio == 0 else math.nan


def _gradient(tilt: Any, within: Any, n: int) -> NDArray[np.float64]:
    """Rise of a straight line through sums of squares, edge to edge over their mean.

    The slope of the line of least squares through n values is that of the values times their places
    from the middle, added up, over n (n^2 - 1) / 12.
    """
    rise = 6 * tilt * n / (n**2 - 1) / within if n > 1 else np.zeros_like(within)
    return np.where(within > 0, rise, np.nan)
