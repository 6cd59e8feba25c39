from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import kstest

from unidino_fast.errors import TableError, UsageError
from unidino_fast.evaluation import evaluate
from unidino_fast.evaluation.baselines import baseline_table


@pytest.fixture(scope="module")
def profiles() -> pl.DataFrame:
    """300 wells whose features tell their compound, and compounds their mechanism, without fail."""
    random = np.random.default_rng(1)
    compounds = np.arange(300) % 30
    mechanisms = compounds % 3
    values = np.eye(3)[mechanisms] * 9 + np.eye(30)[compounds][:, :3] + random.normal(size=(300, 3))
    return pl.DataFrame(
        {
            "Metadata_Compound": [f"c{compound}" for compound in compounds],
            "Metadata_MoA": [f"m{mechanism}" for mechanism in mechanisms],
            **{f"DNA_{i:03d}": values[:, i].astype(np.float32) for i in range(3)},
        }
    )


@pytest.mark.parametrize("kind", ["gaussian", "shuffled"])
def test_knows_nothing_and_leaves_metadata_alone(profiles: pl.DataFrame, kind: Any) -> None:
    assert evaluate(profiles, preset="NSC", bootstrap=0).accuracy > 0.95
    table = baseline_table(profiles, kind, seed=3)
    assert table.schema == profiles.schema
    assert table.select("^Metadata_.*$").equals(profiles.select("^Metadata_.*$"))
    result = evaluate(table, preset="NSC", bootstrap=0)
    # 300 draws of chance 9/29: standard deviation .027, four of them
    assert result.accuracy == pytest.approx(result.chance, abs=0.11)
    assert result.chance == pytest.approx(90 / 290)
    assert baseline_table(profiles, kind, seed=3).equals(table)
    assert not baseline_table(profiles, kind, seed=4).equals(table)


def test_gaussian_is_standard_normal(profiles: pl.DataFrame) -> None:
    values = baseline_table(profiles, "gaussian").select("^DNA_.*$").to_numpy().ravel()
    assert kstest(values, "norm").pvalue > 0.001


def test_shuffled_rows_stay_whole(profiles: pl.DataFrame) -> None:
    features = profiles.select("^DNA_.*$")
    shuffled = baseline_table(profiles, "shuffled").select("^DNA_.*$")
    assert sorted(shuffled.rows()) == sorted(features.rows())
    assert shuffled.rows() != features.rows()


def test_refuses_what_it_does_not_know(profiles: pl.DataFrame) -> None:
    with pytest.raises(UsageError, match="'poisson' is unknown: use gaussian or shuffled"):
        baseline_table(profiles, "poisson")  # type: ignore[arg-type]
    with pytest.raises(TableError, match="no feature columns"):
        baseline_table(profiles.select("Metadata_MoA"), "gaussian")
