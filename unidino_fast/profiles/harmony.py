"""Harmony (Korsunsky et al. 2019) through harmonypy, an optional package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from unidino_fast.errors import TableError, UsageError
from unidino_fast.profiles.table import refuse_nulls

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unidino_fast.profiles.table import Profiles

_LEAST_ROWS = 30


def harmony(
    profiles: Profiles,
    batch: Sequence[str],
    *,
    theta: float | None = None,
    max_iter: int = 10,
    seed: int = 0,
) -> Profiles:
    """Features corrected for batches; they keep their names.

    Harmony is meant for principal components: put `pca` before it where there are many features.

    Args:
        profiles: left as they are.
        batch: columns whose values are batches.
        theta: diversity penalty; harmonypy's own by default.
        max_iter: rounds of harmonypy.
        seed: of its clustering.

    Raises:
        UsageError: harmonypy is not installed, or there is one batch only.
        TableError: null features, or fewer rows than a cluster has.
    """
    refuse_nulls(profiles, "harmony")
    try:
        import harmonypy
    except ImportError:
        raise UsageError(
            "method harmony needs harmonypy: install it with pip install 'unidino_fast[harmony]'"
        ) from None
    if profiles.height < _LEAST_ROWS:
        raise TableError(
            f"harmony clusters rows by the thirty, and there are {profiles.height}: give it more"
        )
    for name in batch:
        if profiles.metadata[name].n_unique() < 2:
            raise UsageError(f"{name} has one value, so there is no batch to correct: name another")
    columns: dict[str, Any] = {
        name: np.array([str(value) for value in profiles.metadata[name]]) for name in batch
    }
    found = harmonypy.run_harmony(
        profiles.values.astype(np.float64),  # (F, N): tried first, so that a square is not turned
        columns,
        list(batch),
        theta=theta,
        max_iter_harmony=max_iter,
        random_state=seed,
        verbose=False,
    )
    corrected = np.asarray(found.Z_corr).T  # (F, N)
    return profiles.with_features(profiles.features, corrected.astype(profiles.values.dtype))
