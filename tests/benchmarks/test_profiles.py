"""Both libraries do the same job, and a campaign's rows say what it took."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest

from unidino_fast.benchmarks import profiles
from unidino_fast.results import feature_columns


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "WELLS", 192)
    monkeypatch.setattr(profiles, "FEATURES", 12)


def numbers(table: object) -> np.ndarray:
    """Features of either library's table, rows in one order."""
    frame = table.to_pandas() if isinstance(table, pl.DataFrame) else table
    assert isinstance(frame, pd.DataFrame)
    if "Metadata_Plate" not in frame:
        frame = frame.sort_values("Metadata_Group")
    names = [name for name in frame if not name.startswith("Metadata_")]
    return frame[names].to_numpy(float)


def test_steps_agree() -> None:
    plate = profiles._plate()
    steps = profiles._steps(plate)
    assert len(steps) == 5
    for step, (ours, theirs, _) in steps.items():
        by_group = step.startswith("consensus")
        found = ours()
        assert isinstance(found, pl.DataFrame)
        if by_group:
            found = found.sort("Metadata_Group").select("Metadata_Group", *feature_columns(found))
        # theirs works in float32, as its input is
        np.testing.assert_allclose(numbers(found), numbers(theirs()), atol=2e-4, err_msg=step)


def test_a_campaign(capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(profiles.bench_campaign(30, lambda text: None, (1, 1)))
    assert [row.candidate for row in rows] == [
        "unidino_fast, 3 plates", "pycytominer", "unidino_fast, 30 plates"
    ]  # fmt: skip
    assert rows[0].baseline == "pycytominer"
    assert "peak memory" in rows[0].note
    assert "peak memory" in rows[2].note
    assert rows[2].value is not None
    assert rows[2].value > 0
