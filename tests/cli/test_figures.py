"""The command `figures` as a user sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def profiles(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    table = {
        "Metadata_Compound": [f"c{i // 3}" for i in range(24)],
        "Metadata_MoA": [f"m{i // 6}" for i in range(24)],
    }
    table |= {f"DNA_{i:03d}": rng.standard_normal(24) for i in range(5)}
    pl.DataFrame(table).write_parquet(tmp_path / "profiles.parquet")
    return tmp_path / "profiles.parquet"


def test_figures_writes_a_file_of_a_fixed_size(run: Any, profiles: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "map.png"
    outcome = run("figures", "similarity", profiles, "--label", "MoA", "--out", out)
    assert outcome.code == 0, outcome.err
    assert outcome.out == f"{out}: similarity of profiles.parquet\n"
    with Image.open(out) as picture:
        assert picture.size == (int(180 / 25.4 * 300), int(150 / 25.4 * 300))
    curves = pl.DataFrame({"metric": ["S_0", "S_1"], "subject": ["A549"] * 2, "value": [1.0, 0.0]})
    curves.write_csv(tmp_path / "rows.csv")
    outcome = run(
        "figures", "paper-cell-health", tmp_path / "rows.csv", "--out", tmp_path / "c.pdf"
    )
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "c.pdf").read_bytes().startswith(b"%PDF")


def test_figures_says_why_it_cannot(refuse: Any, profiles: Path, tmp_path: Path) -> None:
    out = tmp_path / "f.svg"
    refuse("figures", "pie", profiles, "--out", out, code=2, said="figure 'pie' is unknown")
    call = ("figures", "similarity", profiles)
    refuse(*call, "--out", tmp_path / "f.jpg", code=2, said="ends in none of .png, .svg, .pdf")
    refuse(*call, "--by", "Comp", "--out", out, code=1, said="did you mean Metadata_Compound")
    refuse(*call, "--densmap", "--out", out, code=2, said="--densmap is no option")
    lost = ("figures", "umap", tmp_path / "no.csv")
    refuse(*lost, "--out", out, code=1, said="does not exist")
    assert not out.exists()
