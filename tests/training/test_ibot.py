"""iBOT's loss and centres against loops over views, images, patches and prototypes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from unidino_fast.training.ibot import Ibot, patch_loss
from unidino_fast.training.processes import Processes
from unidino_fast.training.schedules import Clock

ALONE = Processes(torch.device("cpu"))


@pytest.fixture
def method(make_config: Any) -> Ibot:
    torch.manual_seed(2)
    config = make_config(
        method="ibot",
        model__drop_path=0.0,
        ibot__out_dim=12,
        ibot__hidden_dim=20,
        ibot__bottleneck_dim=6,
        ibot__patch_weight=0.7,
    )
    made = Ibot(config, Clock(2, 3), ALONE)
    with torch.no_grad():  # a mask token that is not zero, or a fault in it would not show
        made.trained.get_parameter("mask_token").normal_()
        for parameter in made.teacher.parameters():  # a teacher that is not the student
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


class _Shown:
    """A batch of finished views."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        shapes = (2, 3, 32, 32), (2, 3, 16, 16)
        self._views = [torch.rand(shape, generator=generator) for shape in shapes]
        hidden = torch.rand(3, 2, 16, generator=generator) < 0.4
        hidden[1, 0] = False  # a view without a mask
        self.masks = [hidden, torch.zeros(3, 2, 0, dtype=torch.bool)]

    def views(self) -> list[torch.Tensor]:
        return self._views


def softmax(values: np.ndarray, temperature: float) -> np.ndarray:
    powers = np.exp((values - values.max()) / temperature)
    return np.asarray(powers / powers.sum())


@torch.no_grad()
def tokens_of(network: Any, image: torch.Tensor, hidden: torch.Tensor | None) -> np.ndarray:
    """Outputs (1 + T, K) of one view; the patch embedding is done patch by patch."""
    vit = network.backbone
    embedded = vit.patch_embed(image[None, None])  # (1, g, g, D)
    if hidden is not None:
        for t in range(hidden.numel()):
            if hidden[t]:
                grid = embedded.shape[1]
                embedded[0, t // grid, t % grid] = network.mask_token
    x = vit.norm(vit.blocks(vit._pos_embed(embedded)))[0]
    out: np.ndarray = torch.stack([network.head(token[None])[0] for token in x]).double().numpy()
    return out


def test_losses_and_centres_over_steps(method: Ibot) -> None:
    centre, patch_centre = np.zeros(12), np.zeros(12)
    for step in range(3):
        shown: Any = _Shown(step)
        globes, locals_ = shown.views()
        hidden = shown.masks[0]
        ours = method.losses(method.trained, shown, step).losses.detach().numpy()
        method.centre.update(ALONE)
        method.patch_centre.update(ALONE)
        epoch = step // 2
        sharp = sharp_patch = 0.04 + epoch * (0.07 - 0.04) / 29
        teacher = [
            [tokens_of(method.teacher, globes[v, b], None) for b in range(3)] for v in (0, 1)
        ]
        student = [
            [tokens_of(method.trained, globes[v, b], hidden[b, v]) for b in range(3)]
            for v in (0, 1)
        ]
        student += [
            [tokens_of(method.trained, locals_[v, b], None) for b in range(3)] for v in (0, 1)
        ]
        for image in range(3):
            of_class, of_patches = [], []
            for t in (0, 1):
                target = softmax(teacher[t][image][0] - centre, sharp)
                for v in range(4):
                    if v != t:
                        answer = softmax(student[v][image][0], 0.1)
                        of_class.append(-float((target * np.log(answer)).sum()))
                terms = []
                for patch in range(16):
                    if hidden[image, t, patch]:
                        wanted = softmax(teacher[t][image][1 + patch] - patch_centre, sharp_patch)
                        answer = softmax(student[t][image][1 + patch], 0.1)
                        terms.append(-float((wanted * np.log(answer)).sum()))
                of_patches.append(sum(terms) / max(len(terms), 1))
            wanted_loss = np.mean(of_class) + 0.7 * np.mean(of_patches)
            # float32, temperatures of 0.04 multiply its roundings
            assert ours[image] == pytest.approx(wanted_loss, rel=1e-4)
        views = [teacher[v][b] for v in (0, 1) for b in range(3)]
        centre = 0.9 * centre + 0.1 * np.mean([view[0] for view in views], axis=0)
        patch_mean = np.mean([view[1 + p] for view in views for p in range(16)], axis=0)
        patch_centre = 0.9 * patch_centre + 0.1 * patch_mean
        np.testing.assert_allclose(method.centre.value.numpy(), centre, atol=1e-6)
        np.testing.assert_allclose(method.patch_centre.value.numpy(), patch_centre, atol=1e-6)


def test_signs_tell_the_parts_of_the_loss(method: Ibot) -> None:
    shown: Any = _Shown(0)
    total = float(method.losses(method.trained, shown, 0).losses.detach().mean())
    signs = method.signs()
    assert signs["class_loss"] + 0.7 * signs["patch_loss"] == pytest.approx(total, rel=1e-6)
    assert signs["patch_loss"] > 0


def test_without_masks_it_is_the_class_token_alone() -> None:
    hidden = torch.zeros(2, 3, 4, dtype=torch.bool)
    losses = patch_loss(torch.zeros(0, 5), torch.zeros(0, 5, requires_grad=True), hidden, 0.1)
    assert losses.tolist() == [0, 0, 0]
    losses.sum().backward()  # and leaves no NaN


def test_gradients_reach_the_mask_token_and_not_the_teacher(method: Ibot) -> None:
    shown: Any = _Shown(0)
    method.losses(method.trained, shown, 0).losses.mean().backward()
    gradient = method.trained.get_parameter("mask_token").grad
    assert gradient is not None
    assert bool(gradient.abs().sum() > 0)
    assert all(parameter.grad is None for parameter in method.teacher.parameters())


def test_the_teacher_follows_backbone_and_head(method: Ibot) -> None:
    before = {name: p.clone() for name, p in method.teacher.named_parameters()}
    student = dict(method.trained.named_parameters())
    shown: Any = _Shown(0)
    method.losses(method.trained, shown, 0)
    method.after_update(0, ALONE)
    momentum = 1 - (1 - 0.996) * (math.cos(0.0) + 1) / 2
    for name, parameter in method.teacher.named_parameters():
        wanted = momentum * before[name] + (1 - momentum) * student[name]
        torch.testing.assert_close(parameter.detach(), wanted.detach(), rtol=1e-5, atol=1e-6)
    assert set(before) == set(student) - {"mask_token"}
