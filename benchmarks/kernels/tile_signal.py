"""`tile_signal`: pixels above zero of each tile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from unidino_fast import ops
from unidino_fast.benchmarks.kernels.case import OpCase, fields, fluorescence, named
from unidino_fast.kernels import tile_signal, tile_signal_reference

if TYPE_CHECKING:
    from torch import Tensor

TILE = 224


def cases(device: torch.device) -> list[OpCase]:
    """16-bit planes."""
    planes = fluorescence(fields(device), device)
    n_tiles = len(planes) * (planes.shape[1] // TILE) * (planes.shape[2] // TILE)
    return [
        OpCase(
            op="tile_signal",
            shape=f"{named(planes)}, tiles of {TILE} px",
            dtypes="uint16 to int32",
            n_bytes=n_tiles * (TILE**2 * planes.itemsize + 4),
            kernel=lambda: tile_signal(planes, tile=TILE, stride=TILE),
            reference=lambda: tile_signal_reference(planes, tile=TILE, stride=TILE),
            expression=lambda: expression(planes),
            on_cpu=lambda: ops.tile_signal(planes, tile=TILE, stride=TILE),
            tolerance=0.0,
        )
    ]


def expression(planes: Tensor) -> Tensor:
    """The op on a view in five dimensions; H and W are multiples of the tile."""
    n_planes, height, width = planes.shape
    signed = planes.view(torch.int16)  # torch does not compare every unsigned dtype; 0 stays 0
    grid = signed.view(n_planes, height // TILE, TILE, width // TILE, TILE)
    return (grid != 0).sum(dim=(2, 4), dtype=torch.int32).flatten(1)
