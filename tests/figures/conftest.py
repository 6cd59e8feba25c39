"""A table that figures are drawn of."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest


@pytest.fixture
def screen() -> pl.DataFrame:
    """240 wells of 4 plates, 20 compounds of 5 mechanisms, 24 features."""
    rng = np.random.default_rng(5)
    compound = rng.permutation(240) // 12
    values = rng.standard_normal((240, 24)) + rng.standard_normal((20, 24))[compound]
    metadata = {
        "Metadata_Plate": [f"P{i // 60}" for i in range(240)],
        "Metadata_Compound": [f"C{i:02d}" for i in compound],
        "Metadata_MoA": [f"M{i // 4}" for i in compound],
    }
    return pl.DataFrame(metadata | {f"DNA_{i:03d}": values[:, i].astype("f4") for i in range(24)})
