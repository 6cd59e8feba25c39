from __future__ import annotations

import json
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier

from unidino_fast.errors import TableError, UsageError
from unidino_fast.evaluation.channels import channel_importance, channels_of
from unidino_fast.evaluation.holdout import group_folds


def screen(carrier: str | None = "ER", n_compounds: int = 12, seed: int = 0) -> pl.DataFrame:
    """Three mechanisms of four compounds, six wells each on three plates; one channel tells them.

    Of its eight features the first follows the first mechanism, the second the second, and so on
    again. The other channels are noise.
    """
    random = np.random.default_rng(seed)
    compounds = np.repeat(np.arange(n_compounds), 6)
    mechanisms = compounds % 3
    columns: dict[str, Any] = {
        "Metadata_Plate": [f"p{well % 3}" for well in range(len(compounds))],
        "Metadata_Compound": [f"c{compound:02d}" for compound in compounds],
        "Metadata_MoA": [f"m{mechanism}" for mechanism in mechanisms],
    }
    for channel in ("DNA", "ER", "RNA_long"):
        told = 3.0 * (mechanisms[:, None] == np.arange(8) % 3) * (channel == carrier)
        values = told + random.normal(size=(len(compounds), 8))
        columns |= {f"{channel}_{i:03d}": values[:, i].astype(np.float32) for i in range(8)}
    return pl.DataFrame(columns)


def test_only_the_channel_that_carries_the_label_counts() -> None:
    result = channel_importance(screen(), "MoA", top=6, trees=40, repeats=1, bootstrap=200)
    assert result.channels == ("DNA", "ER", "RNA_long")
    for counts in result.counts.values():
        assert counts["ER"] >= 5
    scores = {score.channel: score for score in result.scores}
    assert result.accuracy is not None
    assert result.accuracy > 0.9
    assert scores["ER"].drop > 0.4  # what is left is chance, 1/3, or below
    assert scores["ER"].lower > 0.2
    assert scores["ER"].alone > 0.9
    for other in ("DNA", "RNA_long"):
        assert scores[other].lower <= 0.05  # 0, up to what chance does
        assert abs(scores[other].drop) < 0.1
        assert scores[other].alone < 0.6


def test_no_resamples_no_intervals() -> None:
    few = {"top": 6, "trees": 5, "repeats": 1}
    result = channel_importance(screen(), "MoA", bootstrap=0, **few)
    told = channel_importance(screen(), "MoA", bootstrap=20, **few)
    assert (result.accuracy, result.interval) == (told.accuracy, None)
    assert [(s.drop, s.lower, s.upper) for s in result.scores] == [
        (s.drop, None, None) for s in told.scores
    ]
    assert result.to_frame()["value"].to_list() == told.to_frame()["value"].to_list()
    assert result.to_frame()["lower"].null_count() == len(result.to_frame())
    assert "[" not in result.summary()
    json.dumps(result.to_dict(), allow_nan=False)


def test_no_channel_counts_where_none_carries_the_label() -> None:
    result = channel_importance(screen(None), "MoA", trees=20, repeats=1, bootstrap=200)
    assert result.accuracy is not None
    assert result.accuracy < 0.6
    assert all(score.lower < 0.1 for score in result.scores)


def test_top_counts_against_a_plain_loop() -> None:
    table = screen(seed=4)
    result = channel_importance(table, "MoA", top=7, trees=15, repeats=0, seed=2)
    assert (result.accuracy, result.scores, result.interval) == (None, (), None)
    rows: dict[tuple[str, str, str], list[list[float]]] = {}
    features = [name for name in table.columns if not name.startswith("Metadata_")]
    for row in table.iter_rows(named=True):
        key = (row["Metadata_MoA"], row["Metadata_Compound"], row["Metadata_Plate"])
        rows.setdefault(key, []).append([row[name] for name in features])
    means = np.array([np.mean(values, axis=0) for values in rows.values()], dtype=np.float32)
    labels = np.array([moa for moa, _, _ in rows])
    for name in ("m0", "m1", "m2"):
        forest = RandomForestClassifier(15, class_weight="balanced", random_state=2)
        importance = forest.fit(means, labels == name).feature_importances_
        best = sorted(range(len(features)), key=lambda place: -importance[place])[:7]
        for channel in result.channels:
            expected = sum(features[place].startswith(channel) for place in best)
            assert result.counts[name][channel] == expected
        assert result.n_rows[name] == int((labels == name).sum())


def test_features_without_importance_never_count() -> None:
    table = screen().with_columns(pl.col("^(DNA|RNA_long)_.*$") * 0)
    counts = channel_importance(table, "MoA", top=50, trees=10, repeats=0).counts
    assert all(of["ER"] > 0 and of["DNA"] == of["RNA_long"] == 0 for of in counts.values())


def test_equal_seeds_give_equal_results_whatever_the_threads() -> None:
    one = channel_importance(screen(), "MoA", trees=5, repeats=1, bootstrap=20, n_jobs=1)
    assert one == channel_importance(screen(), "MoA", trees=5, repeats=1, bootstrap=20, n_jobs=2)


def test_one_channel_alone_is_all_there_is() -> None:
    table = screen().select("^Metadata_.*$", "^ER_.*$")
    result = channel_importance(table, "MoA", trees=10, repeats=1, bootstrap=50)
    (score,) = result.scores
    assert score.drop == score.alone == result.accuracy
    assert result.interval == (score.alone_lower, score.alone_upper)


def test_a_class_of_one_compound_is_left_out_of_the_score_only() -> None:
    table = screen().with_columns(
        Metadata_MoA=pl.when(pl.col("Metadata_Compound") == "c00")
        .then(pl.lit("lonely"))
        .otherwise("Metadata_MoA")
    )
    result = channel_importance(table, "MoA", trees=10, repeats=1, bootstrap=20)
    assert result.left_out == ("lonely",)
    assert "lonely" in result.counts
    assert result.n_scored == len(table) - 6
    assert "lonely" in result.summary()


@given(
    groups=st.lists(st.integers(0, 9), min_size=4, max_size=60),
    folds=st.integers(2, 6),
    seed=st.integers(0, 99),
)
def test_folds_keep_groups_whole_and_classes_known(
    groups: list[int], folds: int, seed: int
) -> None:
    """Classes are of groups 0-4 and 5-9: what is asked is always known by another group."""
    codes = np.array([*groups, 0, 1, 5, 6])
    labels = np.where(codes < 5, "low", "high")
    splits = group_folds(labels, codes, folds, np.random.default_rng(seed))
    tested = np.concatenate([test for _, test in splits])
    assert sorted(tested) == list(range(len(codes)))
    for train, test in splits:
        assert sorted([*train, *test]) == list(range(len(codes)))
        assert not set(codes[train]) & set(codes[test])
        assert set(labels[test]) <= set(labels[train])


def test_channels_are_named_up_to_the_last_underscore() -> None:
    places = channels_of(["DNA_000", "RNA_long_000", "DNA_001"])
    assert {channel: list(found) for channel, found in places.items()} == {
        "DNA": [0, 2],
        "RNA_long": [1],
    }


def test_results_for_people_programs_and_tables() -> None:
    result = channel_importance(screen(), "MoA", top=5, trees=5, repeats=1, bootstrap=20)
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert document["top_features"]["m0"].keys() == {"DNA", "ER", "RNA_long"}
    rows = result.to_frame()
    assert rows.columns == ["metric", "subject", "value", "lower", "upper", "n"]
    assert len(rows) == 9 + 1 + 6
    assert rows.row(0)[:2] == ("accuracy", None)
    assert "ER: " in result.summary()


@pytest.mark.parametrize(
    ("table", "options", "said"),
    [
        (screen(), {"label": "MOAs"}, "did you mean Metadata_MoA"),
        (screen().with_columns(Metadata_MoA=pl.lit("x")), {}, "in all 72 rows"),
        (screen().head(0), {}, "no rows"),
        (screen().drop("Metadata_Plate"), {}, "no column Metadata_Plate"),
        (screen().rename({"DNA_000": "DNA"}), {}, "feature DNA names no channel"),
        (screen().with_columns(ER_000=pl.lit(float("inf"))), {}, "feature ER_000 is"),
        (
            screen().with_columns(
                Metadata_Compound=pl.when(pl.col("Metadata_Plate") == "p0")
                .then(None)
                .otherwise("Metadata_Compound")
            ),
            {},
            "Metadata_Compound is null in 24 of 72",
        ),
        (screen(), {"group": ["MoA"]}, "fewer than two classes"),
    ],
)
def test_tables_that_cannot_be_asked(
    table: pl.DataFrame, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(TableError, match=r"^[^\n]*$") as error:
        channel_importance(table, **{"label": "MoA", "trees": 2, "repeats": 1, **options})
    assert said in str(error.value)


@pytest.mark.parametrize(
    "options", [{"top": 0}, {"trees": 0}, {"folds": 1}, {"repeats": -1}, {"group": ()}]
)
def test_arguments_that_cannot_be_meant(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"^[^\n]*$"):
        channel_importance(screen(), "MoA", **options)
