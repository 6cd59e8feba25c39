"""Pixels of a field -> what tells whether they are sound, a few numbers a channel.

Measured in the threads that read, while the pixels are in the caches: some .2 ms of processor time
for a megapixel of 8 or 16 bits, so that the network does not wait for it. Nothing here depends on
threads: equal pixels of one dtype give equal bits wherever they are measured.

Letters: C channels, H x W pixels, M measures.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from unidino_fast.qc.passes import COUNTED, EDGE, halved, pass_over, quarters, summed_up

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
    facts = _counted(plane) if plane.dtype.name in COUNTED else _computed(plane)
    is_float = plane.dtype.kind == "f"
    return (
        facts.total / plane.size,
        facts.low,
        facts.high - facts.low,
        _focus(facts),
        _saturated(facts, plane),
        _empty(facts, least=0 if is_float else 12**-0.5),
        *_gradients(facts),
    )


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the pixels of a plane, and its Haar transform, say.

    Attributes:
        total: of all pixels; of whole numbers, exact.
        lowest, highest: of all pixels.
        n_highest: pixels of the highest value.
        low, high: percentiles.
        middle: crosswise differences of 2 x 2 pixels, scaled as pixels are: median of their
            absolute values.
        noise: their mean square; white noise has its own variance at each level.
        fine: mean square of the crosswise differences of squares of 2 pixels.
        coarse: mean square of differences down and to the right of squares of 4 pixels.
        spans: highest less lowest mean of 8 x 8 pixels in each square of 64.
        down, right: sums of 8 x 8 pixels, added up by their rows and columns.
    """

    total: float
    lowest: float
    highest: float
    n_highest: int
    low: float
    high: float
    middle: float
    noise: float
    fine: float
    coarse: float
    spans: Values
    down: NDArray[Any]
    right: NDArray[Any]


def _sampling(plane: Plane) -> tuple[int, tuple[int, int]]:
    """Every n-th pixel both ways is looked at; places of the percentiles among them, in order."""
    step = max(1, int((plane.size / _SAMPLED) ** 0.5))
    n_pixels = -(-plane.shape[0] // step) * -(-plane.shape[1] // step)
    low, high = (round((n_pixels - 1) * percent / 100) for percent in _PERCENTILES)
    return step, (low, high)


def _counted(plane: Plane) -> _Facts:
    """Of whole numbers of few bits."""
    found = pass_over(plane, *_sampling(plane))
    height, width = plane.shape
    return _Facts(
        total=found.total,
        lowest=found.lowest,
        highest=found.highest,
        n_highest=found.n_highest,
        low=found.low,
        high=found.high,
        middle=found.middle / 2,
        noise=found.cross / ((height // 2) * (width // 2) * 4),
        fine=found.fine / ((height // 4) * (width // 4) * 16),
        coarse=found.coarse / (2 * (height // EDGE) * (width // EDGE) * EDGE**2),
        spans=np.divide(found.spans, EDGE**2, dtype=np.float32),
        down=found.down,
        right=found.right,
    )


def _computed(plane: Plane) -> _Facts:
    """Of any numbers."""
    step, places = _sampling(plane)
    sample = np.partition(plane[::step, ::step].reshape(-1), places)
    sums, cross = halved(*quarters(plane.astype(np.float32)))
    sums, fine = halved(*quarters(sums))
    a, b, c, d = quarters(sums)
    down, right = (c + d) - (a + b), (a - b) + (c - d)
    crosses = np.abs(cross[::2, ::2]).reshape(-1)
    middle = crosses.size // 2
    highest = plane.max()
    found = summed_up((a + b) + (c + d))
    return _Facts(
        total=float(plane.sum(dtype=np.float64 if plane.dtype.kind == "f" else np.int64)),
        lowest=plane.min().item(),
        highest=highest.item(),
        n_highest=int(np.count_nonzero(plane == highest)),
        low=float(sample[places[0]]),
        high=float(sample[places[1]]),
        middle=float(np.partition(crosses, middle)[middle]) / 2,
        noise=_mean_square(cross) / 4,
        fine=_mean_square(fine) / 16,
        coarse=(_mean_square(down) + _mean_square(right)) / 2 / 64,
        spans=np.divide(found["spans"], EDGE**2, dtype=np.float32),
        down=found["down"],
        right=found["right"],
    )


def _mean_square(detail: Values) -> float:
    return float(np.square(detail).mean(dtype=np.float64))


def _focus(facts: _Facts) -> float:
    """Detail of 4 pixels against that of 8, in octaves of energy, without the noise of the camera.

    Both are of the same light, so that brightness and contrast cancel. A slope of the power
    spectrum, as CellProfiler's PowerLogLogSlope (Bray et al. 2012), but at its fine end alone,
    which a blur takes first; the finest detail of all, of 2 pixels, is taken for noise.
    """
    if facts.coarse <= _LEAST_DETAIL * facts.noise:
        return float("nan")
    fine = max(facts.fine - facts.noise, facts.fine * _LEAST_FINE)
    return float(np.log2(fine) - np.log2(facts.coarse - facts.noise))


def _saturated(facts: _Facts, plane: Plane) -> float:
    """Share of pixels at the highest value, as CellProfiler's PercentMaximal (Bray et al. 2012).

    The first of them does not count: some pixel is the highest of any plane.
    Cameras of 12 bits stop at 4095 in 16, others at odd values, so that it is not the end of the
    dtype that counts. A plane that spans few levels has many pixels at each.
    """
    span = facts.highest - facts.lowest
    if plane.dtype.kind == "f":
        spans = span > 0
    else:
        spans = facts.highest == np.iinfo(plane.dtype).max or span >= _LEAST_RANGE
    return (facts.n_highest - 1) / plane.size if spans else 0.0


def _empty(facts: _Facts, *, least: float) -> float:
    """Share of squares whose means of 8 pixels span no more than 1.25 times the noise of a pixel.

    Of such means noise has left an eighth: 64 of them span some 5/8 of it, and twice that hardly
    ever by chance. The noise is that of most places, so that bright cells do not hide dim ones;
    `least` is that of rounding.
    """
    noise = max(facts.middle / _NORMAL_MEDIAN, least)
    n_empty = np.count_nonzero(facts.spans <= _EMPTY_SPAN * noise)
    return float(n_empty) / float(facts.spans.size)


def _gradients(facts: _Facts) -> tuple[float, float]:
    """Rise of a straight line through the sums, edge to edge over their mean, down and right."""
    n_down, n_right = len(facts.down), len(facts.right)
    mean = float(facts.down.sum()) / (n_down * n_right)
    if mean <= 0:
        return float("nan"), float("nan")
    return _rise(facts.down / n_right) / mean, _rise(facts.right / n_down) / mean


def _rise(line: NDArray[np.float64]) -> float:
    """What a straight line through values gains from one end to the other."""
    places, square = _centred(len(line))
    slope = float((places * line).sum()) / square if square else 0.0
    return slope * len(line)


@lru_cache(maxsize=8)
def _centred(n: int) -> tuple[NDArray[np.float64], float]:
    """Places along a line, from its middle, and their squares added up."""
    places = np.arange(n, dtype=np.float64) - (n - 1) / 2
    return places, float(np.square(places).sum())
