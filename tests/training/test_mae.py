"""The masked autoencoder against loops over images and patches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from unidino_fast.training.mae import Mae, MaskedAutoencoder, patch_targets, sine_cosine
from unidino_fast.training.masks import RandomMasks
from unidino_fast.training.networks import new_student, vit_shape
from unidino_fast.training.processes import Processes
from unidino_fast.training.schedules import Clock
from unidino_fast.training.tokens import encode, patch_tokens, positions

GRID, PATCH = 4, 8


@pytest.fixture
def config(make_config: Any) -> Any:
    return make_config(
        method="mae",
        mae__decoder_dim=24,
        mae__decoder_depth=2,
        mae__decoder_heads=3,
        model__drop_path=0.0,
    )


@pytest.fixture
def network(config: Any) -> Any:
    torch.manual_seed(5)
    method = Mae(config, Clock(1, 1), Processes(torch.device("cpu")))
    return method.trained.eval()


def masks(n_images: int) -> torch.Tensor:
    generator = np.random.default_rng(8)
    drawn = [RandomMasks(GRID, 4).draw(generator) for _ in range(n_images)]
    return torch.from_numpy(np.stack(drawn))


def test_positions_by_their_formula() -> None:
    found = sine_cosine(3, 16).numpy()
    for y in range(3):
        for x in range(3):
            wanted = [
                wave(where / 10_000 ** (i / 4))
                for where in (x, y)
                for wave in (math.sin, math.cos)
                for i in range(4)
            ]
            np.testing.assert_allclose(found[3 * y + x], wanted, atol=1e-6)


@pytest.mark.parametrize("normalise", [True, False])
def test_targets_by_loops(normalise: bool) -> None:
    images = np.random.default_rng(0).random((2, 12, 12))
    found = patch_targets(torch.from_numpy(images).float(), 4, normalise=normalise).numpy()
    assert found.shape == (2, 9, 16)
    for image in range(2):
        for row in range(3):
            for column in range(3):
                pixels = [
                    images[image, 4 * row + i, 4 * column + j] for i in range(4) for j in range(4)
                ]
                if normalise:
                    mean = sum(pixels) / 16
                    variance = sum((p - mean) ** 2 for p in pixels) / 15
                    pixels = [(p - mean) / math.sqrt(variance + 1e-6) for p in pixels]
                np.testing.assert_allclose(found[image, 3 * row + column], pixels, atol=2e-6)


def test_a_flat_patch_has_targets_of_zero() -> None:
    targets = patch_targets(torch.full((1, 4, 4), 0.3), 4, normalise=True)
    # the mean is right to 3e-8, and the deviation is 1e-3 at least
    torch.testing.assert_close(targets, torch.zeros(1, 1, 16), rtol=0.0, atol=1e-4)


def test_all_tokens_give_what_the_backbone_gives(config: Any) -> None:
    torch.manual_seed(0)
    vit: Any = new_student(vit_shape(config), 0.0)
    images = torch.rand(3, 1, 32, 32)
    tokens = patch_tokens(vit, images) + positions(vit)
    torch.testing.assert_close(encode(vit, tokens), vit.forward_features(images))
    order = torch.randperm(GRID * GRID)  # attention knows no order
    shuffled = encode(vit, tokens[:, order])
    torch.testing.assert_close(shuffled[:, 0], vit(images), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def naive(network: Any, image: torch.Tensor, hidden: torch.Tensor) -> tuple[Any, Any]:
    """One image, patch by patch, with linear algebra and timm's blocks alone."""
    encoder, flat = network.encoder, network.encoder.patch_embed.proj.weight.flatten(1)
    seen = [t for t in range(GRID * GRID) if not hidden[t]]
    tokens = [encoder.cls_token[0, 0] + encoder.pos_embed[0, 0]]
    for t in seen:
        y, x = PATCH * (t // GRID), PATCH * (t % GRID)
        pixels = image[y : y + PATCH, x : x + PATCH].flatten()
        embedded = flat @ pixels + encoder.patch_embed.proj.bias
        tokens.append(embedded + encoder.pos_embed[0, 1 + t])
    x = torch.stack(tokens)[None]
    for block in encoder.blocks:
        x = block(x)
    x = encoder.norm(x)
    entered = network.enter(x)[0]
    places = sine_cosine(GRID, entered.shape[1])
    canvas = [entered[0]]
    for t in range(GRID * GRID):
        token = network.mask_token if hidden[t] else entered[1 + seen.index(t)]
        canvas.append(token + places[t])
    y = torch.stack(canvas)[None]
    for block in network.blocks:
        y = block(y)
    return x[0, 0], network.draw(network.norm(y))[0, 1:]


def test_encoder_and_decoder_by_loops(network: Any) -> None:
    images = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1))
    hidden = masks(3)
    with torch.no_grad():
        features, drawn = network(images[:, None], hidden)
    for image in range(3):
        wanted_features, wanted = naive(network, images[image], hidden[image])
        torch.testing.assert_close(features[image], wanted_features, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(drawn[image], wanted, rtol=1e-4, atol=1e-5)


def test_what_is_hidden_is_not_seen(network: Any) -> None:
    images, hidden = torch.rand(2, 1, 32, 32), masks(2)
    pixels = hidden.reshape(2, 1, GRID, GRID)
    pixels = pixels.repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
    with torch.no_grad():
        before = network(images, hidden)
        after = network(torch.where(pixels, torch.rand(2, 1, 32, 32), images), hidden)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


class _Shown:
    """A batch of finished views."""

    def __init__(self, images: torch.Tensor, hidden: torch.Tensor) -> None:
        self._images = images
        self.masks = [hidden[:, None]]

    def views(self) -> list[torch.Tensor]:
        return [self._images[None]]


def test_loss_by_loops(config: Any) -> None:
    torch.manual_seed(5)
    method = Mae(config, Clock(1, 1), Processes(torch.device("cpu")))
    images, hidden = torch.rand(3, 32, 32), masks(3)
    batch: Any = _Shown(images, hidden)
    outcome = method.losses(method.trained, batch, 0)
    for image in range(3):
        _, drawn = naive(method.trained, images[image], hidden[image])
        errors = []
        for t in range(GRID * GRID):
            if hidden[image, t]:
                y, x = PATCH * (t // GRID), PATCH * (t % GRID)
                pixels = images[image, y : y + PATCH, x : x + PATCH].flatten().double().numpy()
                target = (pixels - pixels.mean()) / np.sqrt(pixels.var(ddof=1) + 1e-6)
                errors.append(np.mean((drawn[t].double().numpy() - target) ** 2))
        assert len(errors) == 12
        assert float(outcome.losses[image].detach()) == pytest.approx(np.mean(errors), rel=1e-5)
    assert outcome.features.shape == (3, 64)


def test_positions_are_fixed_and_exported(config: Any) -> None:
    method = Mae(config, Clock(1, 1), Processes(torch.device("cpu")))
    encoder: Any = method.exported()
    assert not encoder.pos_embed.requires_grad
    assert torch.equal(encoder.pos_embed[0, 0], torch.zeros(64))
    assert torch.equal(encoder.pos_embed[0, 1:], sine_cosine(GRID, 64))
    assert isinstance(method.trained, MaskedAutoencoder)
    assert "positions" not in method.trained.state_dict()
