"""`unidino-fast compare` as it is typed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from pathlib import Path


def tables(folder: Path) -> list[str]:
    generator = np.random.default_rng(0)
    for name in "AB":
        labels = generator.integers(0, 2, 20)
        table = pl.DataFrame(
            {
                "Metadata_Plate": [name] * 20,
                "Metadata_MoA": [f"m{label}" for label in labels],
                "DNA_000": labels + generator.normal(size=20),
                "DNA_001": generator.normal(size=20),
            }
        )
        table.write_csv(folder / f"{name}.csv")
    return [f"w/{name}={folder / name}.csv" for name in "AB"]


def test_compare(run: Any, tmp_path: Path) -> None:
    given = tables(tmp_path)
    done = run("compare", *given, "--label", "MoA", "--json", "--out", tmp_path / "t.csv")
    assert done.code == 0, done.err
    rows = json.loads(done.out)["rows"]
    assert [(row["train"], row["method"]) for row in rows] == [
        ("A", "linear-probe"),
        ("B", "linear-probe"),
        ("A", "nearest-neighbour"),
        ("B", "nearest-neighbour"),
    ]
    written = pl.read_csv(tmp_path / "t.csv")
    assert written["accuracy"].to_list() == [row["accuracy"] for row in rows]
    text = run("compare", *given, "--label", "MoA", "--method", "linear-probe").out
    assert text.startswith("weights     method        A -> B  B -> A\n")


def test_refusals(refuse: Any, tmp_path: Path) -> None:
    given = tables(tmp_path)
    refuse("compare", *given, "--label", "Nothing", code=1, said="no column Metadata_Nothing")
    refuse("compare", given[0], "--label", "MoA", code=2, said="there is nothing to compare")
    refuse("compare", "x=none.csv", "--label", "MoA", code=2, said="write WEIGHTS/DATASET=FILE")
