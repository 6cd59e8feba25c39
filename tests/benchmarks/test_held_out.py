"""Questions to a held-out plate, against loops over its wells."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from scipy.stats import spearmanr  # type: ignore[import-untyped]

from unidino_fast.benchmarks.held_out import Wells, ask, mad_normalized, resampled

ROWS, COLUMNS = 8, 12
N = ROWS * COLUMNS


def plate() -> Wells:
    """The layout of the SBS example: two controls and doses 1 to 10 in each row."""
    row, column = np.divmod(np.arange(N), COLUMNS)
    dose = np.maximum(column - 1, 0)
    control = np.where(dose == 0, -1, np.where(dose == 10, 1, 0))
    return Wells(row, dose, control, row < ROWS // 2)


def profiles_of(wells: Wells, effect: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    rng = np.random.default_rng(3)
    return rng.standard_normal((N, 7)) + effect * np.outer(wells.dose, np.arange(7))


def cosine(one: np.ndarray, other: np.ndarray) -> float:  # type: ignore[type-arg]
    return float(one @ other / np.sqrt((one @ one) * (other @ other)))


@pytest.mark.parametrize("effect", [0.0, 0.05, 0.4])
def test_answers_equal_loops_over_wells(effect: float) -> None:
    wells = plate()
    values = profiles_of(wells, effect)
    answers = ask(values, wells)

    def nearest(well: int, allowed: list[int]) -> int:
        others = [w for w in allowed if wells.row[w] != wells.row[well]]
        return max(others, key=lambda w: cosine(values[w], values[well]))

    extreme = [w for w in range(N) if wells.dose[w] <= 2 or wells.dose[w] >= 5]
    assert len(extreme) == 80
    right = sum((wells.dose[w] <= 2) == (wells.dose[nearest(w, extreme)] <= 2) for w in extreme)
    assert answers.accuracy == right / 80
    everyone = list(range(N))
    errors = [abs(int(wells.dose[w]) - int(wells.dose[nearest(w, everyone)])) for w in everyone]
    assert answers.dose_error == pytest.approx(sum(errors) / N)

    centre = np.mean([values[w] for w in everyone if wells.control[w] == -1], axis=0)
    for found, series in ((answers.order_first, True), (answers.order_second, False)):
        asked = [w for w in everyone if wells.control[w] != -1 and wells.first[w] == series]
        distances = [1 - cosine(values[w], centre) for w in asked]
        assert found == pytest.approx(spearmanr(wells.dose[asked], distances).statistic)

    for found, series in ((answers.z_first, True), (answers.z_second, False)):

        def mean(kind: int, of: bool) -> np.ndarray:  # type: ignore[type-arg]
            return np.mean(
                [values[w] for w in everyone if wells.control[w] == kind and wells.first[w] == of],
                axis=0,
            )

        axis = mean(1, not series) - mean(-1, not series)
        low, high = (
            [
                values[w] @ axis
                for w in everyone
                if wells.control[w] == kind and wells.first[w] == series
            ]
            for kind in (-1, 1)
        )
        spread = np.std(low, ddof=1) + np.std(high, ddof=1)
        assert found == pytest.approx(1 - 3 * spread / abs(np.mean(high) - np.mean(low)))


def test_an_ideal_plate_is_answered_ideally() -> None:
    wells = plate()
    angle = wells.dose / 10
    values = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    answers = asdict(ask(values, wells))
    assert answers == pytest.approx(
        {
            "z_first": 1.0,
            "z_second": 1.0,
            "accuracy": 1.0,
            "dose_error": 0.0,
            "order_first": 1.0,
            "order_second": 1.0,
        }
    )


def test_resamples_keep_each_series_and_control_and_are_asked_with_repeats() -> None:
    wells = plate()
    values = profiles_of(wells, 0.1)
    chosen = next(resampled(wells, np.random.default_rng(1)))
    for first in (True, False):
        for control, count in ((-1, 8), (1, 4), (0, 36)):
            group = (wells.first[chosen] == first) & (wells.control[chosen] == control)
            assert group.sum() == count
    assert len(set(chosen.tolist())) < N
    twice = np.concatenate([np.arange(N), np.arange(N)])
    once, again = ask(values, wells), ask(values, wells, twice)
    assert again.accuracy == once.accuracy
    assert again.dose_error == pytest.approx(once.dose_error)
    assert again.order_first == pytest.approx(once.order_first)


def test_statistics_without_spread_become_zero() -> None:
    values = np.array([[1.0, 5.0], [2.0, 5.0], [4.0, 5.0]])
    expected = np.array([[-1.0, 0.0], [0.0, 0.0], [2.0, 0.0]]) / 1.4826
    np.testing.assert_allclose(mad_normalized(values), expected, atol=1e-12)
