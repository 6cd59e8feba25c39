"""P-values: a loop's, uniform where nothing differs, and a false discovery rate that holds."""

from __future__ import annotations

import numpy as np
import pytest
from novelty_screens import CONTROLS, screen
from scipy.stats import false_discovery_control, kstest, t
from sklearn.covariance import LedoitWolf

import unidino_fast as uf
from unidino_fast.novelty.scoring import folds_of, lognormal_p, score


def test_p_values_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(1)
    rows, is_control = rng.standard_normal((40, 4)), np.arange(40) % 3 > 0
    groups = np.zeros(40, np.int32)
    controls, others = rows[is_control], rows[~is_control]
    folds = np.arange(len(controls), dtype=np.int32) % 7
    found = score(rows, is_control, groups, folds, k=2, tail="empirical")["mahalanobis"]
    counts, distances, left_out = np.ones(len(others)), np.zeros(len(others)), {}
    for fold in range(7):
        known = controls[folds != fold]
        model, n = LedoitWolf().fit(known), len(known)
        distance = [np.sqrt(model.mahalanobis(r[None]) * (n - 1) / n)[0] for r in others]
        distances += np.array(distance) / 7
        for place in np.flatnonzero(folds == fold):
            own = np.sqrt(model.mahalanobis(controls[place][None]) * (n - 1) / n)[0]
            left_out[place] = own
            counts += [own >= other for other in distance]
    np.testing.assert_allclose(found.p[~is_control], counts / (len(controls) + 1))
    np.testing.assert_allclose(found.distance[~is_control], distances, rtol=1e-9)
    own = np.array([left_out[place] for place in range(len(controls))])
    np.testing.assert_allclose(found.distance[is_control], own, rtol=1e-9)
    np.testing.assert_allclose(found.p[is_control], [(own >= d).mean() for d in own])
    np.testing.assert_allclose(found.q[~is_control], false_discovery_control(found.p[~is_control]))
    assert np.isnan(found.q[is_control]).all()


@pytest.mark.parametrize(
    ("n_controls", "n_features", "plates"), [(60, 5, 1), (30, 80, 1), (48, 20, 8)]
)
def test_p_values_are_uniform_where_nothing_differs(
    n_controls: int, n_features: int, plates: int
) -> None:
    """More features than controls, and six controls a plate, are the usual cases."""
    rng = np.random.default_rng(7)
    mixing = rng.standard_normal((n_features, n_features))
    shares: dict[tuple[str, float], list[float]] = {}
    for _ in range(30):
        table = screen(
            rng,
            n_controls=n_controls,
            shifts=np.zeros((40, n_features)),
            mixing=mixing,
            plates=plates,
        )
        rows = uf.find_unusual(table, CONTROLS).rows.filter(control=False)
        for measure in ("mahalanobis_p", "knn_p"):
            for level in (0.1, 0.25, 0.5, 0.75):
                # the largest p-value of (i / (n + 1)) that is no more than the level
                step = np.floor(level * (n_controls + 1)) / (n_controls + 1)
                share = float((rows[measure] <= step + 1e-9).mean())
                shares.setdefault((measure, level), []).append(share - step)
    for found in shares.values():
        # tables are independent, rows of one are not: the error is that of 30 means
        assert abs(np.mean(found)) < 3.5 * np.std(found, ddof=1) / np.sqrt(len(found))


def test_lognormal_p_values_are_a_t_tests_and_uniform() -> None:
    rng = np.random.default_rng(2)
    p = []
    for _ in range(400):
        known, asked = rng.normal(3, 0.2, 8), rng.normal(3, 0.2, 1)
        p.append(lognormal_p(asked, known)[0])
        prediction = (asked[0] - known.mean()) / np.sqrt(known.var(ddof=1) * (1 + 1 / 8))
        assert p[-1] == pytest.approx(t.sf(prediction, 7))
    assert kstest(p, "uniform").pvalue > 0.01


@pytest.mark.parametrize("measure", ["mahalanobis", "knn"])
def test_planted_outliers_are_found_at_the_rate_that_was_asked_for(measure: str) -> None:
    rng = np.random.default_rng(11)
    wrong, power = [], []
    for _ in range(20):
        direction = rng.standard_normal(30)
        shifts = np.zeros((100, 30))
        shifts[:25] = 12 * direction / np.linalg.norm(direction)
        table = screen(rng, n_controls=120, shifts=shifts)
        found = uf.find_unusual(table, CONTROLS, measure=measure, fdr=0.1)
        unusual = found.rows.filter(control=False)["unusual"].to_numpy()
        wrong.append(unusual[25:].sum() / max(unusual.sum(), 1))
        power.append(unusual[:25].mean())
    expected = 0.1 * 0.75  # Benjamini and Hochberg: the rate times the share of true nulls
    assert np.mean(wrong) < expected + 3 * np.std(wrong, ddof=1) / np.sqrt(20)
    assert np.mean(wrong) > 0.02  # nor is everything swept under the carpet
    assert np.mean(power) > 0.95


def test_folds_keep_wells_together_and_spread_plates() -> None:
    units = np.repeat(np.arange(24, dtype=np.int32), 3)
    groups = (units // 6).astype(np.int32)
    folds = folds_of(units, groups)
    assert folds.max() == 9
    for unit in range(24):
        assert len(set(folds[units == unit])) == 1
    for group in range(4):
        assert len(set(folds[groups == group])) == 6
