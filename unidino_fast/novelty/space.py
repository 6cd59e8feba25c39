"""The space in which distances are taken, and the controls' place and spread in it.

N rows, F features, P components, n controls, G groups (as a rule plates).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from unidino_fast.errors import TableError
from unidino_fast.profiles.spherize import principal_axes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]
    Codes = NDArray[np.int32]

_MAD_TO_SD = 1.4826
_LINEAR = 3.0
"""Robust standard deviations within which a feature stays nearly linear."""


def components_of(features: Values, groups: Codes, variance: float) -> Values:
    """Principal components (N, P) that hold a share of the variance of all rows.

    Each feature is centred on its group's median and divided by its robust spread over all rows
    (1.4826 MAD, or the standard deviation where more than half of the rows are equal); beyond three
    of these it grows as a logarithm (`3 asinh(z / 3)`), so that single wild features do not decide.
    Then it is standardised. All rows are treated alike, without a look at which are controls: one
    that is left out later has no more part in this than a well that never was one.

    Args:
        features: (N, F), every value finite.
        groups: (N,) from 0.
        variance: share between 0 and 1; 1 loses nothing.

    Raises:
        TableError: no feature varies.
    """
    scaled = features - _group_medians(features, groups)[groups]
    spread = _MAD_TO_SD * np.median(np.abs(scaled - np.median(scaled, axis=0)), axis=0)
    rounding = np.median(np.abs(features), axis=0) * np.finfo(np.float32).eps
    tied = spread <= rounding
    spread[tied] = scaled[:, tied].std(axis=0)
    flat = spread <= rounding  # what varies there is rounding
    scaled[:, flat] = 0
    scaled /= np.where(flat, 1.0, spread)
    squashed = _LINEAR * np.arcsinh(scaled / _LINEAR)
    axes = principal_axes(squashed.T, correlation=True)
    if not len(axes.singular):
        raise TableError(
            f"no feature varies among {len(features)} rows: give a table of different wells"
        )
    shares = np.cumsum(np.square(axes.singular))
    n_kept = int(np.searchsorted(shares, variance * shares[-1] * (1 - 1e-12))) + 1
    return np.ascontiguousarray((axes.axes[:n_kept] @ axes.standardised(squashed.T)).T)


@dataclass(frozen=True)
class ControlModel:
    """Where controls lie and how they scatter.

    Attributes:
        centres: mean control of each group (G, P).
        whitening: (P, P), by which rows become uncorrelated, of unit variance.
        reference: the controls themselves, centred and whitened (n, P).
        shrinkage: how much of the covariance was replaced by a sphere, 0 to 1.
    """

    centres: Values
    whitening: Values
    reference: Values
    shrinkage: float

    @classmethod
    def fit(
        cls, controls: Values, groups: Codes, n_groups: int, shrinkage: float | None = None
    ) -> ControlModel:
        """Learns from controls (n, P) of groups (n,); each group has one or more.

        The covariance is pooled within groups and shrunk towards a sphere by Ledoit and Wolf
        (2004), so that it can be inverted where there are more components than controls.

        Raises:
            TableError: the controls do not vary.
        """
        from sklearn.covariance import ledoit_wolf_shrinkage

        centres = np.zeros((n_groups, controls.shape[1]))
        np.add.at(centres, groups, controls)
        centres /= np.maximum(np.bincount(groups, minlength=n_groups), 1)[:, None]
        centred = controls - centres[groups]
        freedom = max(len(controls) - len(np.unique(groups)), 1)
        covariance = centred.T @ centred / freedom
        mean_variance = float(np.trace(covariance)) / len(covariance)
        if not mean_variance > np.finfo(np.float64).eps * float(np.abs(controls).max(initial=0)):
            raise TableError(
                f"the {len(controls)} controls do not differ from each other, so nothing is known"
                " of how controls vary: widen --samples, or take groups together (--by all)"
            )
        if shrinkage is None:
            shrinkage = float(ledoit_wolf_shrinkage(centred, assume_centered=True))
        shrunk = (1 - shrinkage) * covariance
        shrunk.flat[:: len(shrunk) + 1] += shrinkage * mean_variance
        variances, axes = np.linalg.eigh(shrunk)
        whitening = axes / np.sqrt(variances)
        return cls(centres, whitening, centred @ whitening, shrinkage)

    def whiten(self, rows: Values, groups: Codes) -> Values:
        """Rows (R, P) as seen from the controls of their groups: centred, whitened."""
        white: Values = (rows - self.centres[groups]) @ self.whitening
        return white

    def mahalanobis(self, white: Values) -> Values:
        """Distance of whitened rows (R, P) from the controls' mean (Mahalanobis 1936)."""
        distances: Values = np.linalg.norm(white, axis=1)
        return distances

    def knn(self, white: Values, k: int) -> Values:
        """Mean distance of whitened rows (R, P) to their k nearest controls."""
        from sklearn.neighbors import NearestNeighbors

        search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(self.reference)
        nearest: Values = search.kneighbors(white)[0].mean(axis=1)
        return nearest


def _group_medians(features: Values, groups: Codes) -> Values:
    """(G, F)."""
    return np.stack(
        [np.median(features[groups == group], axis=0) for group in range(int(groups.max()) + 1)]
    )
