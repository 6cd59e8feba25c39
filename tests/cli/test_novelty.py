"""The command `unusual` as a user sees it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from novelty_screens import CONTROLS, screen

import unidino_fast as uf

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def wells(tmp_path: Path) -> Path:
    """Ten wells of one mechanism, whose names are hostile, beside 60 controls."""
    rng = np.random.default_rng(4)
    shifts = np.repeat([20 * np.eye(1, 12)[0], 20 * np.eye(2, 12)[1]], 8, axis=0)
    table = screen(
        rng, n_controls=60, shifts=shifts, MoA=["known\x1b[1m"] * 8 + [None] * 8, Dose=[1.0] * 16
    )
    table.write_parquet(tmp_path / "wells.parquet")
    return tmp_path / "wells.parquet"


def test_unusual_prints_writes_and_gives_json(run: Any, wells: Path, tmp_path: Path) -> None:
    call = ("unusual", wells, "--samples", CONTROLS, "--label", "MoA")
    outcome = run(*call, "--out", tmp_path / "rows.csv")
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("16 of 16 wells are unusual at a false discovery rate of 0.05")
    assert "explained, 8 wells, 100% known_[1m\n" in outcome.out
    assert "candidate, 8 wells\n" in outcome.out
    assert "nearest: known_[1m (" in outcome.out
    found = uf.find_unusual(wells, CONTROLS, label="MoA")
    written = pl.read_csv(tmp_path / "rows.csv")
    assert written["mahalanobis"].to_list() == pytest.approx(found.rows["mahalanobis"].to_list())
    document = json.loads(run(*call, "--json").out)
    assert document == json.loads(json.dumps(found.to_dict()))
    assert (document["n_unusual"], document["n_candidates"]) == (16, 1)
    [candidate] = [one for one in document["clusters"] if not one["explained"]]
    assert len(candidate["wells"]) == 8
    assert candidate["nearest"][0]["Metadata_MoA"] == "known\x1b[1m"


def test_names_of_any_length_keep_lines_short(run: Any, wells: Path) -> None:
    longest = pl.col("Metadata_MoA") + "x" * 10_000
    pl.read_parquet(wells).with_columns(Metadata_MoA=longest).write_parquet(wells)
    outcome = run("unusual", wells, "--samples", CONTROLS, "--label", "MoA")
    assert "8 wells, 100% known_[1mxxx" in outcome.out
    assert "x…" in outcome.out
    assert "x" * 61 not in outcome.out


def test_unusual_says_why_it_cannot(refuse: Any, run: Any, wells: Path) -> None:
    refuse("unusual", wells, "--samples", "x ==", code=2, said="is not understood")
    refuse("unusual", wells, "--samples", 'Metadata_Compound == "none"', code=1, said="no row of")
    call = ("unusual", wells, "--samples", CONTROLS)
    refuse(*call, "--fdr", "2", code=2, said="fdr 2.0 is no share")
    refuse(*call, "--by", "Plate,Batch", code=1, said="no column Metadata_Batch")
    refuse(*call, "--out", wells, code=2, said="is the table that is read")
    few = run("unusual", wells, "--samples", f'{CONTROLS} and Metadata_Well < "A09"', "--by", "all")
    assert few.code == 0
    assert "warning: 8 controls give a p-value of 0.111 at least" in few.err
