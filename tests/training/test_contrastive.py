"""Losses of SimCLR and of perturbation labels against naive loops over views and images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from unidino_fast.training.data import Batch
from unidino_fast.training.processes import Processes
from unidino_fast.training.schedules import Clock
from unidino_fast.training.simclr import Simclr
from unidino_fast.training.supcon import Supcon

if TYPE_CHECKING:
    from collections.abc import Callable

ALONE = Processes(torch.device("cpu"))
CLOCK = Clock(1, 1)
Key = tuple[int, int]  # view, image


def batch_of(n_images: int, identity: list[list[int]] | None = None) -> Batch:
    """A batch of which nothing but the images' identities is looked at."""
    return Batch(
        crops=[torch.zeros(n_images, 2, 32, 32)],
        flips=[torch.zeros(n_images, 2, 2, dtype=torch.bool)],
        colours=[torch.ones(n_images, 2, 2)],
        low=torch.zeros(n_images),
        span=torch.ones(n_images),
        dataset=torch.zeros(n_images, dtype=torch.int64),
        plane=torch.arange(n_images),
        masks=[torch.zeros(n_images, 2, 0, dtype=torch.bool)],
        identity=torch.tensor(identity or [[]] * n_images, dtype=torch.int64),
    )


def answering(embeddings: torch.Tensor) -> Any:
    """In place of a network: gives these embeddings whatever it is shown."""
    return lambda views: (torch.zeros(*embeddings.shape[:2], 3), embeddings)


def naive(
    embeddings: np.ndarray,
    temperature: float,
    is_positive: Callable[[Key, Key], bool],
    is_negative: Callable[[Key, Key], bool],
) -> list[float]:
    """Each image's mean over views of the mean over positives of -log softmax, in float64."""
    n_views, n_images, _ = embeddings.shape
    keys = [(v, i) for v in range(n_views) for i in range(n_images)]

    def score(a: Key, b: Key) -> float:
        x, y = embeddings[a], embeddings[b]
        return math.exp(float(x @ y) / math.sqrt(float(x @ x) * float(y @ y)) / temperature)

    losses = []
    for image in range(n_images):
        of_views = []
        for view in range(n_views):
            anchor = (view, image)
            positives = [key for key in keys if key != anchor and is_positive(anchor, key)]
            negatives = [key for key in keys if key != anchor and is_negative(anchor, key)]
            total = sum(score(anchor, key) for key in [*positives, *negatives])
            terms = [-math.log(score(anchor, key) / total) for key in positives]
            of_views.append(sum(terms) / len(terms))
        losses.append(sum(of_views) / len(of_views))
    return losses


@pytest.mark.parametrize("n_images", [2, 3, 7])
def test_simclr(n_images: int, make_config: Any) -> None:
    method = Simclr(make_config(method="simclr", simclr__temperature=0.3), CLOCK, ALONE)
    embeddings = np.random.default_rng(n_images).normal(size=(2, n_images, 5))
    network = answering(torch.from_numpy(embeddings).float())
    ours = method.losses(network, batch_of(n_images), 0).losses
    wanted = naive(embeddings, 0.3, lambda a, b: a[1] == b[1], lambda a, b: a[1] != b[1])
    np.testing.assert_allclose(ours.numpy(), wanted, rtol=1e-5)  # float32


#           label, channel, plate, well
IDENTITY = [
    [0, 0, 0, 0],
    [0, 0, 0, 1],  # the same perturbation and plate in another well
    [0, 0, 1, 2],  # and on another plate
    [0, 1, 0, 1],  # in another channel: met by none of these
    [0, 1, 1, 2],
    [1, 0, 0, 3],
    [1, 0, 1, 4],
    [0, 0, 0, 0],  # another field of the first well
]


@pytest.mark.parametrize(("positives", "place"), [("other-well", 3), ("other-plate", 2)])
def test_supcon(positives: str, place: int, make_labelled: Any) -> None:
    config = make_labelled(supcon__positives=positives, supcon__temperature=0.2)
    method = Supcon(config, CLOCK, ALONE)
    embeddings = np.random.default_rng(3).normal(size=(2, len(IDENTITY), 5))
    network = answering(torch.from_numpy(embeddings).float())
    ours = method.losses(network, batch_of(len(IDENTITY), IDENTITY), 0).losses

    def is_positive(a: Key, b: Key) -> bool:
        one, other = IDENTITY[a[1]], IDENTITY[b[1]]
        return one[:2] == other[:2] and one[place] != other[place]

    def is_negative(a: Key, b: Key) -> bool:
        return IDENTITY[a[1]][0] != IDENTITY[b[1]][0]

    wanted = naive(embeddings, 0.2, is_positive, is_negative)
    np.testing.assert_allclose(ours.numpy(), wanted, rtol=1e-5)  # float32


def test_signs_are_the_mean_cosines(make_config: Any) -> None:
    method = Simclr(make_config(method="simclr"), CLOCK, ALONE)
    assert all(math.isnan(value) for value in method.signs().values())  # before the first step
    directions = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0.6, 0.8, 0]])
    embeddings = torch.stack([directions, 2 * directions])
    method.losses(answering(embeddings), batch_of(3), 0)
    assert method.signs()["positive_cosine"] == pytest.approx(1.0)
    assert method.signs()["negative_cosine"] == pytest.approx((0.0 + 0.6 + 0.8) / 3)


def test_a_broken_image_is_blamed_alone(make_config: Any) -> None:
    """Every loss is broken by one embedding that is NaN, yet only its image's is given so."""
    method = Simclr(make_config(method="simclr"), CLOCK, ALONE)
    embeddings = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    embeddings[1, 2] = torch.nan
    losses = method.losses(answering(embeddings), batch_of(4), 0).losses
    assert losses.isfinite().tolist() == [True, True, False, True]


def test_cosines_keep_their_digits_under_autocast(make_config: Any) -> None:
    method = Simclr(make_config(method="simclr"), CLOCK, ALONE)
    embeddings = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    plain = method.losses(answering(embeddings), batch_of(6), 0).losses
    with torch.autocast("cpu", torch.bfloat16):
        half = method.losses(answering(embeddings), batch_of(6), 0).losses
    assert torch.equal(plain, half)
