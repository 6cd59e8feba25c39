"""Ops on the CPU that give what the reference gives in a fraction of its time."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from unidino_fast.kernels import tile_normalize_reference
from unidino_fast.kernels.intensity_range import interpolated, ranks_around

if TYPE_CHECKING:
    from numpy.typing import NDArray

TABLE_DTYPES = (torch.uint8, torch.int16, torch.uint16)
_COUNTED_AT_ONCE = 2**16
"""Pixels whose wide copies stay in the cache, and are no memory to ask the system for."""
_FIRST_ROWS = 16
"""Of a tile: in most tiles with signal they hold enough to tell."""


def intensity_range_by_count(planes: Tensor, percentiles: tuple[float, ...]) -> Tensor:
    """What `intensity_range_reference` gives, bit for bit, of planes (P, H, W) of `COUNTED_DTYPES`.

    The reference counts too, in torch, which asks for 16 bytes a pixel and wakes its threads for
    each step: beside the threads that read that takes many times as long.
    """
    ranks, shares = ranks_around(percentiles, planes.shape[1:].numel())
    lowest = torch.iinfo(planes.dtype).min
    found = [np.searchsorted(_counts(p).cumsum(), ranks, side="right") for p in planes.numpy()]
    ordered = np.array(found, np.float64).reshape(len(planes), len(ranks)) + lowest
    return interpolated(torch.from_numpy(ordered), shares)


def _counts(plane: NDArray[Any]) -> NDArray[np.int64]:
    """How many pixels have each value of their dtype, from the lowest."""
    limits = np.iinfo(plane.dtype)
    counts = np.zeros(int(limits.max) - int(limits.min) + 1, np.int64)
    pixels = plane.reshape(-1)
    for first in range(0, len(pixels), _COUNTED_AT_ONCE):
        values = pixels[first : first + _COUNTED_AT_ONCE]
        if limits.min:  # seen as unsigned, they are off by half of the range
            values = values.view(np.uint16) ^ np.uint16(2**15)
        found = np.bincount(values)
        counts[: len(found)] += found
    return counts


def tile_normalize_by_table(
    planes: Tensor,
    low: Tensor,
    span: Tensor,
    *,
    tile: int,
    stride: int,
    clip: bool,
    patch: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """What `tile_normalize_reference` gives, of planes (P, H, W) of `TABLE_DTYPES`.

    An integer image has at most 65,536 values, so the reference's float64 arithmetic is done once
    for each of them and looked up for each pixel.
    """
    signed = planes.view(torch.int16) if planes.dtype is torch.uint16 else planes
    # laid out before they are looked up: integers are the smaller ones to move
    cut = _laid_out(signed, tile, stride, patch)
    values = torch.empty(cut.shape, dtype=dtype)
    for index in range(len(planes)):
        table = _table(float(low[index]), float(span[index]), planes.dtype, clip, dtype)
        places = cut[index].reshape(-1).to(torch.int32)
        if planes.dtype is not torch.uint8:
            places &= 0xFFFF  # negative numbers stand in the table's upper half
        torch.index_select(table, 0, places, out=values[index].view(-1))
    return values


def segment_mean_by_numpy(features: Tensor, keep: Tensor) -> Tensor:
    """What `segment_mean_reference` gives, but for float64's last bits.

    It is a few thousand numbers: torch would hand them to its threads, and wait for those.
    """
    kept = features.to(torch.float64).numpy()[:, keep.numpy()]
    return torch.from_numpy(kept.mean(axis=1).astype(np.float32))


def tile_signal_by_count(
    planes: Tensor, *, tile: int, stride: int, enough: int | None = None
) -> Tensor:
    """What `tile_signal_reference` gives, counted tile by tile in the pixels' own dtype.

    Where the first rows of a tile hold `enough` already, the others are not looked at.
    """
    rows = range(0, planes.shape[1] - tile + 1, stride)
    columns = range(0, planes.shape[2] - tile + 1, stride)
    counts = [
        _n_above(plane[y : y + tile, x : x + tile], enough)
        for plane in planes.numpy()
        for y in rows
        for x in columns
    ]
    return torch.from_numpy(np.array(counts, np.int32).reshape(len(planes), -1))


def _n_above(tile: NDArray[Any], enough: int | None) -> int:
    """Pixels above zero; at least `enough`, where there are as many."""
    if enough is None:
        return int(np.count_nonzero(tile > 0))
    n_first = int(np.count_nonzero(tile[:_FIRST_ROWS] > 0))
    return n_first if n_first >= enough else n_first + int(np.count_nonzero(tile[_FIRST_ROWS:] > 0))


def _laid_out(planes: Tensor, tile: int, stride: int, patch: int | None) -> Tensor:
    """Tiles (P, N, T, T), or their patches (P, N, (T / E) ** 2, E * E)."""
    tiles = planes.unfold(1, tile, stride).unfold(2, tile, stride).flatten(1, 2)
    if patch is None:
        return tiles
    return tiles.unfold(2, patch, patch).unfold(3, patch, patch).flatten(4).flatten(2, 3)


@lru_cache(maxsize=8)
def _table(low: float, span: float, pixel: torch.dtype, clip: bool, dtype: torch.dtype) -> Tensor:
    """What each value becomes, in the order of its bits."""
    if pixel is torch.uint8:
        levels = torch.arange(256, dtype=torch.int32)
    else:
        levels = torch.arange(65536, dtype=torch.int32)
        if pixel is torch.int16:
            levels = torch.where(levels < 32768, levels, levels - 65536)
    bounds = (torch.tensor([value], dtype=torch.float64) for value in (low, span))
    return tile_normalize_reference(
        levels.view(1, 1, -1), *bounds, tile=1, stride=1, clip=clip, dtype=dtype
    ).reshape(-1)
