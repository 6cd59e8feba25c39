"""Pixels of a field -> what tells whether they are sound, a few numbers a channel.

Measured in the threads that read, while the pixels are in the caches: some .1 to .3 ms of processor
time for a megapixel of 8 or 16 bits, so that the network does not wait for it. Nothing here depends
on threads: equal pixels of one dtype give equal bits wherever they are measured.

Letters: C channels, H x W pixels, M measures.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from unidino_fast.qc.passes import (
    EDGE,
    Found,
    along,
    halved,
    pass_over,
    quarters,
    some_strips,
    square_sums,
    summed_up,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Plane = NDArray[Any]
    Values = NDArray[np.float32]
    Measures = tuple[float, ...]

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
_ROUNDED = 12**-0.5
"""Noise of numbers that are rounded to whole ones."""
_OPEN = (math.nan,) * len(MEASURES)
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
    return gathered([measure_plane(plane) for plane in planes])


def gathered(planes: Sequence[Measures]) -> Values:
    """(C, M) of what `measure_plane` gives for each plane."""
    with np.errstate(over="ignore"):
        return np.array(planes, np.float32).reshape(-1, len(MEASURES))


def measure_plane(plane: Plane) -> Measures:
    """Measures of a plane (H, W), as `measure_planes` gives them."""
    if min(plane.shape) < EDGE:
        return _OPEN
    if plane.dtype.kind == "u" and plane.dtype.itemsize <= _COUNTED_BYTES:
        return _measures(_counted(plane), plane.shape, least=_ROUNDED)
    with np.errstate(all="ignore"):  # what is not finite is said where it is embedded
        if plane.dtype.kind != "f":
            return _measures(_computed(plane), plane.shape, least=_ROUNDED)
        if not np.isfinite(plane).all():
            return _OPEN
        return _measures(_computed(plane), plane.shape, least=0.0)


class _Facts(NamedTuple):
    """What the pixels of a plane, and its Haar transform, say.

    Attributes:
        found: of its pixels, of which floating-point ones have floating-point sums.
        ends: whether the highest value is one at which many pixels can have stopped.
        noise: mean square of the crosswise differences of 2 x 2 pixels, scaled as pixels are;
            white noise has its own variance at each level.
        fine: likewise, of squares of 2 pixels.
        coarse: mean square of differences down and to the right of squares of 4 pixels.
    """

    found: Found
    ends: bool
    noise: float
    fine: float
    coarse: float


class _Plan(NamedTuple):
    """How planes of a shape are looked at.

    Attributes:
        step: every n-th pixel both ways is looked at for percentiles.
        places: of the percentiles among them, in order.
        every: every n-th strip is looked at for detail.
        n_strips: that are looked at for detail.
        n_across: squares of `EDGE` pixels in a strip.
    """

    step: int
    places: tuple[int, int]
    every: int
    n_strips: int
    n_across: int


@lru_cache(maxsize=8)
def _plan(shape: tuple[int, int]) -> _Plan:
    height, width = shape
    step = max(1, int((height * width / _SAMPLED) ** 0.5))
    n_pixels = -(-height // step) * -(-width // step)
    low, high = (round((n_pixels - 1) * percent / 100) for percent in _PERCENTILES)
    n_strips = height // EDGE
    every = max(1, n_strips // _STRIPS)
    return _Plan(step, (low, high), every, -(-n_strips // every), width // EDGE)


def _counted(plane: Plane) -> _Facts:
    """Of whole numbers of few bits."""
    plan = _plan(plane.shape)
    found = pass_over(plane, plan.step, plan.places, plan.every)
    width = plane.shape[1]
    ceiling = (1 << 8 * plane.itemsize) - 1
    return _Facts(
        found,
        found.highest == ceiling or found.highest - found.lowest >= _LEAST_RANGE,
        noise=found.cross / (plan.n_strips * 4 * (width // 2) * 4),
        fine=found.fine / (plan.n_strips * 2 * (width // 4) * 16),
        coarse=found.coarse / (plan.n_strips * plan.n_across * 2 * EDGE**2),
    )


def _computed(plane: Plane) -> _Facts:
    """Of any numbers."""
    plan = _plan(plane.shape)
    is_float = plane.dtype.kind == "f"
    sample = np.partition(plane[:: plan.step, :: plan.step].reshape(-1), plan.places)
    twos, cross = halved(*quarters(some_strips(plane, plan.every).astype(np.float32)))
    fours, fine = halved(*quarters(twos))
    down, right = along(*quarters(fours))
    crosses = np.abs(cross[::2, ::2]).reshape(-1)
    middle = crosses.size // 2
    lowest, highest = plane.min().item(), plane.max().item()
    span = highest - lowest
    found: Any = Found(
        total=plane.sum(dtype=np.float64 if is_float else np.int64).item(),
        lowest=lowest,
        highest=highest,
        n_highest=int(np.count_nonzero(plane == highest)),
        low=sample[plan.places[0]].item(),
        high=sample[plan.places[1]].item(),
        middle=np.partition(crosses, middle)[middle].item(),
        cross=0,
        fine=0,
        coarse=0,
        **summed_up(square_sums(plane, np.float32)),
    )
    return _Facts(
        found,
        span > 0 if is_float else highest == np.iinfo(plane.dtype).max or span >= _LEAST_RANGE,
        noise=_mean_square(cross) / 4,
        fine=_mean_square(fine) / 16,
        coarse=(_mean_square(down) + _mean_square(right)) / (2 * EDGE**2),
    )


def _mean_square(detail: Values) -> float:
    return float(np.square(detail).mean(dtype=np.float64))


def _measures(facts: _Facts, shape: tuple[int, ...], *, least: float) -> Measures:
    """All of `MEASURES`; `least` is the noise of rounding."""
    found = facts.found
    n_pixels = shape[0] * shape[1]
    return (
        found.total / n_pixels,
        found.low,
        found.high - found.low,
        _focus(facts),
        (found.n_highest - 1) / n_pixels if facts.ends else 0.0,
        _empty(found, least),
        *_gradients(found, shape),
    )


def _focus(facts: _Facts) -> float:
    """Detail of 4 pixels against that of 8, in octaves of energy, without the noise of the camera.

    Both are of the same light, so that brightness and contrast cancel. A slope of the power
    spectrum, as CellProfiler's PowerLogLogSlope (Bray et al. 2012), but at its fine end alone,
    which a blur takes first; the finest detail of all, of 2 pixels, is taken for noise.
    """
    if facts.coarse <= _LEAST_DETAIL * facts.noise:
        return math.nan
    fine = max(facts.fine - facts.noise, facts.fine * _LEAST_FINE)
    ratio = fine / (facts.coarse - facts.noise)
    if ratio > 0:
        return math.log2(ratio)
    return -math.inf if ratio == 0 else math.nan


def _empty(found: Found, least: float) -> float:
    """Share of squares whose means of 8 pixels span no more than 1.25 times the noise of a pixel.

    Of such means noise has left an eighth: 64 of them span some 5/8 of it, and twice that hardly
    ever by chance. The noise is that of most places, so that bright cells do not hide dim ones.
    """
    noise = max(found.middle / 2 / _NORMAL_MEDIAN, least)
    n_empty = np.count_nonzero(found.spans <= _EMPTY_SPAN * noise * EDGE**2)
    return int(n_empty) / found.spans.size


def _gradients(found: Found, shape: tuple[int, ...]) -> tuple[float, float]:
    """Rise of a straight line through the sums, edge to edge over their mean, down and right.

    The slope of the line of least squares through n values is that of the values times their places
    from the middle, added up, over n (n^2 - 1) / 12.
    """
    if found.within <= 0:
        return math.nan, math.nan
    down, right = (
        6 * tilt * n / (n**2 - 1) / found.within if n > 1 else 0.0
        for tilt, n in ((found.down, shape[0] // EDGE), (found.right, shape[1] // EDGE))
    )
    return down, right
