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
    is dropped.

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
    tiles = planes.unfold(1, tile, stride).unfold(2, tile, stride)  # (P, rows, columns, T, T)
    tiles = tiles.flatten(1, 2).to(torch.float32)
    shape = (-1, 1, 1, 1)
    tiles = (tiles - low.to(torch.float32).view(shape)) / span.to(torch.float32).view(shape)
    return tiles.clamp_(0, 1) if clip else tiles
