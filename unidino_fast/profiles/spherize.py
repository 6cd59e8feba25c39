"""Spherizing (whitening): features become uncorrelated, of one variance, as the samples see them.

Letters: N rows, n sample rows, F features, r the rank of the centred samples. Kessy et al. 2018,
"Optimal whitening and decorrelation", names the four kinds; numbers are those of pycytominer's
`Spherize` (centred, epsilon added to the singular values).
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from unidino_fast.errors import TableError
from unidino_fast.names import counted
from unidino_fast.profiles.scaling import without_spread
from unidino_fast.profiles.statistics import mean_of, standard_deviation
from unidino_fast.profiles.table import (
    Neutralised,
    no_sample,
    numbered,
    refuse_nulls,
    within,
)
from unidino_fast.threads import in_threads, products_on_one_core

if TYPE_CHECKING:
    from collections.abc import Mapping

    from unidino_fast.profiles.table import Mask, Matrix, Profiles, Rows

_ROWS_AT_ONCE = 4096
"""Rows of float64 copies: memory grows with the features, not with the table."""
_ROWS_A_THREAD = 256
"""Rows that are whitened at a time."""
_WORTH_TWO_CORES = 512
"""Smaller matrices are factorized faster by one."""


@dataclass(frozen=True, slots=True)
class Axes:
    """Principal axes of samples.

    Attributes:
        centre: mean of the samples (F,).
        scale: what each feature is divided by (F,); 1 for features that have no spread.
        flat: features without spread (F,): their axes are zero.
        singular: the r singular values of the centred, scaled samples that are not zero.
        axes: (r, F), orthonormal; the largest entry of each is positive, as scikit-learn has it.
        n: sample rows.
    """

    centre: Matrix
    scale: Matrix
    flat: Mask
    singular: Matrix
    axes: Matrix
    n: int

    def standardised(self, values: Matrix) -> Matrix:
        """Values (F, N) centred and scaled, float64, features without spread 0."""
        standard: Matrix = (values - self.centre[:, None]) / self.scale[:, None]
        standard[self.flat] = 0
        return standard


def principal_axes(samples: Matrix, *, correlation: bool) -> Axes:
    """Axes of samples (F, n), of their correlation matrix or of their covariance matrix.

    The singular values come from the samples themselves: those of the covariance matrix would be
    squares, of which half the digits are lost. Many samples are first reduced, portion by portion,
    to the triangle of a QR decomposition, which has the same singular values and axes.
    """
    n_features, n = samples.shape
    centre = mean_of(samples)
    spread = np.concatenate(
        [
            standard_deviation(samples[part].astype(np.float64) - centre[part, None])
            for part in np.array_split(np.arange(n_features), n_features // 256 + 1)
        ]
    )
    flat = without_spread(samples, spread, centre)
    scale = np.where(flat, 1, spread) if correlation else np.ones(n_features)
    axes = Axes(centre, scale, flat, np.empty(0), np.empty((0, n_features)), n)
    triangle = np.empty((0, n_features))
    step = max(_ROWS_AT_ONCE, 2 * n_features)
    for at in range(0, n, step):
        portion = axes.standardised(samples[:, at : at + step]).T
        triangle = np.concatenate([triangle, portion])
        if len(triangle) > n_features and n > step:
            triangle = np.asarray(np.linalg.qr(triangle, mode="r"))
    small = min(triangle.shape) < _WORTH_TWO_CORES
    with products_on_one_core() if small else nullcontext():
        axes_in_columns, singular, _ = np.linalg.svd(triangle.T, full_matrices=False)
    return Axes(centre, scale, flat, *_without_noise(singular, axes_in_columns.T, n), n)


def _without_noise(singular: Matrix, axes: Matrix, n: int) -> tuple[Matrix, Matrix]:
    """Singular values and axes up to the rank, which centring takes below n; signs settled.

    The bound is that of `numpy.linalg.matrix_rank`.
    """
    if not len(singular):
        return singular, axes
    bound = singular[0] * max(n, axes.shape[1]) * np.finfo(np.float64).eps
    rank = min(int((singular > bound).sum()), n - 1)
    axes = axes[:rank]
    largest = axes[np.arange(rank), np.abs(axes).argmax(axis=1)] if rank else np.empty(0)
    return singular[:rank], axes * np.where(largest < 0, -1, 1)[:, None]


def spherize(
    profiles: Profiles,
    kind: str,
    groups: Mapping[str, Rows],
    selected: Mask,
    samples: str | None,
    *,
    epsilon: float = 1e-6,
) -> tuple[Profiles, list[Neutralised]]:
    """Spherizes within groups.

    Where the samples span fewer dimensions than there are features (fewer samples than features,
    always), their smallest known singular value stands for the unknown ones, as in pycytominer:
    the other choices, leaving such directions alone or infinitely stretched, would have them vanish
    beside the others or drown them. ZCA is defined there; of PCA only the r components that the
    samples determine are given, since all further ones would be an arbitrary choice.

    Args:
        profiles: written into by ZCA.
        kind: `PCA`, `PCA-cor`, `ZCA` or `ZCA-cor`; `cor` standardises first. ZCA turns back, so
            that features keep their names and channels; of PCA come `PCA_000` ...
        groups: rows by name.
        selected: rows that the axes are learned from (N,).
        samples: the query behind them, for errors.
        epsilon: added to the singular values.

    Raises:
        TableError: too few samples, null features, or groups with different numbers of components.
    """
    turns_back = kind.startswith("ZCA")
    if not turns_back:
        refuse_nulls(profiles, f"spherizing by {kind}")
    neutralised, results = [], []
    for group, rows in groups.items():
        whole = profiles.values[:, rows]
        there: Mask = np.asarray(
            ~np.isnan(whole).all(axis=1)
        )  # a channel that the group lacks stays null
        known = whole[there]
        names = [name for name, is_there in zip(profiles.features, there, strict=True) if is_there]
        _refuse_holes(known, names, group, kind)
        mask = within(rows, selected)
        reference = known if mask is None else known[:, mask]
        fitted = _fitted(reference, group, samples, correlation=kind.endswith("cor"))
        if fitted.flat.any():
            flat = tuple(names[index] for index in np.flatnonzero(fitted.flat))
            neutralised.append(Neutralised(group, flat))
        parts = [slice(at, at + _ROWS_A_THREAD) for at in range(0, known.shape[1], _ROWS_A_THREAD)]
        white = partial(_whitened, fitted, known, epsilon=epsilon, turns_back=turns_back)
        for part, done in zip(parts, in_threads(white, parts), strict=True):
            if turns_back:
                known[:, part] = done
            else:
                results.append((group, done))
        if turns_back:
            whole[there] = known
            profiles.values[:, rows] = whole
    if turns_back:
        return profiles, neutralised
    return _of_components(profiles, groups, results), neutralised


def _fitted(reference: Matrix, group: str, samples: str | None, *, correlation: bool) -> Axes:
    if not reference.shape[1]:
        raise no_sample(group, samples)
    fitted = principal_axes(reference, correlation=correlation)
    if not len(fitted.singular) and len(reference):
        raise TableError(
            f"the samples of {group} ({counted(reference.shape[1], 'row')}) do not vary, so nothing"
            " can be learned from them: widen the query, or take groups together (--by all)"
        )
    return fitted


def _whitened(
    fitted: Axes, values: Matrix, part: slice, *, epsilon: float, turns_back: bool
) -> Matrix:
    """Some rows n of (F, N) -> (F, n) turned back, or else components (r, n)."""
    standard = fitted.standardised(values[:, part])
    components = fitted.axes @ standard  # (r, n)
    factor = np.sqrt(fitted.n - 1) / (fitted.singular + epsilon)
    if not turns_back:
        scaled: Matrix = components * factor[:, None]
        return scaled
    n_known = len(standard) - int(fitted.flat.sum())
    # what the samples do not span counts like the direction in which they vary least
    rest = factor[-1] if len(factor) < n_known else 0.0
    white: Matrix = fitted.axes.T @ (components * (factor - rest)[:, None])
    white += rest * standard
    white[fitted.flat] = 0
    return white


def _of_components(
    profiles: Profiles, groups: Mapping[str, Rows], results: list[tuple[str, Matrix]]
) -> Profiles:
    counts = {group: len(white) for group, white in results}
    if len(set(counts.values())) > 1:
        few, many = min(counts, key=lambda g: counts[g]), max(counts, key=lambda g: counts[g])
        raise TableError(
            f"{few} has {counts[few]} components and {many} has {counts[many]}: use a ZCA method,"
            " which keeps the features, or take groups together (--by all)"
        )
    n_components = next(iter(counts.values()), 0)
    values = np.empty((n_components, profiles.height), profiles.values.dtype)
    for group, rows in groups.items():
        parts = [white for name, white in results if name == group]
        values[:, rows] = np.concatenate(parts, axis=1)
    return profiles.with_features(numbered("PCA", n_components), values)


def _refuse_holes(values: Matrix, names: list[str], group: str, kind: str) -> None:
    """Stops at a feature that some rows of a group have and others lack."""
    holes = np.isnan(values.min(axis=1, initial=np.inf))
    if holes.any():
        at = int(holes.argmax())
        raise TableError(
            f"feature {names[at]} is null in {int(np.isnan(values[at]).sum())} of"
            f" {values.shape[1]} rows of {group}, and spherizing by {kind} mixes features: drop"
            " it first (select na in a recipe), or those rows"
        )
