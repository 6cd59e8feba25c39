"""`.h5ad` files: anndata itself reads them."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest

from unidino_fast.anndata_file import write_h5ad
from unidino_fast.errors import OutputError, UsageError

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any


@pytest.fixture
def table() -> pl.DataFrame:
    """Three wells with every kind of column that metadata can have; ER lacks in the second."""
    return pl.DataFrame(
        {
            "Metadata_Plate": ["p"] * 3,
            "Metadata_Well": ["A01", "A02", "B01"],
            "Metadata_Column": [1, 2, 1],
            "Metadata_MoA": ["actin", None, "Ärger\n"],
            "Metadata_Dose/uM": [0.5, None, 2.0],
            "Metadata_Rank": [3, None, 1],
            "Metadata_Hit": [True, None, False],
            "Metadata_Sound": [True, False, True],
            "Metadata_Kind": pl.Series(["x", "y", "x"], dtype=pl.Enum(["x", "y"])),
            "DNA_000": pl.Series([1.5, 2.5, 3.5], dtype=pl.Float32),
            "DNA_001": pl.Series([-1.0, 1e-40, 7.0], dtype=pl.Float32),
            "ER_x_000": pl.Series([4.0, None, 6.0], dtype=pl.Float32),
            "odd": pl.Series([0.0, 1.0, 2.0], dtype=pl.Float32),
        }
    )


def read(path: Path) -> Any:
    pytest.importorskip("h5py", reason="h5py writes .h5ad files")
    anndata = pytest.importorskip("anndata", reason="anndata reads them")
    return anndata.read_h5ad(path)


def test_anndata_reads_what_was_written(table: pl.DataFrame, tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="h5py writes .h5ad files")
    write_h5ad(table, tmp_path / "new/a.h5ad", {"recipe": [1]})
    held = read(tmp_path / "new/a.h5ad")
    assert held.X.dtype == np.float32
    wanted = [[1.5, -1, 4, 0], [2.5, 1e-40, np.nan, 1], [3.5, 7, 6, 2]]
    np.testing.assert_array_equal(held.X, np.array(wanted, np.float32))
    assert list(held.var_names) == ["DNA_000", "DNA_001", "ER_x_000", "odd"]
    assert held.var["channel"].tolist() == ["DNA", "DNA", "ER_x", ""]
    assert held.var["index"].tolist() == [0, 1, 0, -1]
    assert list(held.obs_names) == ["p_A01", "p_A02", "p_B01"]
    assert json.loads(held.uns["unidino_fast"]) == {"recipe": [1]}
    expected = table.select(pl.col("^Metadata_.*$")).rename(
        {"Metadata_Dose/uM": "Metadata_Dose_uM"}
    )
    assert list(held.obs.columns) == expected.columns
    for name in expected.columns:
        missing = held.obs[name].isna()
        cells = [None if gone else cell for gone, cell in zip(missing, held.obs[name], strict=True)]
        assert cells == expected[name].to_list(), name


@pytest.mark.parametrize(
    "wells", [["A01", "A01", "A02"], [None, "A01", "A02"]], ids=["repeated", "missing"]
)
def test_rows_without_a_name_of_their_own_are_numbered(
    table: pl.DataFrame, tmp_path: Path, wells: list[str | None]
) -> None:
    pytest.importorskip("h5py", reason="h5py writes .h5ad files")
    write_h5ad(table.with_columns(Metadata_Well=pl.Series(wells)), tmp_path / "a.h5ad", {})
    assert list(read(tmp_path / "a.h5ad").obs_names) == ["0", "1", "2"]


def test_a_table_without_rows(table: pl.DataFrame, tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="h5py writes .h5ad files")
    write_h5ad(table.clear(), tmp_path / "a.h5ad", {})
    assert read(tmp_path / "a.h5ad").shape == (0, 4)


def test_equal_tables_give_equal_bytes(table: pl.DataFrame, tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="h5py writes .h5ad files")
    for name in ("a", "b"):
        write_h5ad(table, tmp_path / f"{name}.h5ad", {"z": 1, "a": 2})
    assert (tmp_path / "a.h5ad").read_bytes() == (tmp_path / "b.h5ad").read_bytes()


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (pl.Series("Metadata_L", [[1], [2], []]), "Metadata_L holds List"),
        (pl.Series("Metadata_Dose_uM", [1, 2, 3]), "two columns become Metadata_Dose_uM"),
        (pl.Series("Metadata_Z", ["a\0b", "", ""]), "has a zero byte"),
    ],
)
def test_what_it_cannot_hold_is_named(
    table: pl.DataFrame, tmp_path: Path, column: pl.Series, said: str
) -> None:
    pytest.importorskip("h5py", reason="h5py writes .h5ad files")
    with pytest.raises(UsageError, match=said):
        write_h5ad(table.with_columns(column), tmp_path / "a.h5ad", {})
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(table: pl.DataFrame, tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="h5py writes .h5ad files")
    (tmp_path / "a.h5ad").mkdir()
    with pytest.raises(OutputError, match=r"a\.h5ad cannot be written"):
        write_h5ad(table, tmp_path / "a.h5ad", {})


def test_without_h5py(table: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UsageError, match="h5py, which is not installed: pip install h5py"):
        write_h5ad(table, tmp_path / "a.h5ad", {})
