"""Predicted batches and silhouettes against scikit-learn and by construction."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import silhouette_samples

from unidino_fast.errors import TableError, UsageError
from unidino_fast.evaluation import batch_effects, compare_batch_effects, evaluate
from unidino_fast.evaluation.batch_effects import silhouettes


@pytest.mark.parametrize("offset", [0.0, 20.0])
def test_silhouettes_against_scikit_learn(offset: float) -> None:
    """Also of rows that point nearly the same way, where float32 would lose the distances."""
    rng = np.random.default_rng(0)
    features = (rng.standard_normal((150, 12)) + offset).astype(np.float32)
    labels = np.concatenate([[5], rng.integers(0, 5, 149)]).astype(np.int32)  # one is alone
    expected = silhouette_samples(features.astype(np.float64), labels, metric="cosine")
    np.testing.assert_allclose(silhouettes(features, labels), expected, atol=1e-9)


def test_silhouettes_of_zeros_and_duplicates() -> None:
    features = np.array([[0, 0], [0, 0], [1, 1], [2, 2], [1, -1], [0, 3]], dtype=np.float64)
    labels = np.array([0, 0, 1, 1, 0, 1], dtype=np.int32)
    expected = silhouette_samples(features, labels, metric="cosine")
    np.testing.assert_allclose(silhouettes(features, labels), expected, atol=1e-12)


def test_neighbour_is_the_nearest_neighbour_accuracy(screen: pl.DataFrame) -> None:
    result = batch_effects(screen, "Plate", "Compound")
    expected = evaluate(screen, "Plate", "Compound")
    assert result.neighbour == pytest.approx((expected.accuracy, expected.chance, 240))


def test_plates_that_show_and_plates_that_do_not(screen: pl.DataFrame) -> None:
    """A shift of every plate is found; labels given at random are not, within five errors."""
    shifted = screen.with_columns(
        pl.when(pl.col("Metadata_Plate") == f"P{index}")
        .then(30.0)
        .otherwise(f"DNA_{index:03d}")
        .alias(f"DNA_{index:03d}")
        for index in range(4)
    )
    clear = batch_effects(shifted, "Plate", "Compound")
    assert clear.linear is not None
    assert clear.linear.value == 1.0
    assert clear.silhouette_batch.value > batch_effects(screen, "Plate").silhouette_batch.value
    mixed = screen.with_columns(Metadata_Plate=pl.col("Metadata_Plate").shuffle(seed=1))
    blind = batch_effects(mixed, "Plate", "Compound")
    assert blind.linear is not None
    room = 5 * np.sqrt(0.25 * 0.75 / 240)
    assert blind.linear.value == pytest.approx(0.25, abs=room)
    assert blind.neighbour.value == pytest.approx(blind.neighbour.chance, abs=room)


def test_compounds_do_not_give_their_batch_away() -> None:
    """Each compound stands in one batch alone, and batches do not differ else: chance."""
    rng = np.random.default_rng(0)
    compound = np.repeat(np.arange(40), 8)
    features = rng.standard_normal((320, 10)) + 3 * rng.standard_normal((40, 10))[compound]
    table = pl.DataFrame(
        {"Metadata_Compound": compound, "Metadata_Batch": compound % 2}
        | {f"DNA_{i:03d}": features[:, i] for i in range(10)}
    )
    leaky = batch_effects(table, "Batch")
    honest = batch_effects(table, "Batch", group="Compound")
    assert leaky.linear is not None
    assert honest.linear is not None
    assert leaky.neighbour.value > 0.9
    assert honest.neighbour.value < 0.7
    assert honest.linear.value < leaky.linear.value - 0.1
    assert (leaky.group, honest.group) == ((), ("Metadata_Compound",))


def test_a_batch_of_one_compound_is_never_recognised() -> None:
    """Held out, it leaves one batch to learn from: nothing to fit, and no error."""
    table = pl.DataFrame(
        {
            "Metadata_Compound": ["a"] * 4 + ["b", "c", "d", "e"],
            "Metadata_Batch": [1] * 4 + [2] * 4,
            "DNA_000": [1.0, 1.1, 0.9, 1.0, -1.0, -1.1, -0.9, -1.0],
            "DNA_001": [0.0, 0.1, 0.2, 0.1, 0.0, 0.1, 0.2, 0.1],
        }
    )
    result = batch_effects(table, "Batch", group="Compound", folds=4)
    assert result.linear is not None
    assert result.linear.value <= 0.5
    few = batch_effects(table, "Batch", group="Compound", folds=6)
    assert few.linear is None
    assert "too few groups" in few.summary()
    assert "batch_linear_accuracy" not in few.to_dict()


def test_batches_without_candidates_have_no_neighbour_score() -> None:
    table = pl.DataFrame(
        {"Metadata_Batch": [1, 2], "Metadata_Compound": ["a", "a"], "DNA_000": [1.0, 2.0]}
    )
    result = batch_effects(table, "Batch", group="Compound")
    assert result.neighbour.n == 0
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert result.to_frame().row(0)[2] is None


def test_before_and_after(screen: pl.DataFrame) -> None:
    centred = screen.with_columns(
        pl.col("^DNA_.*$") - pl.col("^DNA_.*$").mean().over("Metadata_Plate")
    )
    frame = compare_batch_effects({"before": screen, "after": centred}, "Plate", "Compound")
    assert frame.columns == ["table", "metric", "subject", "value", "lower", "upper", "n"]
    linear = frame.filter(metric="batch_linear_accuracy")
    assert linear["table"].to_list() == ["before", "after"]
    assert linear["value"][1] < linear["value"][0]
    expected = batch_effects(centred, "Plate", "Compound").to_frame()
    assert frame.filter(table="after").drop("table").equals(expected)
    with pytest.raises(TableError, match="after: the profiles have no rows"):
        compare_batch_effects({"before": screen, "after": screen.clear()}, "Plate")
    with pytest.raises(UsageError, match="no tables"):
        compare_batch_effects({}, "Plate")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"batch": "One"}, TableError, "Metadata_One is 1 in all 240 rows .* another batch column"),
        ({"batch": "Plate", "label": "One"}, TableError, "Metadata_One is 1 in all 240"),
        ({"batch": "Batch"}, TableError, "no column Metadata_Batch"),
        ({"batch": "Plate", "group": "Plate"}, UsageError, "Metadata_Plate is to be predicted"),
        ({"batch": "Plate", "folds": 1}, UsageError, "folds 1 is too small"),
    ],
)
def test_what_cannot_be_asked(
    screen: pl.DataFrame, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        batch_effects(screen.with_columns(Metadata_One=pl.lit(1)), **arguments)
    assert "\n" not in str(caught.value)
