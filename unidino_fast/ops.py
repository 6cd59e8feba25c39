"""The one place that picks which implementation of an op runs.

Today each op has its reference alone; a Triton kernel that is faster and equal is chosen here.
"""

from __future__ import annotations

from unidino_fast.kernels import (
    intensity_range_reference as intensity_range,
)
from unidino_fast.kernels import (
    segment_mean_reference as segment_mean,
)
from unidino_fast.kernels import (
    tile_normalize_reference as tile_normalize,
)

__all__ = ["intensity_range", "segment_mean", "tile_normalize"]
