"""Operations on pixels, tokens and tile embeddings; one op, one file.

Each file holds the op's reference in plain torch, which is also its CPU path and its test's oracle,
then its Triton kernel, then the launcher, which has the op's name. `unidino_fast.ops` chooses.
This package imports torch and triton alone, nothing of the rest.
"""

from unidino_fast.kernels.add_norm import add_norm, add_norm_reference
from unidino_fast.kernels.intensity_range import (
    IntensityStatistics,
    intensity_range,
    intensity_range_reference,
    intensity_statistics,
    intensity_statistics_reference,
)
from unidino_fast.kernels.quantize_rows import quantize_rows, quantize_rows_reference
from unidino_fast.kernels.segment_mean import segment_mean, segment_mean_reference
from unidino_fast.kernels.tile_normalize import tile_normalize, tile_normalize_reference
from unidino_fast.kernels.tile_signal import tile_signal, tile_signal_reference

__all__ = [
    "IntensityStatistics",
    "add_norm",
    "add_norm_reference",
    "intensity_range",
    "intensity_range_reference",
    "intensity_statistics",
    "intensity_statistics_reference",
    "quantize_rows",
    "quantize_rows_reference",
    "segment_mean",
    "segment_mean_reference",
    "tile_normalize",
    "tile_normalize_reference",
    "tile_signal",
    "tile_signal_reference",
]
