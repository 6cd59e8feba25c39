"""Tables that several tests of evaluations make."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest


def table(features: Any, **metadata: Any) -> pl.DataFrame:
    """Profiles of a feature matrix and metadata columns named without their prefix."""
    columns = {f"Metadata_{name}": values for name, values in metadata.items()}
    values = np.asarray(features)
    return pl.DataFrame(columns | {f"DNA_{i:03d}": values[:, i] for i in range(values.shape[1])})


@pytest.fixture
def screen() -> pl.DataFrame:
    """240 wells of 4 plates, 20 compounds of 5 mechanisms; compounds and plates show."""
    rng = np.random.default_rng(5)
    compound, plate = rng.permutation(240) // 12, np.arange(240) // 60
    features = rng.standard_normal((240, 24))
    features += 0.5 * rng.standard_normal((20, 24))[compound]
    features += 0.4 * rng.standard_normal((5, 24))[compound // 4]
    features += 0.3 * rng.standard_normal((4, 24))[plate]
    return table(
        features.astype(np.float32),
        Plate=[f"P{i}" for i in plate],
        Compound=[f"C{i:02d}" for i in compound],
        MoA=[f"M{i // 4}" for i in compound],
    )
