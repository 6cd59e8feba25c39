"""What one pass over the pixels of planes of whole numbers finds: all that quality is told by.

A compiled pass takes a small part of the time. To have it takes memory, and a second or two where
it was never compiled before: a look at some fields is spared that, and goes by numpy. Both give the
same numbers, in whole numbers throughout.

Letters: C planes of H x W pixels, S whole strips of `EDGE` rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from unidino_fast.compiled import Compiled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from unidino_fast.reading import Watcher

    Planes = NDArray[Any]
    Pass = Callable[[Planes, Sequence[int], "Sampling"], NDArray[np.int64]]

EDGE = 8
"""Edge in pixels of the largest squares whose sums are found, and of the smallest plane."""
PIXELS_BY_NUMPY = 16 << 20
"""Of one dtype, before the compiled pass is taken: ten wells are to take the memory that a thousand
do."""
_WATCHED_BYTES = 2
"""Of a pixel, where planes are decoded to where they belong."""
SQUARE = 64
"""Edge in pixels of the squares that are empty or not."""


class Found(NamedTuple):
    """What a pass finds: numbers of a plane, or arrays of those of several.

    Attributes:
        total: of all pixels.
        lowest, highest: of all pixels.
        n_highest: pixels of the highest value.
        low, high: what stands at two places of the ordered sample.
        middle: median of the crosswise differences of 2 x 2 pixels without their signs, of every
            other one both ways.
        cross: squares of the crosswise differences of 2 x 2 pixels, added up.
        fine: likewise, of squares of 2 x 2 pixels.
        coarse: squares of the differences down and to the right, of squares of 4 x 4 pixels.
        n_empty: whole squares of 64 x 64 pixels, or what there is of the only one, whose sums of
            8 x 8 pixels span no more than noise does.
        within: sum of the pixels of whole squares of 8 x 8.
        down, right: sums of 8 x 8 pixels, each times twice its place down, or to the right, from
            the middle: these add up to nothing where light is even.

    The differences are those of every n-th strip of 8 rows, the others those of all pixels.
    """

    total: Any
    lowest: Any
    highest: Any
    n_highest: Any
    low: Any
    high: Any
    middle: Any
    cross: Any
    fine: Any
    coarse: Any
    n_empty: Any
    within: Any
    down: Any
    right: Any


class Sampling(NamedTuple):
    """Which pixels of a plane are looked at for what.

    Attributes:
        step: from pixel to pixel of the sample, both ways.
        places: in the ordered sample, from 0.
        every: from strip to strip of those whose differences are found, which are to be fewer than
            100: so many fit 64 bits.
        noise: what it makes sums of 8 x 8 pixels span, as a multiple of `Found.middle`; at least.
    """

    step: int
    places: tuple[int, int]
    every: int
    noise: tuple[float, float]


def pass_over(planes: Planes, numbers: Sequence[int], sampling: Sampling) -> NDArray[np.int64]:
    """Goes over some planes of uint8 or uint16, 8 x 8 pixels or larger.

    Squares that an edge would cut are left out of what squares say.

    Args:
        planes: the pixels (C, H, W).
        numbers: of the planes to go over, N.
        sampling: of each.

    Returns:
        (N, F): what `Found` has, in order.
    """
    flags = planes.flags
    if not (flags.c_contiguous and flags.writeable and planes.dtype.isnative):
        # numba tells these apart, and would compile for each
        planes = np.require(planes, planes.dtype.newbyteorder("="), ["C", "W"])
    amount = len(numbers) * planes[0].size
    passes = _COMPILED[planes.itemsize].for_more(amount)
    go = pass_by_numpy if passes is None else passes.over
    return go(planes, numbers, sampling)


def watcher(shape: tuple[int, int], dtype: np.dtype[Any], sampling: Sampling) -> Watcher | None:
    """What goes over planes (H, W) as `pass_over` does, while they are decoded, in this thread.

    None where there is nothing that does: yet, or for planes of 8 bits or an odd width.
    """
    if dtype.itemsize != _WATCHED_BYTES or shape[1] % 2:
        return None
    passes = _COMPILED[dtype.itemsize].for_more(0)
    return None if passes is None else passes.watcher(shape, sampling)


def pass_by_numpy(planes: Planes, numbers: Sequence[int], sampling: Sampling) -> NDArray[np.int64]:
    """See `pass_over`."""
    found = [_found(planes[number], sampling) for number in numbers]
    return np.array(found, np.int64)


def _found(plane: NDArray[Any], sampling: Sampling) -> Found:
    """Of one plane."""
    step, places, every, noise = sampling
    upto = np.bincount(plane[::step, ::step].reshape(-1)).cumsum()
    low, high = np.searchsorted(upto, places, side="right").tolist()
    highest = plane.max()
    twos, cross = halved(*quarters(some_strips(plane, every).astype(np.int32)))
    fours, fine = halved(*quarters(twos))
    down, right = along(*quarters(fours))
    middle = median_of(cross)
    return Found(
        total=int(plane.sum(dtype=np.int64)),
        lowest=int(plane.min()),
        highest=int(highest),
        n_highest=int(np.count_nonzero(plane == highest)),
        low=low,
        high=high,
        middle=middle,
        cross=_energy(cross),
        fine=_energy(fine),
        coarse=_energy(down) + _energy(right),
        **summed_up(square_sums(plane, np.int32), middle, noise),
    )


def some_strips(plane: NDArray[Any], every: int) -> NDArray[Any]:
    """The rows of every n-th whole strip (8 S / n, W)."""
    height, width = plane.shape[0] // EDGE * EDGE, plane.shape[1]
    return plane[:height].reshape(-1, EDGE, width)[::every].reshape(-1, width)


def square_sums(plane: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """Sums of 8 x 8 pixels (H // 8, W // 8)."""
    height, width = (edge // EDGE * EDGE for edge in plane.shape)
    # whole rows first are quicker
    rows = plane[:height, :width].reshape(-1, EDGE, width).sum(axis=1, dtype=dtype)
    found: NDArray[Any] = rows.reshape(len(rows), -1, EDGE).sum(axis=2, dtype=dtype)
    return found


def median_of(cross: NDArray[Any]) -> Any:
    """`Found.middle` of all crosswise differences."""
    sizes = np.abs(cross[::2, ::2]).reshape(-1)
    middle = sizes.size // 2
    return np.partition(sizes, middle)[middle].item()


def summed_up(sums: NDArray[Any], middle: float, noise: tuple[float, float]) -> dict[str, Any]:
    """What `Found` has of sums of 8 x 8 pixels (H // 8, W // 8)."""
    rows, columns = n_squares(sums.shape)
    width = min(SQUARE // EDGE, sums.shape[1])
    strips = sums[: rows * SQUARE // EDGE, : columns * width].reshape(rows, -1, columns * width)
    highest, lowest = (
        strip.reshape(rows, columns, width) for strip in (strips.max(axis=1), strips.min(axis=1))
    )
    wide = np.float64 if sums.dtype.kind == "f" else np.int64
    down, right = (sums.sum(axis=axis, dtype=wide) for axis in (1, 0))
    spans = highest.max(axis=2) - lowest.min(axis=2)
    return {
        "n_empty": int(np.count_nonzero(spans <= max(middle * noise[0], noise[1]))),
        "within": down.sum().item(),
        "down": (down * _from_middle(len(down))).sum().item(),
        "right": (right * _from_middle(len(right))).sum().item(),
    }


def _from_middle(n: int) -> NDArray[np.int64]:
    """Twice the places of n values, from their middle."""
    return 2 * np.arange(n) - (n - 1)


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


def along(
    a: NDArray[Any], b: NDArray[Any], c: NDArray[Any], d: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Differences down and to the right."""
    return (c + d) - (a + b), (a - b) + (c - d)


def _energy(detail: NDArray[np.int32]) -> int:
    """Squares, added up."""
    return int(np.square(detail, dtype=np.int64).sum())


class _Passes(NamedTuple):
    """Of the module `compiled_passes`: over planes that are there, and while they are decoded."""

    over: Pass
    watcher: Callable[[tuple[int, int], Sampling], Watcher]


def _compiled_for(dtype: type[np.unsignedinteger[Any]]) -> Compiled[_Passes]:
    def make() -> _Passes:
        from unidino_fast.qc.compiled_passes import compiled_pass, watcher

        tried = Sampling(1, (0, 0), 1, (0.0, 0.0))
        compiled_pass(np.zeros((1, EDGE, EDGE), dtype), [0], tried)
        if np.dtype(dtype).itemsize == _WATCHED_BYTES:
            watcher((EDGE, EDGE), tried)
        return _Passes(compiled_pass, watcher)

    lack = "quality is measured by numpy, which is slower"
    return Compiled(make, after=PIXELS_BY_NUMPY, lack=lack)


_COMPILED = {np.dtype(dtype).itemsize: _compiled_for(dtype) for dtype in (np.uint8, np.uint16)}
