"""`intensity_range`: two percentiles of each plane."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from unidino_fast import ops
from unidino_fast.benchmarks.kernels.case import OpCase, fields, fluorescence, named
from unidino_fast.kernels import intensity_range, intensity_range_reference
from unidino_fast.preprocess import STRETCH

if TYPE_CHECKING:
    from torch import Tensor


def cases(device: torch.device) -> list[OpCase]:
    """16-bit and 8-bit planes."""
    return [_case(device, dtype) for dtype in (torch.uint16, torch.uint8)]


def _case(device: torch.device, dtype: torch.dtype) -> OpCase:
    planes = fluorescence(fields(device), device, dtype)
    return OpCase(
        op="intensity_range",
        shape=named(planes),
        dtypes=f"{str(dtype).removeprefix('torch.')} to float64",
        n_bytes=planes.nbytes + len(planes) * len(STRETCH) * 8,
        kernel=lambda: intensity_range(planes, STRETCH),
        reference=lambda: intensity_range_reference(planes, STRETCH),
        expression=lambda: expression(planes),
        on_cpu=lambda: ops.intensity_range(planes, STRETCH),
        tolerance=1e-6,
    )


def expression(planes: Tensor) -> Tensor:
    """The op by sorting, in float32: `torch.quantile` takes no more than 16 million numbers."""
    ordered = planes.flatten(1).to(torch.float32).sort(dim=1).values
    columns = []
    for percentile in STRETCH:
        place = percentile / 100 * (ordered.shape[1] - 1)
        below = ordered[:, int(place)].to(torch.float64)
        above = ordered[:, min(int(place) + 1, ordered.shape[1] - 1)].to(torch.float64)
        columns.append(below + (above - below) * (place - int(place)))
    return torch.stack(columns, dim=1)
