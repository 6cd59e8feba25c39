from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest

from unidino_fast.errors import TableError, UsageError
from unidino_fast.evaluation.cellprofiler import as_profiles, mean_of_cells, read_profiles
from unidino_fast.results import feature_columns

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what other people's packages say when imported
    from pycytominer.cyto_utils import infer_cp_features, output

if TYPE_CHECKING:
    from pathlib import Path

CELLS = pl.DataFrame(
    {
        "Metadata_ImageNumber": [1, 1, 2, 2, 2],
        "Image_Metadata_Plate": ["p1"] * 5,
        "Image_Metadata_Well": ["A01", "A01", "A02", "A02", "A02"],
        "Image_Count_Cells": [2, 2, 3, 3, 3],
        "Cells_AreaShape_Area": [1.0, 3.0, 10.0, 20.0, 90.0],
        "Cytoplasm_Intensity_MeanIntensity_ER": [0.5, 0.25, float("nan"), 1.0, 2.0],
        "Nuclei_Correlation_RWC_DNA_ER": [1.0, 1.0, float("nan"), float("nan"), float("nan")],
    }
)
FEATURES = [name for name in CELLS.columns if name.startswith(("Cells_", "Cyto", "Nuclei_"))]


def test_features_are_those_that_pycytominer_infers() -> None:
    assert feature_columns(as_profiles(CELLS)) == infer_cp_features(CELLS.to_pandas())


def test_all_else_is_metadata_under_its_plain_name() -> None:
    table = as_profiles(CELLS)
    metadata = [name for name in table.columns if name.startswith("Metadata_")]
    assert metadata == [
        *("Metadata_ImageNumber", "Metadata_Plate", "Metadata_Well"),
        "Metadata_Image_Count_Cells",
    ]
    assert table["Cytoplasm_Intensity_MeanIntensity_ER"].to_list() == [0.5, 0.25, None, 1.0, 2.0]


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".csv.gz", ".tsv"])
def test_reads_what_cytotable_and_pycytominer_write(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"profiles{ending}"
    if ending == ".parquet":
        CELLS.write_parquet(file)
    elif ending == ".tsv":
        CELLS.write_csv(file, separator="\t")
    else:
        output(
            CELLS.to_pandas(),
            str(file),
            compression_options="gzip" if ending.endswith("gz") else None,
        )
    table = read_profiles(file)
    expected = as_profiles(CELLS)
    assert table.columns == expected.columns
    assert table.select(FEATURES).equals(expected.select(FEATURES))
    assert table["Metadata_Well"].to_list() == expected["Metadata_Well"].to_list()


def test_our_own_tables_stay_as_they_are() -> None:
    """Even where a channel bears the name of a compartment."""
    table = pl.DataFrame({"Metadata_Well": ["A01"], "Nuclei_000": [1.0], "Cells_DNA_000": [2.0]})
    assert as_profiles(table) is table


def test_prefixes_of_ones_own() -> None:
    table = pl.DataFrame({"Plate": ["p"], "emb_0": [1.0], "emb_1": [2.0], "n_cells": [7]})
    found = as_profiles(table, ["emb_"])
    assert found.columns == ["Metadata_Plate", "emb_0", "emb_1", "Metadata_n_cells"]


def test_a_feature_without_values_is_a_number(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "Metadata_Well,Cells_AreaShape_Area,Cells_Texture_X\nA01,1.5,\n"
    )
    table = read_profiles(tmp_path / "t.csv")
    assert table.schema["Cells_Texture_X"] == pl.Float64
    assert table["Cells_Texture_X"].to_list() == [None]


def test_two_columns_for_one_name() -> None:
    twice = CELLS.with_columns(Metadata_Plate=pl.lit("p1"))
    assert as_profiles(twice).columns.count("Metadata_Plate") == 1
    with pytest.raises(TableError, match="would both be Metadata_Plate, but differ"):
        as_profiles(CELLS.with_columns(Metadata_Plate=pl.lit("other")))


@pytest.mark.parametrize(
    ("table", "prefixes", "said"),
    [
        (CELLS, ["emb_"], "no column begins with emb_"),
        (
            CELLS.with_columns(Cells_AreaShape_Area=pl.lit("big")),
            [],
            "feature Cells_AreaShape_Area holds String",
        ),
    ],
)
def test_tables_that_cannot_be_meant(table: pl.DataFrame, prefixes: list[str], said: str) -> None:
    with pytest.raises(TableError, match=r"^[^\n]*$") as error:
        as_profiles(table, prefixes)
    assert said in str(error.value)


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_wells_of_cells_against_numpy(statistic: Any) -> None:
    wells = mean_of_cells(as_profiles(CELLS), statistic=statistic)
    reduce = np.nanmean if statistic == "mean" else np.nanmedian
    assert wells["Metadata_Well"].to_list() == ["A01", "A02"]
    assert wells["Metadata_n_cells"].to_list() == [2, 3]
    assert wells["Metadata_ImageNumber"].to_list() == [1, 2]
    for name in FEATURES[:2]:
        values = CELLS[name].to_numpy()
        assert wells[name].to_list() == [reduce(values[:2]), reduce(values[2:])]
    assert wells[FEATURES[2]].to_list() == [1.0, None]  # nothing was measured in A02
    with pytest.raises(UsageError, match="'mode' is unknown"):
        mean_of_cells(as_profiles(CELLS), statistic="mode")  # type: ignore[arg-type]
    with pytest.raises(TableError, match="no column Metadata_Plate"):
        mean_of_cells(as_profiles(CELLS).drop("Metadata_Plate"))
