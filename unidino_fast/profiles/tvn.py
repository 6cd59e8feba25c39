"""Typical variation normalisation (TVN): what controls do among themselves is noise.

Letters: N rows, F features, n controls, V eigenvectors, s eigenvalues, C a matrix of second moments
of controls, I the identity. Ando et al. 2017, "Improving phenotypic measurements in high-content
imaging screens"; the two forms are those of uniDINO's released code and of the EFAAR benchmarks
(Celik et al. 2024).

Matrix powers are taken where they are cheap: a covariance matrix of few controls is zero but
for as many directions, so that its inverse root is plain in all others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from unidino_fast.errors import TableError
from unidino_fast.profiles.spherize import principal_axes
from unidino_fast.profiles.statistics import mean_of
from unidino_fast.profiles.table import Neutralised, no_sample, numbered, refuse_nulls

if TYPE_CHECKING:
    from collections.abc import Mapping

    from unidino_fast.profiles.table import Mask, Matrix, Profiles, Rows

_RIDGE = {"tvn": 1.0, "tvn_efaar": 0.5}
"""Share of I added to the covariance matrices of batches."""


def tvn(
    profiles: Profiles, batches: Mapping[str, Rows], selected: Mask, samples: str | None
) -> Profiles:
    """The released form: `TVN_000` ... as many as there were features.

    Centred on the mean of all controls and turned by V of their covariance matrix (with 1/n) to
    V / sqrt(s + 1), without turning back. Then each batch is multiplied by
    (C_batch + I)^-1/2 (C_all + I)^1/2, of second moments (with 1/n) of the whitened controls about
    the mean of all: how far a batch's controls lie from there counts as their spread.

    Args:
        profiles: left as they are.
        batches: rows by name.
        selected: the controls (N,).
        samples: the query behind them, for errors.

    Raises:
        TableError: a batch without controls, or null features.
    """
    refuse_nulls(profiles, "tvn")
    _each_has(1, batches, selected, samples)
    controls = profiles.values[:, selected].astype(np.float64)
    centre = mean_of(controls)
    controls -= centre[:, None]
    s, vectors = np.linalg.eigh(controls @ controls.T / controls.shape[1])
    s, vectors = np.maximum(s[::-1], 0), _settled(vectors[:, ::-1])
    whitening = vectors / np.sqrt(s + 1)
    # of the whitened controls C_all is diagonal: s / (s + 1)
    target = np.sqrt(s / (s + 1) + 1)
    values = np.empty_like(profiles.values)
    for rows in batches.values():
        white = whitening.T @ (profiles.values[:, rows] - centre[:, None])
        own = white[:, selected[rows]]
        aligned = _divided_by_root(white, own, own.shape[1], _RIDGE["tvn"])
        values[:, rows] = target[:, None] * aligned
    return profiles.with_features(numbered("TVN", len(values)), values)


def tvn_efaar(
    profiles: Profiles, batches: Mapping[str, Rows], selected: Mask, samples: str | None
) -> tuple[Profiles, list[Neutralised]]:
    """The EFAAR form: `TVN_000` ... as many as the controls determine.

    Standardised on all controls, turned to their principal components, standardised again, then
    each batch multiplied by (C_batch + I / 2)^-1/2, with 1/(n - 1). Components along which the
    controls do not vary, which cannot be standardised, are left out.

    Raises:
        TableError: a batch with fewer than two controls, or null features.
    """
    refuse_nulls(profiles, "tvn_efaar")
    _each_has(2, batches, selected, samples)
    fitted = principal_axes(profiles.values[:, selected], correlation=True)
    if not len(fitted.singular):
        raise TableError("the controls do not vary, so TVN has nothing to learn: widen the query")
    unit = fitted.axes * (np.sqrt(fitted.n) / fitted.singular)[:, None]  # (r, F)
    values = np.empty((len(unit), profiles.height), profiles.values.dtype)
    for rows in batches.values():
        white = unit @ fitted.standardised(profiles.values[:, rows])
        own = white[:, selected[rows]]
        own = own - own.mean(axis=1, keepdims=True)
        values[:, rows] = _divided_by_root(white, own, own.shape[1] - 1, _RIDGE["tvn_efaar"])
    flat = tuple(profiles.features[index] for index in np.flatnonzero(fitted.flat))
    neutralised = [Neutralised("all rows", flat)] if flat else []
    return profiles.with_features(numbered("TVN", len(values)), values), neutralised


def _divided_by_root(values: Matrix, deviations: Matrix, n: int, ridge: float) -> Matrix:
    """(C + ridge I)^-1/2 @ values (F, N), C = X X' / n of the controls' deviations X.

    With C = U diag(c) U', U of no more columns than X: the factor is 1 / sqrt(c + ridge) along U
    and 1 / sqrt(ridge) elsewhere.
    """
    directions, singular, _ = np.linalg.svd(deviations, full_matrices=False)
    variance = singular**2 / n
    elsewhere = 1 / np.sqrt(ridge)
    along = 1 / np.sqrt(variance + ridge) - elsewhere
    divided: Matrix = directions @ (along[:, None] * (directions.T @ values))
    divided += elsewhere * values
    return divided


def _settled(vectors: Matrix) -> Matrix:
    """Eigenvectors, in columns, whose largest entry is positive."""
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])]
    settled: Matrix = vectors * np.where(largest < 0, -1, 1)
    return settled


def _each_has(least: int, batches: Mapping[str, Rows], selected: Mask, samples: str | None) -> None:
    for batch, rows in batches.items():
        n_controls = int(selected[rows].sum())
        if n_controls == 0:
            raise no_sample(batch, samples)
        if n_controls < least:
            raise TableError(
                f"{batch} has one row that fits the samples {samples!r}, and tvn_efaar needs two"
                " for a covariance: widen the query"
            )
