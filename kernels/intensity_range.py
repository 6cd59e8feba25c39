"""Exact percentiles of planes. Letters: P planes, H x W pixels, Q percentiles, K ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

_COUNTED = (torch.uint8, torch.int16, torch.uint16)
"""Dtypes of so few values that counting them is some 20 times faster than sorting the pixels."""


def intensity_range_reference(planes: Tensor, percentiles: tuple[float, ...]) -> Tensor:
    """Percentiles of each plane, equal to `numpy.percentile` (linear) of the pixels as float64.

    One plane is worked on at a time: the memory in use is 8 bytes (8 and 16 bit) or 16 to 24 bytes
    a pixel of one plane.

    Args:
        planes: (P, H, W), any real dtype, finite.
        percentiles: in 0..100.

    Returns:
        (P, Q) float64.
    """
    last = planes[0].numel() - 1
    places = [percentile / 100 * last for percentile in percentiles]
    ranks = [rank for place in places for rank in (int(place), min(int(place) + 1, last))]
    select = order_statistics_counted if planes.dtype in _COUNTED else order_statistics_sorted
    ordered = torch.stack([select(plane, ranks) for plane in planes])  # (P, 2 Q)
    low, high = ordered[:, 0::2], ordered[:, 1::2]
    share = torch.tensor(
        [place - int(place) for place in places], dtype=torch.float64, device=planes.device
    )
    # numpy starts from the nearer end, so that neither end is missed by rounding
    step = high - low
    return torch.where(share < 0.5, low + step * share, high - step * (1 - share))


def order_statistics_sorted(plane: Tensor, ranks: Sequence[int]) -> Tensor:
    """The values at zero-based ranks of the sorted pixels.

    Args:
        plane: (H, W), any real dtype.
        ranks: K of them, in 0 .. H * W - 1.

    Returns:
        (K,) float64.
    """
    values = plane.flatten()
    if not values.is_floating_point():  # torch cannot sort every unsigned dtype
        values = values.to(torch.int64)
    return values.sort().values[list(ranks)].to(torch.float64)


def order_statistics_counted(plane: Tensor, ranks: Sequence[int]) -> Tensor:
    """Like `order_statistics_sorted`, by a histogram; for integers of at most 16 bits."""
    lowest = torch.iinfo(plane.dtype).min
    counts = torch.bincount(plane.flatten().to(torch.int64) - lowest)
    wanted = torch.tensor(ranks, device=plane.device)
    return (torch.searchsorted(counts.cumsum(0), wanted, right=True) + lowest).to(torch.float64)
