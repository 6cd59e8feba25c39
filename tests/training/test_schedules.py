"""Schedules against DINO's own arrays, written with numpy here, at every step."""

from __future__ import annotations

import numpy as np
import pytest

from unidino_fast.training.config import parse_config
from unidino_fast.training.schedules import (
    Clock,
    cosine,
    learning_rate,
    ramp,
    warmup_cosine,
    weight_decay,
)


def released(base: float, final: float, steps: int, warmup: int) -> np.ndarray:
    """The formula of DINO's utils.cosine_scheduler."""
    iterations = np.arange(steps - warmup)
    curve = final + 0.5 * (base - final) * (1 + np.cos(np.pi * iterations / len(iterations)))
    return np.concatenate([np.linspace(0, base, warmup), curve])


@pytest.mark.parametrize(("steps", "warmup"), [(50, 0), (50, 1), (50, 2), (97, 13), (10, 9)])
@pytest.mark.parametrize(("base", "final"), [(7.97e-4, 1e-6), (0.04, 0.4)])
def test_warmup_cosine(base: float, final: float, steps: int, warmup: int) -> None:
    ours = [warmup_cosine(i, base, final, warmup=warmup, total=steps) for i in range(steps)]
    # float64 on both sides, other order of operations
    np.testing.assert_allclose(ours, released(base, final, steps, warmup), rtol=1e-12, atol=1e-18)


def test_cosine_of_momentum_and_its_ends() -> None:
    ours = [cosine(i, 0.9995, 1.0, 61) for i in range(61)]
    np.testing.assert_allclose(ours, released(0.9995, 1.0, 61, 0), rtol=1e-14)
    assert cosine(61, 0.9995, 1.0, 61) == cosine(999, 0.9995, 1.0, 61) == 1.0
    assert cosine(0, 3.0, 5.0, 0) == 5.0


@pytest.mark.parametrize("warmup", [0, 1, 2, 30])
def test_ramp_of_the_teacher_temperature(warmup: int) -> None:
    wanted = np.concatenate([np.linspace(0.01, 0.04, warmup), np.full(40 - warmup, 0.04)])
    np.testing.assert_allclose([ramp(e, 0.01, 0.04, warmup) for e in range(40)], wanted, rtol=1e-14)


def test_rates_of_a_run() -> None:
    config = parse_config({"data": [{"name": "a"}], "optim": {"epochs": 30, "batch": 510}})
    clock = Clock(steps_per_epoch=7, epochs=30)
    wanted = released(4e-4 * 510 / 256, 1e-6, 210, 140)
    ours = [learning_rate(step, clock, config.optim) for step in range(clock.total)]
    np.testing.assert_allclose(ours, wanted, rtol=1e-12, atol=1e-18)
    decay = [weight_decay(step, clock, config.optim) for step in range(clock.total)]
    np.testing.assert_allclose(decay, released(0.04, 0.4, 210, 0), rtol=1e-12)
    assert [clock.epoch(step) for step in (0, 6, 7, 209)] == [0, 0, 1, 29]
