"""Tables that are not Polars', in every call that takes one: a line that says what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import polars as pl
import pytest

from unidino_fast import evaluation
from unidino_fast.errors import UsageError
from unidino_fast.evaluation.protocols import load_recipe

if TYPE_CHECKING:
    from collections.abc import Callable

CALLS: dict[str, Callable[[Any], Any]] = {
    "evaluate": lambda table: evaluation.evaluate(table, preset="NSC"),
    "search": lambda table: evaluation.search(table, "Metadata_Plate == 'P1'"),
    "query table": lambda table: evaluation.search(pl.DataFrame({"a": [1.0]}), query_table=table),
    "map": lambda table: evaluation.mean_average_precision(table, "MoA", "MoA"),
    "replicating": evaluation.percent_replicating,
    "matching": evaluation.percent_matching,
    "batch": evaluation.batch_effects,
    "compared": lambda table: evaluation.compare_batch_effects({"one": table}),
    "cell-health": lambda table: evaluation.cell_health(table, ["cc_*"]),
    "channels": lambda table: evaluation.channel_importance(table, "MoA"),
    "baseline": lambda table: evaluation.baseline_table(table, "shuffled"),
    "as_profiles": evaluation.as_profiles,
    "mean_of_cells": evaluation.mean_of_cells,
    "recipe": lambda table: evaluation.run_recipe(table, load_recipe("paper-insect")),
}


@pytest.mark.parametrize("call", CALLS)
def test_pandas_and_lazy_tables(screen: pl.DataFrame, call: str) -> None:
    with pytest.raises(UsageError, match=r"^the table is a pandas.DataFrame: .*from_pandas"):
        CALLS[call](pd.DataFrame({"Metadata_MoA": ["x"]}))
    with pytest.raises(UsageError, match=r"^the table is a polars.LazyFrame: .*collect\(\) it"):
        CALLS[call](screen.lazy())
