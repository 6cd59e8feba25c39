"""Mean average precision against copairs, a naive loop and counts by hand."""

from __future__ import annotations

import itertools
import json
import warnings
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import false_discovery_control
from sklearn.metrics import average_precision_score
from sklearn.metrics.pairwise import cosine_similarity

from unidino_fast.errors import TableError, UsageError
from unidino_fast.evaluation import mean_average_precision, ranking
from unidino_fast.evaluation.ranking import (
    adjust_p_values,
    expected_precision,
    random_precisions,
)

with warnings.catch_warnings():  # of its own dependencies
    warnings.simplefilter("ignore")
    copairs = pytest.importorskip("copairs.map")

KEYS: list[dict[str, list[str]]] = [
    {"pos_sameby": ["Compound"], "neg_diffby": ["Compound"]},
    {"pos_sameby": ["Compound"], "neg_sameby": ["Plate"], "neg_diffby": ["Compound"]},
    {
        "pos_sameby": ["MoA"],
        "pos_diffby": ["Compound", "Plate"],
        "neg_diffby": ["MoA", "Plate"],
    },
    {"pos_sameby": ["MoA", "Plate"], "neg_diffby": ["Compound"]},
]


def theirs(profiles: pl.DataFrame, keys: dict[str, list[str]], tmp_path: Any) -> tuple[Any, Any]:
    """Average precisions and means of copairs."""
    sides = ("pos_sameby", "pos_diffby", "neg_sameby", "neg_diffby")
    columns = {name: [f"Metadata_{key}" for key in keys.get(name, [])] for name in sides}
    metadata = profiles.select("^Metadata_.*$").to_pandas()
    features = profiles.select("^DNA_.*$").to_numpy().astype(np.float64)
    found = copairs.average_precision(metadata, features, **columns, progress_bar=False)
    means = copairs.mean_average_precision(
        found,
        columns["pos_sameby"],
        null_size=5000,
        threshold=0.05,
        seed=0,
        progress_bar=False,
        cache_dir=tmp_path,
    )
    return found, means


@pytest.mark.parametrize("keys", KEYS, ids=["all", "plate", "others", "joint"])
def test_against_copairs(
    screen: pl.DataFrame, keys: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(ranking, "_BLOCK_ELEMENTS", 240 * 50)
    found, means = theirs(screen, keys, tmp_path)
    ours = mean_average_precision(screen, **keys, null_size=5000)
    np.testing.assert_array_equal(ours.queries["n_pos_pairs"], found["n_pos_pairs"])
    np.testing.assert_array_equal(ours.queries["n_total_pairs"], found["n_total_pairs"])
    # copairs ranks by similarities that are rounded to float32
    for name in ("average_precision", "normalized_average_precision"):
        np.testing.assert_allclose(
            ours.queries[name].to_numpy(), found[name].astype(float), atol=1e-6
        )
    means = means.sort_values(list(ours.sameby))
    for name in ("mean_average_precision", "mean_normalized_average_precision"):
        np.testing.assert_allclose(ours.groups[name].to_numpy(), means[name], atol=1e-6)
    # two independent draws of 5,000: five standard errors of their difference, and one draw
    p = means["p_value"].to_numpy()
    room = 5 * np.sqrt(2 * p * (1 - p) / 5000) + 1 / 5000
    assert (np.abs(ours.groups["p_value"].to_numpy() - p) <= room).all()


def test_by_hand() -> None:
    """Query 0 at [1, 0]: order 2 (+), 3 (-), 1 (+): (1/1 + 2/3) / 2."""
    profiles = pl.DataFrame(
        {
            "Metadata_Compound": ["a", "a", "a", "b", "b"],
            "DNA_000": [1.0, 0.5, 1.0, 1.0, 0.0],
            "DNA_001": [0.0, 1.0, 0.1, 0.5, -1.0],
        }
    )
    result = mean_average_precision(profiles, "Compound", "Compound", null_size=100)
    first = result.queries.row(0, named=True)
    assert first["average_precision"] == pytest.approx((1 + 2 / 3) / 2)
    assert (first["n_pos_pairs"], first["n_total_pairs"]) == (2, 4)


def test_ties_put_positives_first_and_zeros_are_far() -> None:
    """Rows 0 to 2 are one direction: the positive, of another length, comes before the negative."""
    profiles = pl.DataFrame(
        {
            "Metadata_Compound": ["a", "b", "a", "b"],
            "DNA_000": [1.0, 3.0, 7.0, 0.0],
            "DNA_001": [1.0, 3.0, 7.0, 0.0],
        }
    )
    result = mean_average_precision(profiles, "Compound", "Compound", null_size=10)
    # of row 1 the positive, zeros, comes after both; of row 3 all are as far
    assert result.queries["average_precision"].to_list() == pytest.approx([1, 1 / 3, 1, 1])
    assert result.n_tied == 3  # all but row 1
    assert "in 3 of them a negative is exactly as near" in result.summary()


def test_no_ties_are_not_spoken_of(screen: pl.DataFrame) -> None:
    result = mean_average_precision(screen, "Compound", "Compound", null_size=10)
    assert result.n_tied == 0
    assert result.to_dict()["n_tied"] == 0
    assert "exactly as near" not in result.summary()


def test_against_scikit_learn(screen: pl.DataFrame) -> None:
    similar = cosine_similarity(screen.select("^DNA_.*$").to_numpy().astype(np.float64))
    labels = screen["Metadata_Compound"].to_numpy()
    ours = mean_average_precision(screen, "Compound", "Compound", null_size=10).queries
    for row, value in enumerate(ours["average_precision"]):
        others = np.arange(len(labels)) != row
        relevant = labels[others] == labels[row]
        assert value == pytest.approx(average_precision_score(relevant, similar[row, others]))


@pytest.mark.parametrize(("n_positive", "n_total"), [(1, 5), (2, 6), (4, 6), (3, 3)])
def test_random_rankings_are_all_orders(n_positive: int, n_total: int) -> None:
    """Each subset of ranks equally often: means and shares within five standard errors."""
    order = np.arange(1, n_positive + 1)
    every = np.array(
        [
            np.mean(order / np.array(ranks))
            for ranks in itertools.combinations(range(1, n_total + 1), n_positive)
        ]
    )
    draws = random_precisions(n_positive, n_total, 20_000, np.random.default_rng(0))
    assert draws.mean() == pytest.approx(every.mean(), abs=5 * every.std() / 141 + 1e-12)
    for value in np.unique(every.round(9)):
        share = np.isclose(every, value).mean()
        assert np.isclose(draws, value).mean() == pytest.approx(
            share, abs=5 * np.sqrt(share * (1 - share) / 20_000) + 1e-12
        )
    expected = expected_precision(np.array([n_positive]), np.array([n_total]))
    assert expected[0] == pytest.approx(every.mean())


def test_correction_against_scipy() -> None:
    p_values = np.random.default_rng(0).random(50) ** 3
    np.testing.assert_allclose(adjust_p_values(p_values), false_discovery_control(p_values))


def test_rows_without_pairs_are_left_out_and_counted(screen: pl.DataFrame) -> None:
    alone = screen.with_columns(
        Metadata_Compound=pl.when(pl.int_range(pl.len()) == 7)
        .then(pl.lit("alone"))
        .otherwise("Metadata_Compound")
    )
    result = mean_average_precision(alone, "Compound", "Compound", null_size=100)
    assert (result.n_queries, result.n_left_out, len(result.groups)) == (239, 1, 20)
    assert result.queries["average_precision"][7] is None
    assert "1 rows had no positive" in result.summary()


def test_result_is_json_ready_and_tidy(screen: pl.DataFrame) -> None:
    result = mean_average_precision(screen, "Compound", "Compound", null_size=100)
    text = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert text["groups"][0]["Metadata_Compound"] == "C00"
    assert text["mean_average_precision"] == pytest.approx(
        np.mean([group["mean_average_precision"] for group in text["groups"]])
    )
    frame = result.to_frame()
    assert frame.columns == ["metric", "subject", "value", "lower", "upper", "n"]
    assert frame.filter(metric="p_value")["value"].to_list() == result.groups["p_value"].to_list()
    assert len(result.summary().splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"neg_diffby": ()}, UsageError, "neg_sameby and neg_diffby are both empty"),
        ({"pos_diffby": "Compound"}, UsageError, "Metadata_Compound is in pos_sameby and in pos_d"),
        ({"null_size": 0}, UsageError, "null_size 0 is too small"),
        ({"threshold": 5}, UsageError, "threshold 5 is no share"),
        ({"pos_sameby": "Compund"}, TableError, "did you mean Metadata_Compound"),
        ({"pos_sameby": "Row"}, TableError, "there is no positive pair"),
        ({"neg_diffby": "One"}, TableError, "there is no negative pair"),
    ],
)
def test_keys_that_cannot_be_meant(
    screen: pl.DataFrame, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    profiles = screen.with_row_index("Metadata_Row").with_columns(Metadata_One=pl.lit(1))
    given = {"pos_sameby": "Compound", "neg_diffby": "Compound", **arguments}
    with pytest.raises(error, match=message) as caught:
        mean_average_precision(profiles, **given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (pl.lit(None).alias("Metadata_Compound"), "Metadata_Compound is null in 240 of 240"),
        (pl.lit(np.nan).alias("DNA_003"), "DNA_003 is null, NaN or infinite in 240"),
        (pl.lit(np.inf).alias("DNA_003"), "DNA_003 is null, NaN or infinite in 240"),
    ],
)
def test_tables_that_are_unfit(screen: pl.DataFrame, spoil: pl.Expr, message: str) -> None:
    with pytest.raises(TableError, match=message):
        mean_average_precision(screen.with_columns(spoil), "Compound", "Compound")
    with pytest.raises(TableError, match="no rows"):
        mean_average_precision(screen.clear(), "Compound", "Compound")
