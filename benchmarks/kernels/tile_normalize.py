"""`tile_normalize`: planes to patches, as the network reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from unidino_fast import ops
from unidino_fast.benchmarks.kernels.case import OpCase, fields, fluorescence, named
from unidino_fast.kernels import tile_normalize, tile_normalize_reference

if TYPE_CHECKING:
    from torch import Tensor

TILE, PATCH = 224, 16


def cases(device: torch.device) -> list[OpCase]:
    """16-bit planes to bf16 and to float32."""
    return [_case(device, dtype) for dtype in (torch.bfloat16, torch.float32)]


def _case(device: torch.device, dtype: torch.dtype) -> OpCase:
    planes = fluorescence(fields(device), device)
    low = torch.full((len(planes),), 150.0, dtype=torch.float64, device=device)
    span = torch.full((len(planes),), 9_000.0, dtype=torch.float64, device=device)
    options = {"tile": TILE, "stride": TILE, "clip": True, "patch": PATCH, "dtype": dtype}
    covered = len(planes) * (planes.shape[1] // TILE) * (planes.shape[2] // TILE) * TILE**2
    return OpCase(
        op="tile_normalize",
        shape=f"{named(planes)} to patches of {PATCH} px",
        dtypes=f"uint16 to {str(dtype).removeprefix('torch.')}",
        n_bytes=covered * (planes.itemsize + dtype.itemsize),
        kernel=lambda: tile_normalize(planes, low, span, **options),  # type: ignore[arg-type]
        reference=lambda: tile_normalize_reference(planes, low, span, **options),  # type: ignore[arg-type]
        expression=lambda: expression(planes, low.float(), span.float(), dtype),
        on_cpu=lambda: ops.tile_normalize(planes, low, span, **options),  # type: ignore[arg-type]
        # one unit in the last place of bfloat16
        tolerance=5e-3 if dtype == torch.bfloat16 else 1e-6,
    )


def expression(planes: Tensor, low: Tensor, span: Tensor, dtype: torch.dtype) -> Tensor:
    """The op in float32, in torch's words; H and W are multiples of the tile."""
    n_planes, height, width = planes.shape
    scaled = (planes.to(torch.float32) - low[:, None, None]) / span[:, None, None]
    scaled = scaled.clamp(0, 1).to(dtype)
    side, down, across = TILE // PATCH, height // TILE, width // TILE
    grid = scaled.view(n_planes, down, side, PATCH, across, side, PATCH)
    patches = grid.permute(0, 1, 4, 2, 5, 3, 6)
    return patches.reshape(n_planes, down * across, side * side, PATCH * PATCH)
