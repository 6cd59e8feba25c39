"""The loss and its centre against naive loops over views, images and prototypes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from unidino_fast.training.loss import Centre, dino_loss, teacher_targets
from unidino_fast.training.processes import Processes

ALONE = Processes(torch.device("cpu"))


def softmax(values: list[float], temperature: float) -> list[float]:
    top = max(values)
    powers = [math.exp((v - top) / temperature) for v in values]
    return [p / sum(powers) for p in powers]


def naive_losses(
    teacher: np.ndarray, student: np.ndarray, centre: np.ndarray, sharp: float, soft: float
) -> list[float]:
    """Each image's mean cross-entropy over pairs of different views."""
    losses = []
    for image in range(teacher.shape[1]):
        terms = []
        for t in range(len(teacher)):
            target = softmax((teacher[t, image] - centre).tolist(), sharp)
            for v in range(len(student)):
                if v != t:
                    answer = softmax(student[v, image].tolist(), soft)
                    pairs = zip(target, answer, strict=True)
                    terms.append(-sum(q * math.log(p) for q, p in pairs))
        losses.append(sum(terms) / len(terms))
    return losses


@pytest.mark.parametrize(("n_views", "n_images", "n_outputs"), [(2, 1, 5), (3, 4, 7), (10, 3, 33)])
def test_loss_and_centre_over_steps(n_views: int, n_images: int, n_outputs: int) -> None:
    generator = np.random.default_rng(n_views)
    centre = Centre(n_outputs, 0.9)
    wanted_centre = np.zeros(n_outputs)
    for step in range(4):
        teacher = generator.normal(size=(2, n_images, n_outputs))
        student = generator.normal(size=(n_views, n_images, n_outputs))
        sharp = 0.1 + 0.02 * step
        targets = teacher_targets(torch.from_numpy(teacher).float(), centre.value, sharp)
        ours = dino_loss(targets, torch.from_numpy(student).float(), 0.1)
        wanted = naive_losses(teacher, student, wanted_centre, sharp, 0.1)
        # float32 against float64: logits of up to 40, rounded to 24 bits
        np.testing.assert_allclose(ours.numpy(), wanted, rtol=2e-5)
        centre.add(torch.from_numpy(teacher).float())
        centre.update(ALONE)
        mean = sum(teacher[v, b] for v in range(2) for b in range(n_images)) / (2 * n_images)
        wanted_centre = 0.9 * wanted_centre + 0.1 * mean
        np.testing.assert_allclose(centre.value.numpy(), wanted_centre, atol=1e-6)


def test_gradient_is_that_of_the_plain_formula() -> None:
    torch.manual_seed(0)
    student = torch.randn(4, 3, 6, dtype=torch.float64).float().requires_grad_()
    targets = torch.softmax(torch.randn(2, 3, 6), -1)
    dino_loss(targets, student, 0.1).mean().backward()
    twin = student.detach().clone().requires_grad_()
    logs = torch.log_softmax(twin / 0.1, -1)
    terms = [-(targets[t] * logs[v]).sum(-1) for t in range(2) for v in range(4) if v != t]
    torch.stack(terms).mean().backward()
    assert student.grad is not None
    torch.testing.assert_close(student.grad, twin.grad, rtol=1e-4, atol=1e-6)


def test_parts_of_a_batch_move_the_centre_as_the_whole() -> None:
    outputs = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(1))
    whole, parts = Centre(5, 0.9), Centre(5, 0.9)
    whole.add(outputs)
    whole.update(ALONE)
    for part in outputs.split(2, dim=1):
        before = parts.value.clone()
        parts.add(part)
        assert torch.equal(parts.value, before)
    parts.update(ALONE)
    torch.testing.assert_close(parts.value, whole.value, rtol=1e-6, atol=1e-7)


def test_targets_take_no_part_in_the_views_own_pair() -> None:
    """With two views only, swapping a view's own target changes nothing of its term."""
    student = torch.zeros(2, 1, 3)
    student[0, 0, 0] = 5.0
    targets = torch.tensor([[[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]])
    terms = [
        -math.log(softmax([5.0, 0.0, 0.0], 1.0)[1]),  # view 0 meets the target of view 1
        -math.log(softmax([0.0, 0.0, 0.0], 1.0)[0]),
    ]
    assert float(dino_loss(targets, student, 1.0)) == pytest.approx(sum(terms) / 2, rel=1e-6)
