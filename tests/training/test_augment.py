"""Draws and changes of views: against numpy, and by their statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unidino_fast.training.augment import (
    ViewGroup,
    change_views,
    dino_views,
    draw_views,
    sample_generator,
)
from unidino_fast.training.config import ViewsConfig

PAPER = ViewsConfig()


def draws(n: int, shape: tuple[int, int] = (30, 41), size: int = 24) -> list:
    group = ViewGroup(4, size)
    return [draw_views(sample_generator(0, 0, i), shape, group, PAPER) for i in range(n)]


def test_views_of_the_paper() -> None:
    assert dino_views(PAPER) == (ViewGroup(2, 224), ViewGroup(8, 96))
    assert dino_views(ViewsConfig(n_local=0)) == (ViewGroup(2, 224),)


def test_crops_are_uniform_and_inside() -> None:
    corners = np.concatenate([drawn.corners for drawn in draws(3000)])
    for axis, room in ((0, 7), (1, 18)):
        counts = np.bincount(corners[:, axis], minlength=room)
        assert len(counts) == room  # every corner from 0 to length - size, and none beyond
        expected = len(corners) / room
        chi2 = float(((counts - expected) ** 2 / expected).sum())
        assert chi2 < room - 1 + 5 * np.sqrt(2 * (room - 1))  # five standard deviations


def test_image_as_large_as_the_view_has_one_crop() -> None:
    for drawn in draws(20, shape=(24, 24)):
        assert not drawn.corners.any()


def test_flips_and_colours_have_their_distributions() -> None:
    found = draws(3000)
    flips = np.concatenate([drawn.flips for drawn in found])
    assert np.abs(flips.mean(0) - 0.5).max() < 0.025  # five standard errors
    colours = np.concatenate([drawn.colours for drawn in found])
    for values, low, high in ((colours[:, 0], -0.3, 0.3), (colours[:, 1], 0.5, 1.5)):
        assert low <= values.min() < low + 0.01
        assert high - 0.01 < values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < 0.015
        assert values.std() == pytest.approx((high - low) / np.sqrt(12), rel=0.03)
    everything = np.column_stack([flips, colours, np.concatenate([d.corners for d in found])])
    correlation = np.corrcoef(everything.T) - np.eye(6)
    assert np.abs(correlation).max() < 0.05


def test_each_view_and_each_sample_draws_its_own() -> None:
    found = draws(50)
    colours = np.concatenate([drawn.colours for drawn in found])
    assert len(np.unique(colours, axis=0)) == len(colours) == 200
    again = draw_views(sample_generator(0, 0, 7), (30, 41), ViewGroup(4, 24), PAPER)
    np.testing.assert_array_equal(again.colours, found[7].colours)
    for other in (sample_generator(1, 0, 7), sample_generator(0, 1, 7), sample_generator(0, 0, 8)):
        drawn = draw_views(other, (30, 41), ViewGroup(4, 24), PAPER)
        assert not np.array_equal(drawn.colours, again.colours)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_changes_by_numpy(dtype: type) -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 4000, (3, 2, 5, 5)).astype(dtype)
    low, span = np.array([0, 100, 50.0]), np.array([65535, 3000.0, 1500])
    flips = generator.random((3, 2, 2)) < 0.5
    colours = np.stack(
        [generator.uniform(-0.3, 0.3, (3, 2)), generator.uniform(0.5, 1.5, (3, 2))], -1
    )
    raw = torch.from_numpy(pixels.copy())
    ours = change_views(
        raw,
        torch.from_numpy(low).float(),
        torch.from_numpy(span).float(),
        torch.from_numpy(flips),
        torch.from_numpy(colours).float(),
    )
    assert ours.shape == (2, 3, 5, 5)
    for image in range(3):
        for view in range(2):
            x = np.clip((pixels[image, view].astype(float) - low[image]) / span[image], 0, 1)
            x = x[::-1] if flips[image, view, 0] else x
            x = x[:, ::-1] if flips[image, view, 1] else x
            shift, gamma = colours[image, view]
            x = np.clip(np.clip(x + shift, 0, 1) ** gamma, 0, 1)
            # float32; near 0 a square root makes 1e-8 of rounding 1e-4
            np.testing.assert_allclose(ours[view, image].numpy(), x, atol=5e-4)
    assert np.array_equal(raw.numpy(), pixels)  # the source is as it was


def test_views_share_no_memory() -> None:
    source = torch.rand(1, 2, 4, 4)
    before = source.clone()
    nothing = torch.zeros(1, 2, 2, dtype=torch.bool)
    plain = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])  # no shift, gamma 1
    views = change_views(source, torch.zeros(1), torch.ones(1), nothing, plain)
    torch.testing.assert_close(views[:, 0], source[0])
    views[0].fill_(-1)
    assert torch.equal(source, before)
    torch.testing.assert_close(views[1, 0], source[0, 1])


def test_ends_of_the_range_stay_finite_and_inside() -> None:
    pixels = torch.tensor([0, 65535], dtype=torch.uint16).reshape(1, 1, 1, 2)
    flips = torch.zeros(1, 1, 2, dtype=torch.bool)
    for shift in (-0.3, 0.0, 0.3):
        for gamma in (0.5, 1.5):
            colour = torch.tensor([[[shift, gamma]]])
            x = change_views(pixels, torch.zeros(1), torch.full((1,), 65535.0), flips, colour)
            assert float(x.min()) >= 0
            assert float(x.max()) <= 1
