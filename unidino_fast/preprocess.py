"""Planes -> tiles in [0, 1], and which of them hold signal.

The rules are those of Morelli et al. 2025 and their released code. Letters: C channels, H x W
pixels, N tiles of a plane, T tile edge.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch

from unidino_fast import ops
from unidino_fast.errors import PixelError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from unidino_fast.choices import Intensity

STRETCH = (0.1, 99.9)
"""Percentiles that the `percentile` intensity maps to 0 and 1."""
STRETCH_EPSILON = 1e-8
"""Keeps a constant plane at 0, in units of the stored pixels."""
EMPTY_PERCENT = 1
"""A tile with a smaller percentage of pixels above zero is empty."""
_FLOAT_SLACK = 1e-3


def tiles_of(
    planes: Tensor,
    intensity: Intensity,
    *,
    tile: int,
    stride: int,
    patch: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Cuts planes into tiles and scales their intensity.

    Args:
        planes: (C, H, W) in the stored dtype.
        intensity: `dtype` divides by the dtype's maximum (floating-point pixels are taken as 0..1);
            `percentile` stretches each plane from its 0.1 to its 99.9 percentile; both clip to
            [0, 1]. `none` leaves the values as they are.
        tile: edge in pixels.
        stride: step between tiles in pixels.
        patch: lays each tile out as rows of patches of this edge P.
        dtype: what the scaled intensities are rounded to.

    Returns:
        (C, N, T, T), or, with `patch`, (C, N, (T / P) ** 2, P * P).

    Raises:
        PixelError: floating-point pixels are not finite, or not in 0..1 where `dtype` needs that.
    """
    _check_finite(planes)
    if intensity == "percentile":
        bounds = ops.intensity_range(planes, STRETCH)  # (C, 2)
        low = bounds[:, 0]
        span = bounds[:, 1] - bounds[:, 0] + STRETCH_EPSILON
    else:
        whole = 1
        if intensity == "dtype":
            if planes.is_floating_point():
                _check_unit_range(planes)
            else:
                whole = torch.iinfo(planes.dtype).max
        low, span = _from_zero(whole, len(planes), planes.device)
    clip = intensity != "none"
    return ops.tile_normalize(
        planes, low, span, tile=tile, stride=stride, clip=clip, patch=patch, dtype=dtype
    )


def tiles_with_signal(plane: Tensor, *, tile: int, stride: int) -> Tensor:
    """Which tiles of a field are kept, judged on its first channel for all channels.

    A tile is empty when less than 1 % of its pixels are above zero; where all are empty, tile
    N // 2 is kept.

    Args:
        plane: (H, W) in the stored dtype, the field's first channel.
        tile: edge in pixels.
        stride: step between tiles in pixels.

    Returns:
        (N,) bool.
    """
    enough = _enough(tile)
    n_above = ops.tile_signal(plane[None], tile=tile, stride=stride, enough=enough)[0]  # (N,)
    keep = n_above >= enough
    if not bool(keep.any()):
        keep[len(keep) // 2] = True
    return keep


def all_with_signal(plane: NDArray[Any], *, tile: int, stride: int) -> bool:
    """Whether a look at some rows shows already that `tiles_with_signal` keeps all tiles.

    A camera's offset leaves no pixel at zero: three rows of each tile then tell, in a tenth of the
    time. Args are those of `tiles_with_signal`.
    """
    n_rows = -(-_enough(tile) // tile)
    starts = range(0, plane.shape[0] - tile + 1, stride)
    return all(plane[y : y + n_rows].min() > 0 for y in starts)


def _enough(tile: int) -> int:
    """Pixels above zero that make a signal, in integers: .01 * 70 * 70 is 49.00000000000001."""
    return -(-EMPTY_PERCENT * tile * tile // 100)


@lru_cache(maxsize=64)
def _from_zero(whole: int, n_planes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Lows and spans (C,), alike for every field: made once, as a GPU takes a step for each."""
    with torch.inference_mode(mode=False):  # whoever asks first, it is for others too
        low = torch.zeros(n_planes, dtype=torch.float64, device=device)
        return low, torch.full_like(low, whole)


def _check_finite(planes: Tensor) -> None:
    if not planes.is_floating_point():
        return
    n_bad = planes.numel() - int(torch.isfinite(planes).sum())
    if n_bad:
        share = n_bad / planes.numel()
        amount = f"{share:.2%}" if share >= 1e-4 else f"{n_bad}"
        raise PixelError(f"{amount} of its pixels are NaN or infinite: fill them before embedding")


def _check_unit_range(planes: Tensor) -> None:
    low, high = float(planes.min()), float(planes.max())
    if low < -_FLOAT_SLACK or high > 1 + _FLOAT_SLACK:
        raise PixelError(
            f"its floating-point pixels run from {low:g} to {high:g}, but --intensity dtype takes"
            " them as 0 to 1: use --intensity percentile"
        )
