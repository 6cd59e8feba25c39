"""The controls' space, held against scipy, scikit-learn and loops."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import LedoitWolf

from unidino_fast.errors import TableError
from unidino_fast.novelty.space import ControlModel, components_of

RNG = np.random.default_rng(3)
CONTROLS = RNG.standard_normal((200, 6)) @ RNG.standard_normal((6, 6)) + 3
ROWS = RNG.standard_normal((17, 6)) * 4
ONE = np.zeros(200, np.int32)


def test_mahalanobis_without_shrinkage_is_scipys() -> None:
    model = ControlModel.fit(CONTROLS, ONE, 1, shrinkage=0)
    inverse = np.linalg.inv(np.cov(CONTROLS, rowvar=False))
    expected = [mahalanobis(row, CONTROLS.mean(axis=0), inverse) for row in ROWS]
    got = model.mahalanobis(model.whiten(ROWS, np.zeros(17, np.int32)))
    np.testing.assert_allclose(got, expected, rtol=1e-9)


@pytest.mark.parametrize("n", [200, 5])  # five controls, six components: no inverse without it
def test_mahalanobis_is_scikit_learns_with_its_shrinkage(n: int) -> None:
    model = ControlModel.fit(CONTROLS[:n], ONE[:n], 1)
    theirs = LedoitWolf().fit(CONTROLS[:n])
    assert model.shrinkage == pytest.approx(theirs.shrinkage_, rel=1e-9)
    got = model.mahalanobis(model.whiten(ROWS, np.zeros(17, np.int32)))
    squared = theirs.mahalanobis(ROWS) * (n - 1) / n  # their covariance divides by n, ours by n - 1
    np.testing.assert_allclose(got**2, squared, rtol=1e-8)


def test_neighbours_are_those_of_a_loop() -> None:
    model = ControlModel.fit(CONTROLS, ONE, 1)
    white = model.whiten(ROWS, np.zeros(17, np.int32))
    expected = [
        np.mean(sorted(np.linalg.norm(row - control) for control in model.reference)[:3])
        for row in white
    ]
    np.testing.assert_allclose(model.knn(white, 3), expected, rtol=1e-6)


def test_groups_have_centres_of_their_own() -> None:
    groups = np.arange(200, dtype=np.int32) % 3
    offsets = np.array([0.0, 50.0, -20.0])[:, None]
    apart = ControlModel.fit(CONTROLS + offsets[groups], groups, 3)
    of_rows = np.arange(17, dtype=np.int32) % 3
    white = apart.whiten(ROWS + offsets[of_rows], of_rows)
    together = ControlModel.fit(CONTROLS, groups, 3)
    np.testing.assert_allclose(white, together.whiten(ROWS, of_rows), rtol=1e-6, atol=1e-9)
    residues = CONTROLS - np.stack([CONTROLS[groups == g].mean(axis=0) for g in range(3)])[groups]
    unshrunk = ControlModel.fit(CONTROLS, groups, 3, shrinkage=0)
    np.testing.assert_allclose(
        np.linalg.inv(unshrunk.whitening @ unshrunk.whitening.T), residues.T @ residues / 197
    )


def test_components_lose_nothing_and_know_no_scale() -> None:
    small = CONTROLS * 0.01 / CONTROLS.std()  # within the linear range after scaling
    whole = components_of(small, ONE, 1.0)
    assert whole.shape == (200, 6)
    stretched = components_of(small * np.array([1, 1e6, 1e-6, 3, 7, 1]) + 1e-3, ONE, 1.0)
    np.testing.assert_allclose(np.abs(stretched), np.abs(whole), atol=1e-4)
    fewer = components_of(small, ONE, 0.8)
    shares = whole.var(axis=0) / whole.var(axis=0).sum()
    assert fewer.shape[1] == int(np.searchsorted(np.cumsum(shares), 0.8)) + 1
    np.testing.assert_allclose(fewer, whole[:, : fewer.shape[1]])


def test_wild_and_constant_features_do_no_harm() -> None:
    rounding = 7.0 + RNG.standard_normal(200) * 1e-9
    features = np.column_stack([CONTROLS, np.full(200, 7.0), rounding])
    features[0, 0] = 1e30
    components = components_of(features, ONE, 1.0)
    assert components.shape == (200, 6)
    scaled = []
    for column in features[:, :6].T:
        centred = column - np.median(column)
        squashed = 3 * np.arcsinh(centred / (1.4826 * np.median(np.abs(centred))) / 3)
        scaled.append((squashed - squashed.mean()) / squashed.std(ddof=1))
    expected = np.array(scaled).T  # of which components are a turn
    gram = components @ components.T
    factor = np.trace(expected @ expected.T) / np.trace(gram)  # n or n - 1
    assert factor == pytest.approx(1, abs=0.01)
    np.testing.assert_allclose(gram * factor, expected @ expected.T, atol=1e-6)
    assert expected[1:, 0].std() > 0.04  # one cell of 1e30 leaves something of its feature
    assert np.linalg.norm(components[0]) > 3 * np.median(np.linalg.norm(components, axis=1))
    with pytest.raises(TableError, match="no feature varies among 200 rows"):
        components_of(np.ones((200, 4)), ONE, 0.9)


def test_controls_that_do_not_vary_are_an_error() -> None:
    with pytest.raises(TableError, match="5 controls do not differ"):
        ControlModel.fit(np.ones((5, 3)), np.zeros(5, np.int32), 1)
