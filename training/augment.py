"""Views of an image: where they are cut and how they are changed.

All random numbers of a sample come from one generator, seeded by (seed, epoch, index), before a
pixel is read: they do not depend on who reads it, nor on what else is in the batch. The pixels are
changed in batches on the device.

B images, V views of one size s. "Paper" is Morelli et al. 2025; its released code shifts
intensities in place, so that later views of an image inherit the shifts of earlier ones. Here each
view is a copy with its own numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from unidino_fast.training.config import ViewsConfig
    from unidino_fast.training.masks import Masks

_NUMBERS = 6  # y, x, two flips, shift, gamma


@dataclass(frozen=True)
class ViewGroup:
    """Views of one size.

    Attributes:
        count: V.
        size: s, their edge in pixels.
        masks: how patches of theirs are hidden, for methods that want it.
    """

    count: int
    size: int
    masks: Masks | None = None


@dataclass(frozen=True)
class ViewDraws:
    """What was drawn for the views of one size.

    Attributes:
        corners: (V, 2) int64, top and left edge.
        flips: (V, 2) bool, upside down and left to right.
        colours: (V, 2) float32, shift and gamma.
        masks: (V, T) bool, hidden patches row by row; T is 0 where none are asked for.
    """

    corners: NDArray[np.int64]
    flips: NDArray[np.bool_]
    colours: NDArray[np.float32]
    masks: NDArray[np.bool_]


def dino_views(views: ViewsConfig) -> tuple[ViewGroup, ...]:
    """Two global views, and the local ones if there are any."""
    local = (ViewGroup(views.n_local, views.local_size),) if views.n_local else ()
    return (ViewGroup(2, views.global_size), *local)


def sample_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The generator of one sample."""
    return np.random.default_rng(np.random.SeedSequence([seed, epoch, index]))


def draw_views(
    generator: np.random.Generator, shape: tuple[int, int], group: ViewGroup, views: ViewsConfig
) -> ViewDraws:
    """Draws plain random crops (no resize) of an image of `shape`, and their changes.

    The image is at least as large as the views.
    """
    uniform = generator.random((group.count, _NUMBERS))
    room = np.array(shape) - group.size + 1
    span = views.gamma_high - views.gamma_low
    masks = [group.masks.draw(generator) for _ in range(group.count)] if group.masks else []
    colours = [
        (2 * uniform[:, 4] - 1) * views.shift,
        views.gamma_low + span * uniform[:, 5],
    ]
    return ViewDraws(
        corners=(uniform[:, :2] * room).astype(np.int64),
        flips=uniform[:, 2:4] < views.flip,
        colours=np.stack(colours, axis=1).astype(np.float32),
        masks=np.array(masks, dtype=bool).reshape(group.count, -1),
    )


def change_views(
    pixels: Tensor, low: Tensor, span: Tensor, flips: Tensor, colours: Tensor
) -> Tensor:
    """Scales crops to [0, 1], flips them, shifts intensities and bends them by gamma.

    Args:
        pixels: (B, V, s, s) as stored; left as they are.
        low: (B,) stored value that becomes 0.
        span: (B,) what is divided by.
        flips: (B, V, 2) bool.
        colours: (B, V, 2) shift and gamma: `clip(clip(x + shift) ** gamma)`, always applied.

    Returns:
        (V, B, s, s) float32, views first as losses want them.
    """
    x = (pixels.to(torch.float32) - low[:, None, None, None]) / span[:, None, None, None]
    x = x.clamp(0, 1)
    up_down, left_right = flips[..., 0, None, None], flips[..., 1, None, None]
    x = torch.where(up_down, x.flip(-2), x)
    x = torch.where(left_right, x.flip(-1), x)
    shift, gamma = colours[..., 0, None, None], colours[..., 1, None, None]
    x = (x + shift).clamp(0, 1).pow(gamma).clamp(0, 1)
    return x.transpose(0, 1).contiguous()
