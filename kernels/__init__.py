"""Operations on pixels and tile embeddings; one op, one file.

Each file holds the op's reference in plain torch, which is also its CPU path and its test's oracle.
This package imports torch alone, nothing of the rest.
"""

from unidino_fast.kernels.intensity_range import intensity_range_reference
from unidino_fast.kernels.segment_mean import segment_mean_reference
from unidino_fast.kernels.tile_normalize import tile_normalize_reference

__all__ = ["intensity_range_reference", "segment_mean_reference", "tile_normalize_reference"]
