from __future__ import annotations

import json
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestRegressor
from sklearn.model_selection import KFold, cross_val_score

from unidino_fast.errors import TableError, UsageError
from unidino_fast.evaluation.cell_health import area, cell_health, mean_r2, share_curve


def auc(r2: list[float], rule: Any) -> float:
    return area(*share_curve(r2, rule))


# ---- AUC_s apart from any forest ------------------------------------------------------------


@pytest.mark.parametrize(
    ("r2", "paper", "released"),
    [
        ([1.0], 1.0, 0.995),  # a perfect predictor: all that can be reached
        ([1.0, 1.0, 1.0], 1.0, 0.995),
        ([0.0], 0.0005, 0.0),  # S_0 = 1 by >=, 0 by >; half a step of .001 remains
        ([-0.4, -2.0], 0.0, 0.0),
        ([0.5], 0.5005, 0.4975),  # 1 up to .500 (>=), 1 up to .495 (>), then half a step
        ([0.2, 0.6], (0.2005 + 0.6005) / 2, (0.1975 + 0.5975) / 2),
        ([0.2, -1.0], 0.2005 / 2, 0.1975 / 2),
    ],
)
def test_auc_by_hand(r2: list[float], paper: float, released: float) -> None:
    assert auc(r2, "paper") == pytest.approx(paper, abs=1e-12)
    assert auc(r2, "released") == pytest.approx(released, abs=1e-12)


@given(st.lists(st.floats(-3, 1), min_size=1, max_size=30))
def test_auc_against_a_naive_loop(r2: list[float]) -> None:
    grid = [step / 1000 for step in range(1001)]
    shares = [sum(value >= t for value in r2) / len(r2) for t in grid]
    assert auc(r2, "paper") == pytest.approx(np.trapezoid(shares, grid), abs=1e-12)
    grid = [step / 200 for step in range(200)]
    shares = [sum(value > t for value in r2) / len(r2) for t in grid]
    assert auc(r2, "released") == pytest.approx(np.trapezoid(shares, grid), abs=1e-12)
    # a step function's integral is the mean of what it steps at, up to half a step of the grid
    assert auc(r2, "paper") == pytest.approx(np.clip(r2, 0, 1).mean(), abs=5.1e-4)


def test_mean_over_folds_by_hand() -> None:
    assert mean_r2([0.5, -0.5, 0.3], "paper") == pytest.approx(0.8 / 3)
    assert mean_r2([0.5, -0.5, 0.3], "released") == pytest.approx(0.1)


# ---- forests --------------------------------------------------------------------------------


def screen(n: int = 400, seed: int = 0) -> pl.DataFrame:
    """Profiles of a coin (0 or 1) and of noise; readouts that follow the coin more or less.

    A forest can learn the mean of either side and no more, so that R2 of `half`, the coin (variance
    1/4) plus noise of the same variance, is 1/2; of `whole` 1; of `none` 0.
    """
    random = np.random.default_rng(seed)
    coin = random.permutation(n) % 2
    noise = random.normal(0, 0.5, n)
    return pl.DataFrame(
        {
            "Metadata_Line": ["A549"] * n,
            "Metadata_vb_whole": coin * 3 + 7.0,
            "Metadata_vb_half": coin + noise,
            "Metadata_cc_none": random.normal(size=n),
            "DNA_000": coin.astype(np.float32),
            "DNA_001": np.zeros(n, np.float32),
        }
    )


@pytest.mark.parametrize("rule", ["paper", "released"])
def test_r2_known_by_construction(rule: Any) -> None:
    result = cell_health(screen(), ["vb_*", "cc_none"], cell_line="Line", rule=rule, trees=20)
    r2 = {score.readout: score.r2 for score in result.scores}
    assert r2["vb_whole"] == pytest.approx(1)
    # R2 of 80 held-out rows scatters by about .08 around 1/2, the mean of five by .04
    assert r2["vb_half"] == pytest.approx(0.5, abs=0.1)
    assert abs(r2["cc_none"]) < 0.05
    assert result.auc["A549"] == pytest.approx(auc(list(r2.values()), rule))
    assert result.auc["A549"] == pytest.approx((1 + 0.5 + 0) / 3, abs=0.05)


def test_a_perfect_predictor_reaches_the_most() -> None:
    for rule, most in (("paper", 1.0), ("released", 0.995)):
        result = cell_health(screen(100), ["vb_whole"], rule=rule, trees=5)  # type: ignore[arg-type]
        assert result.auc == {"all": pytest.approx(most)}


@pytest.mark.parametrize(("rule", "leaf"), [("paper", 1), ("released", 0.01)])
def test_against_scikit_learns_own_loop(rule: Any, leaf: float) -> None:
    table = screen(150, seed=3).with_columns(DNA_002=pl.col("Metadata_vb_half") ** 3)
    features = table.select("^DNA_.*$").to_numpy().astype(np.float32)
    forest = RandomForestRegressor(n_estimators=10, min_samples_leaf=leaf, random_state=5)
    folds = KFold(5, shuffle=True, random_state=5)
    expected = cross_val_score(
        forest, features, table["Metadata_vb_half"].to_numpy(), cv=folds, scoring="r2"
    )
    result = cell_health(table, ["Metadata_vb_half"], rule=rule, trees=10, seed=5, n_jobs=2)
    assert result.scores[0].folds == pytest.approx(expected, abs=1e-12)


def test_rows_without_a_readout_are_left_out_for_it_alone() -> None:
    table = screen(120)
    lacking = [
        None if row % 4 == 0 else value for row, value in enumerate(table["Metadata_vb_half"])
    ]
    nan = [float("nan") if value is None else value for value in lacking]
    kept = table.filter(pl.int_range(pl.len()) % 4 != 0)
    expected = cell_health(kept, ["vb_half"], trees=5).scores[0]
    for values in (lacking, nan):
        holes = table.with_columns(pl.Series("Metadata_vb_half", values))
        result = cell_health(holes, ["vb_half", "vb_whole"], trees=5)
        found = {score.readout: score for score in result.scores}
        assert found["vb_half"] == expected
        assert (found["vb_half"].n, found["vb_whole"].n) == (90, 120)


def test_cell_lines_are_asked_apart_and_threads_change_nothing() -> None:
    lines = ["ES2", "A549", "ES2", "HCC44"] * 30
    table = screen(120).with_columns(pl.Series("Metadata_Line", lines))
    one = cell_health(table, ["vb_*"], cell_line="Metadata_Line", trees=5, n_jobs=1)
    assert one == cell_health(table, ["vb_*"], cell_line="Line", trees=5, n_jobs=3)
    assert list(one.auc) == ["ES2", "A549", "HCC44"]
    alone = table.filter(pl.col("Metadata_Line") == "A549")
    assert cell_health(alone, ["vb_*"], cell_line="Line", trees=5).auc["A549"] == one.auc["A549"]


def test_results_for_people_programs_and_tables() -> None:
    heard: list[tuple[int, int]] = []
    result = cell_health(screen(60), ["vb_*"], trees=3, on_readout=lambda *done: heard.append(done))
    assert heard == [(1, 2), (2, 2)]
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert document["auc_s"]["all"] == result.auc["all"]
    assert len(document["curve"]["share"]["all"]) == len(document["curve"]["threshold"]) == 1001
    rows = result.to_frame()
    assert rows.columns == ["metric", "subject", "value", "lower", "upper", "n"]
    assert rows.row(0)[:3] == ("AUC_s", "all", result.auc["all"])
    assert rows.filter(pl.col("metric") == "R2")["subject"].to_list() == [
        "all vb_whole",
        "all vb_half",
    ]
    assert "AUC_s" in result.summary()
    assert "vb_whole 1.00" in result.summary()


def with_column(name: str, values: Any) -> pl.DataFrame:
    return screen(40).with_columns(pl.Series(name, values))


@pytest.mark.parametrize(
    ("table", "options", "said"),
    [
        (screen(40), {"readouts": ["vb_alive"]}, "no column Metadata_vb_alive"),
        (screen(40), {"readouts": ["xx_*"]}, "no metadata column fits xx_*"),
        (screen(40).head(0), {}, "have no rows"),
        (screen(9), {}, "5 folds need 10 or more"),
        (with_column("Metadata_vb_half", [2.5] * 40), {}, "is 2.5 in all rows"),
        (with_column("Metadata_vb_half", ["x"] * 40), {}, "a readout must be a number"),
        (with_column("Metadata_vb_half", [float("inf")] * 40), {}, "is infinite"),
        (with_column("DNA_000", [float("nan")] * 40), {}, "feature DNA_000 is null, NaN"),
        (with_column("DNA_000", [1e39] * 40), {}, "larger than float32 can hold"),
        (with_column("DNA_000", ["x"] * 40), {}, "column DNA_000 holds String"),
        (with_column("Metadata_Line", ["a", None] * 20), {"cell_line": "Line"}, "null in 20 of 40"),
        (screen(40), {"cell_line": "CellLine"}, "no column Metadata_CellLine"),
        (screen(40).select("^Metadata_.*$"), {}, "no feature columns"),
    ],
)
def test_tables_that_cannot_be_asked(
    table: pl.DataFrame, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(TableError, match=r"^[^\n]*$") as error:
        cell_health(table, **{"readouts": ["vb_half"], "trees": 2, **options})
    assert said in str(error.value)


@pytest.mark.parametrize(
    "options", [{"rule": "strict"}, {"folds": 1}, {"trees": 0}, {"readouts": []}]
)
def test_arguments_that_cannot_be_meant(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"^[^\n]*$"):
        cell_health(screen(40), **{"readouts": ["vb_half"], **options})
