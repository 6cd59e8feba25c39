"""Planes -> scaled tiles. Letters: P planes, H x W pixels, N tiles a plane, T tile edge."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def tile_normalize_reference(
    planes: Tensor, low: Tensor, span: Tensor, *, tile: int, stride: int, clip: bool
) -> Tensor:
    """Cuts planes into tiles and maps each pixel to `(x - low) / span`.

    Tiles start at the top-left corner and run along rows; what is left over at the right and bottom
    is dropped. The arithmetic is float64: in float32 a narrow range far from zero (uint32 counts, a
    percentile between two large integers) would lose its digits in the subtraction.

    Args:
        planes: (P, H, W), any real dtype.
        low: (P,) float, subtracted.
        span: (P,) float, divided by.
        tile: edge T in pixels, at most H and W.
        stride: step between tiles in pixels.
        clip: clamp to [0, 1].

    Returns:
        (P, N, T, T) float32.
    """
    shape = (-1, 1, 1)
    scaled = planes.to(torch.float64)
    scaled = (scaled - low.to(torch.float64).view(shape)) / span.to(torch.float64).view(shape)
    if clip:
        scaled = scaled.clamp_(0, 1)
    tiles = scaled.to(torch.float32).unfold(1, tile, stride).unfold(2, tile, stride)
    return tiles.flatten(1, 2)  # (P, rows * columns, T, T)
