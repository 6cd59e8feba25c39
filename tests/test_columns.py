"""Columns by the names that people type: one rule for profiles, evaluation and training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import pytest

from unidino_fast.columns import find_column, find_columns, metadata_names, n_unknown
from unidino_fast.errors import TableError, UsageError
from unidino_fast.evaluation import evaluate
from unidino_fast.profiles import normalize

if TYPE_CHECKING:
    from collections.abc import Callable

TABLE = pl.DataFrame(
    {
        "Metadata_Plate": ["p", "q"],
        "Metadata_MoA": ["m", None],
        "Metadata_Doses": [[1.0], [2.0]],
        "Metadata_Bytes": [b"1", b"2"],
        "Plate": [1.0, 2.0],  # a feature
    }
)


def test_a_name_with_or_without_its_prefix() -> None:
    assert metadata_names(["Plate", "Metadata_Plate", "MoA"]) == ("Metadata_Plate", "Metadata_MoA")
    assert find_column(TABLE, "Plate") == find_column(TABLE, "Metadata_Plate") == "Metadata_Plate"
    assert find_columns(TABLE, ["MoA", "Metadata_MoA"]) == ("Metadata_MoA",)
    assert find_columns(TABLE, "MoA") == ("Metadata_MoA",)
    assert find_columns(TABLE, []) == ()


def test_dozens_of_measures_are_not_listed() -> None:
    measured = TABLE.with_columns(pl.lit(1.0).alias("Metadata_QC_Focus_DNA"))
    with pytest.raises(TableError, match=r"name one of Metadata_Plate, .*Metadata_Bytes$"):
        find_column(measured, "Xyz")
    assert find_column(measured, "QC_Focus_DNA") == "Metadata_QC_Focus_DNA"


@pytest.mark.parametrize("ask", [find_column, find_columns])
def test_names_that_are_none(ask: Callable[..., object]) -> None:
    with pytest.raises(TableError, match=r"^the table has no column Metadata_Palte: did you mean"):
        ask(TABLE, "Palte")
    with pytest.raises(TableError, match=r"Metadata_Xyz, which preset NSC needs: join it .*_MoA"):
        ask(TABLE, "Xyz", "preset NSC")
    with pytest.raises(TableError, match="Metadata_Doses holds List"):
        ask(TABLE, "Doses")
    with pytest.raises(TableError, match="Metadata_Bytes holds Binary"):
        ask(TABLE, "Bytes")
    with pytest.raises(UsageError, match="the name of a column is empty"):
        ask(TABLE, " ")
    with pytest.raises(TableError) as error:
        ask(TABLE.rename({"Metadata_MoA": "Metadata_Mo\nA"}), "x\ny")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["Palte", "Metadata_Doses"])
def test_profiles_and_evaluation_answer_alike(name: str) -> None:
    said = []
    for ask in (lambda: normalize(TABLE, by=name), lambda: evaluate(TABLE, name, bootstrap=0)):
        with pytest.raises(TableError) as error:
            ask()
        said.append(
            str(error.value).replace(", which mad_robustize (--by COLUMN or all) needs", "")
        )
    assert said[0] == said[1]


def test_nan_is_unknown_too() -> None:
    assert n_unknown(pl.Series([1.0, float("nan"), None])) == 2
    assert n_unknown(pl.Series(["a", None])) == 1
