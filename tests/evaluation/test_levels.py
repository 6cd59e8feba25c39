"""Means before asking, intervals, the confusion table and rows of results."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import binom

from unidino_fast.errors import TableError, UsageError
from unidino_fast.evaluation import evaluate
from unidino_fast.evaluation.counting import count_allowed, share_interval
from unidino_fast.evaluation.table import average, group_means

# Treatments: a/1/b1/x = [1, 0], a/2/b1/x = [0, 2], b/1/b1/x = [4, 0], c/1/b1/y = [0, 3].
WELLS = pl.DataFrame(
    {
        "Metadata_Compound": ["b", "a", "a", "a", "c", "d"],
        "Metadata_Concentration": [1.0, 1.0, 1.0, 2.0, 1.0, 1.0],
        "Metadata_Batch": ["b1"] * 6,
        "Metadata_MoA": ["x", "x", "x", "x", "y", None],
        "DNA_000": [4.0, 0.0, 2.0, 0.0, 0.0, 9.0],
        "DNA_001": [0.0, 1.0, -1.0, 2.0, 3.0, 9.0],
    }
)


def test_treatment_level_by_hand() -> None:
    """In order b, a1, a2, c: b and a1 find each other; a2 may not find a1, but c; c finds a2."""
    result = evaluate(WELLS, preset="NSC", level="treatment")
    assert (result.n_queries, result.n_correct, result.n_without_candidate) == (4, 2, 0)
    assert result.level == "treatment"
    assert result.confusion == (("x", "x", 2), ("x", "y", 1), ("y", "x", 1))


def test_any_columns_are_a_level() -> None:
    """b = [4, 0], a = [2/3, 2/3], c = [0, 3]: a is as near to both and takes b; c finds a."""
    result = evaluate(WELLS, "MoA", level=["Compound"])
    assert result.level == ("Metadata_Compound",)
    assert (result.n_queries, result.n_correct) == (3, 2)
    assert result.to_dict()["level"] == ["Metadata_Compound"]


def test_means_against_polars() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((97, 70)).astype(np.float32) * 100
    groups = np.concatenate([np.arange(7), rng.integers(0, 7, 90)]).astype(np.int32)
    frame = pl.DataFrame(features).cast(pl.Float64).with_columns(group=pl.Series(groups))
    expected = frame.group_by("group").mean().sort("group").drop("group").to_numpy()
    np.testing.assert_allclose(group_means(features, groups), expected, rtol=1e-12)


def test_means_keep_the_order_of_first_rows() -> None:
    keys, features = average(WELLS, ["Metadata_Compound"], ["Metadata_Batch"])
    assert keys["Metadata_Compound"].to_list() == ["b", "a", "c", "d"]
    np.testing.assert_allclose(features[1], [2 / 3, 2 / 3])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"level": "treatment"}, TableError, "Metadata_Batch, which level treatment needs"),
        ({"level": "plate"}, TableError, "no column Metadata_plate"),
        ({"level": []}, UsageError, "level names no columns"),
        ({"bootstrap": -1}, UsageError, "bootstrap -1 is too small"),
        ({"resample_by": "Donor"}, TableError, "no column Metadata_Donor"),
        (
            {"level": ["MoA"], "not_same": ["Compound"]},
            TableError,
            "Metadata_Compound has several values within one mean over Metadata_MoA",
        ),
    ],
)
def test_levels_that_cannot_be_meant(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        evaluate(WELLS.drop("Metadata_Batch"), "MoA", **arguments)
    assert "\n" not in str(caught.value)


def test_a_level_with_null_is_refused() -> None:
    holes = WELLS.with_columns(Metadata_Concentration=pl.Series([None, 1.0, 1, 1, 1, 1]))
    with pytest.raises(TableError, match="Metadata_Concentration is null in 1 of 5"):
        evaluate(holes, preset="NSC", level="treatment")


def test_counts_of_allowed_rows_against_masks() -> None:
    rng = np.random.default_rng(1)
    for n_keys in range(4):
        keys = [rng.integers(0, 4, 60).astype(np.int32) for _ in range(n_keys)]
        label = rng.integers(0, 3, 60).astype(np.int32)
        allowed = ~np.eye(60, dtype=bool)
        for key in keys:
            allowed &= key[:, None] != key
        same = allowed & (label[:, None] == label)
        np.testing.assert_array_equal(count_allowed(keys, 60), allowed.sum(axis=1))
        np.testing.assert_array_equal(count_allowed(keys, 60, within=label), same.sum(axis=1))


def test_interval_of_queries_is_the_binomial_one() -> None:
    """Resampling n queries gives a binomial; 20,000 draws put its quantiles within one count."""
    hits = np.arange(400) < 120
    found = share_interval(hits, None, 20_000, 0)
    expected = binom.ppf([0.025, 0.975], 400, 0.3) / 400
    np.testing.assert_allclose(found or (), expected, atol=1.01 / 400)


def test_interval_of_clusters_is_wider() -> None:
    """40 clusters of 10 that are all right or all wrong are worth 40 queries, not 400."""
    clusters = np.repeat(np.arange(40), 10).astype(np.int32)
    hits = clusters < 12
    found = share_interval(hits, clusters, 20_000, 0)
    expected = binom.ppf([0.025, 0.975], 40, 0.3) / 40
    np.testing.assert_allclose(found or (), expected, atol=1.01 / 40)


def test_clusters_of_several_sizes_against_a_loop() -> None:
    rng = np.random.default_rng(2)
    clusters = rng.integers(0, 9, 100).astype(np.int32)
    hits = rng.random(100) < 0.4
    shares = []
    for _ in range(4000):
        drawn = np.concatenate([np.flatnonzero(clusters == c) for c in rng.integers(0, 9, 9)])
        shares.append(hits[drawn].mean())
    found = share_interval(hits, clusters, 20_000, 0)
    # the quantiles of 4,000 draws of a share that spreads by .06 are known to about .006
    np.testing.assert_allclose(found or (), np.quantile(shares, [0.025, 0.975]), atol=0.02)


def test_results_hold_an_interval_of_a_seed(screen: pl.DataFrame) -> None:
    first, again, other = (evaluate(screen, preset="NSC", seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.interval is not None
    assert first.interval != other.interval
    assert first.interval[0] <= first.accuracy <= first.interval[1]
    clustered = evaluate(screen, preset="NSC", resample_by="Compound").interval
    assert clustered is not None
    assert np.ptp(clustered) > np.ptp(first.interval)
    assert evaluate(screen, preset="NSC", bootstrap=0).interval is None


def test_rows_of_a_result(screen: pl.DataFrame) -> None:
    result = evaluate(screen, preset="NSC")
    frame = result.to_frame()
    assert frame.columns == ["metric", "subject", "value", "lower", "upper", "n"]
    whole = frame.filter(pl.col("subject").is_null())
    assert whole["metric"].to_list() == ["accuracy", "chance", "without_candidate"]
    assert whole.row(0)[2:] == (result.accuracy, *(result.interval or ()), 240)
    of_labels = frame.filter(pl.col("subject").is_not_null())
    assert of_labels["n"].sum() == 240
    assert (of_labels["value"] * of_labels["n"]).sum() == pytest.approx(result.n_correct)
    assert sum(entry.n for entry in result.confusion) == 240
    right = sum(entry.n for entry in result.confusion if entry.label == entry.neighbour)
    assert right == result.n_correct


def test_a_boolean_label_of_one_batch_is_left_out() -> None:
    profiles = pl.DataFrame(
        {
            "Metadata_Hit": [True, True, False, False, None],
            "Metadata_Compound": list("abcde"),
            "Metadata_Batch": [1, 2, 1, 1, 1],
            "DNA_000": [1.0, 2.0, 3.0, 4.0, 5.0],
        }
    )
    with pytest.raises(TableError, match="Metadata_Hit is True in all 2 rows"):
        evaluate(profiles, "Hit", preset="NSCB")


def test_what_a_neighbour_may_be_in_words() -> None:
    assert "; a neighbour is any other row; rule strict" in evaluate(WELLS, "MoA").summary()
    told = evaluate(WELLS, "MoA", "Compound").summary()
    assert "; a neighbour may not share Metadata_Compound; rule strict" in told
