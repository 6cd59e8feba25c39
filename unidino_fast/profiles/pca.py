"""Rows of unit length, and principal components."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from unidino_fast.errors import TableError, UsageError
from unidino_fast.profiles.spherize import principal_axes
from unidino_fast.profiles.table import ALL_ROWS, no_sample, numbered, refuse_nulls

if TYPE_CHECKING:
    from unidino_fast.profiles.table import Mask, Matrix, Profiles

_ROWS_AT_ONCE = 4096


def unit_length(profiles: Profiles) -> tuple[Profiles, int]:
    """Divides each row by its Euclidean length, over the features that it has, in place.

    Returns:
        The profiles, and how many rows of length 0 were left as they are.
    """
    n_zero = 0
    for at in range(0, profiles.height, _ROWS_AT_ONCE):
        rows = profiles.values[:, at : at + _ROWS_AT_ONCE]
        length = np.sqrt(np.nansum(np.square(rows, dtype=np.float64), axis=0))
        n_zero += int((length == 0).sum())
        rows /= np.where(length == 0, 1, length).astype(rows.dtype)
    return profiles, n_zero


def principal_components(
    profiles: Profiles, selected: Mask, samples: str | None, *, n_components: float | None = None
) -> Profiles:
    """The rows along the principal axes of the samples: `PCA_000` ..., largest variance first.

    Args:
        profiles: left as they are.
        selected: rows that the axes are learned from (N,); their mean is the origin.
        samples: the query behind them, for errors.
        n_components: how many, or below 1 the share of variance that they explain together; by
            default all that the samples determine.

    Raises:
        TableError: no samples, samples that do not vary, null features, or fewer components than
            asked for.
    """
    refuse_nulls(profiles, "pca")
    if not selected.any():
        raise no_sample(ALL_ROWS, samples)
    fitted = principal_axes(profiles.values[:, selected], correlation=False)
    wanted = _how_many(fitted.singular, n_components)
    values = np.empty((wanted, profiles.height), profiles.values.dtype)
    for at in range(0, profiles.height, _ROWS_AT_ONCE):
        part = profiles.values[:, at : at + _ROWS_AT_ONCE]
        values[:, at : at + _ROWS_AT_ONCE] = fitted.axes[:wanted] @ fitted.standardised(part)
    return profiles.with_features(numbered("PCA", wanted), values)


def _how_many(singular: Matrix, n_components: float | None) -> int:
    if not len(singular):
        raise TableError("the samples of pca do not vary: give it more rows")
    if n_components is None:
        return len(singular)
    if n_components < 1:
        explained = np.cumsum(singular**2) / (singular**2).sum()
        return int(np.searchsorted(explained, n_components, side="right")) + 1
    if n_components != int(n_components):
        raise UsageError(f"n_components {n_components}: use a whole number, or a share below 1")
    if n_components > len(singular):
        raise TableError(
            f"n_components {n_components:g} is more than the {len(singular)} components that the"
            " samples determine: ask for fewer"
        )
    return int(n_components)
