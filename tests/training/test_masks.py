"""Masks: random ones by number, blocks against a plain reading of the released rule."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from unidino_fast.training.augment import ViewGroup, draw_views, sample_generator
from unidino_fast.training.config import ViewsConfig
from unidino_fast.training.masks import BlockMasks, RandomMasks

Patch = tuple[int, int]


def naive_blocks(dice: random.Random, grid: int, wanted: float) -> set[Patch]:
    """iBOT's blocks with sets of patches: rectangles are tried until they cover enough."""
    hidden: set[Patch] = set()
    while len(hidden) < wanted:
        most = wanted - len(hidden)
        for _ in range(10):
            area = dice.uniform((grid // 3) ** 2, most)
            aspect = math.exp(dice.uniform(math.log(0.3), math.log(1 / 0.3)))
            h, w = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
            if h < grid and w < grid:
                y, x = dice.randint(0, grid - h), dice.randint(0, grid - w)
                new = {(y + i, x + j) for i in range(h) for j in range(w)} - hidden
                if 0 < len(new) <= most:
                    hidden |= new
                    break
        else:
            break
    return hidden


@pytest.mark.parametrize(
    ("grid", "share", "spread"), [(14, 0.3, 0.2), (6, 0.3, 0.0), (9, 0.5, 0.1)]
)
def test_blocks_are_drawn_as_released(grid: int, share: float, spread: float) -> None:
    """How many are hidden, and how often each patch is, in 2000 views."""
    n = 2000
    generator, dice = np.random.default_rng(1), random.Random(2)
    masks = BlockMasks(grid, probability=1.0, share=share, spread=spread)
    ours = np.stack([masks.draw(generator) for _ in range(n)])
    wanted = np.zeros((n, grid, grid), dtype=bool)
    for view in wanted:
        for patch in naive_blocks(
            dice, grid, dice.uniform(share - spread, share + spread) * grid**2
        ):
            view[patch] = True
    assert ours.shape == (n, grid**2)
    assert ours.sum(1).max() <= (share + spread) * grid**2
    counts, others = np.sort(ours.sum(1)), np.sort(wanted.sum((1, 2)))
    steps = np.arange(grid**2 + 1)
    shares = [np.searchsorted(held, steps, side="right") / n for held in (counts, others)]
    # two samples of one distribution differ by less than 1.95 sqrt(2 / n) in 999 of 1000 cases
    assert np.abs(shares[0] - shares[1]).max() < 1.95 * math.sqrt(2 / n)
    # five standard errors of the difference of two shares of at most one half each
    often = ours.mean(0).reshape(grid, grid) - wanted.mean(0)
    assert np.abs(often).max() < 5 * math.sqrt(0.5 / n)


def test_half_of_the_views_are_masked() -> None:
    masks = BlockMasks(14, probability=0.5, share=0.3, spread=0.2)
    generator = np.random.default_rng(0)
    hidden = np.array([masks.draw(generator).any() for _ in range(2000)])
    assert hidden.mean() == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / 2000))
    never = BlockMasks(14, probability=0.0, share=0.3, spread=0.2)
    assert not any(never.draw(generator).any() for _ in range(50))


def test_random_masks_leave_a_number_seen() -> None:
    masks, generator = RandomMasks(grid=5, n_seen=6), np.random.default_rng(0)
    drawn = np.stack([masks.draw(generator) for _ in range(3000)])
    assert (drawn.sum(1) == 19).all()
    # each patch alike, within five standard errors
    assert np.abs(drawn.mean(0) - 19 / 25).max() < 5 * math.sqrt(0.25 / 3000)


def test_masks_leave_the_views_as_they_are() -> None:
    """The same crops and colours with and without masks, and the same masks again."""
    views = ViewsConfig()
    bare, masked = ViewGroup(2, 32), ViewGroup(2, 32, BlockMasks(4, 1.0, 0.4, 0.1))
    one = draw_views(sample_generator(0, 1, 2), (50, 60), bare, views)
    other = draw_views(sample_generator(0, 1, 2), (50, 60), masked, views)
    again = draw_views(sample_generator(0, 1, 2), (50, 60), masked, views)
    for name in ("corners", "flips", "colours"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.masks.shape == (2, 0)
    assert other.masks.shape == (2, 16)
    np.testing.assert_array_equal(other.masks, again.masks)
