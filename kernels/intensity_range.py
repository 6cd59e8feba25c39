"""Exact percentiles of planes. Letters: P planes, H x W pixels, Q percentiles."""

from __future__ import annotations

import torch
from torch import Tensor


def intensity_range_reference(planes: Tensor, percentiles: tuple[float, ...]) -> Tensor:
    """Percentiles of each plane, equal to `numpy.percentile(..., method="linear")`.

    Args:
        planes: (P, H, W), any real dtype.
        percentiles: in 0..100.

    Returns:
        (P, Q) float64.
    """
    values = planes.flatten(1).to(torch.float64).sort(dim=1).values  # (P, H * W)
    last = values.shape[1] - 1
    columns = []
    for percentile in percentiles:
        rank = percentile / 100 * last
        below = min(int(rank), last)
        low, high = values[:, below], values[:, min(below + 1, last)]
        columns.append(low + (high - low) * (rank - below))
    return torch.stack(columns, dim=1)
