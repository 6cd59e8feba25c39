"""The linear probe against a loop over scikit-learn, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression

from unidino_fast.errors import TableError, UsageError
from unidino_fast.evaluation import linear_probe
from unidino_fast.evaluation.questions import Question, answer

PLATES = ("p1", "p2", "p3")


def wells(n: int = 20, noise: float = 1.0, seed: int = 0) -> pl.DataFrame:
    """Three plates of `n` wells, three labels of unequal size, five features."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(3, 5))
    frames = []
    for plate in PLATES:
        labels = generator.choice(3, size=n, p=[0.6, 0.25, 0.15])
        values = centres[labels] + noise * generator.normal(size=(n, 5))
        frames.append(
            pl.DataFrame(
                {
                    "Metadata_Plate": [plate] * n,
                    "Metadata_Column": (np.arange(n) % 4 + 1).tolist(),
                    "Metadata_MoA": [f"m{label}" for label in labels],
                    **{f"DNA_{i:03}": values[:, i] for i in range(5)},
                }
            )
        )
    return pl.concat(frames)


def by_hand(table: pl.DataFrame, by: str) -> tuple[np.ndarray, np.ndarray]:
    """What was told of each row, and the share of its label among those trained on."""
    x = table.select(pl.col("^DNA.*$")).to_numpy()
    y, groups = table["Metadata_MoA"].to_numpy(), table[by].to_numpy()
    told, share = np.empty(len(y), object), np.empty(len(y))
    for group in np.unique(groups):
        train, test = groups != group, groups == group
        mean, spread = x[train].mean(0), x[train].std(0)
        model = LogisticRegression(class_weight="balanced", max_iter=10_000)
        model.fit((x[train] - mean) / spread, y[train])
        told[test] = model.predict((x[test] - mean) / spread)
        share[test] = [(y[train] == label).mean() for label in y[test]]
    return told, share


@pytest.mark.parametrize("by", ["Metadata_Plate", "Metadata_Column"])
def test_equals_a_loop_over_scikit_learn(by: str) -> None:
    table = wells()
    told, share = by_hand(table, by)
    y = table["Metadata_MoA"].to_numpy()
    found = linear_probe(table, "MoA", by=by)
    assert 0.4 < found.accuracy < 1
    assert found.n_correct == (told == y).sum()
    assert found.accuracy == (told == y).mean()
    assert found.chance == pytest.approx(share.mean())
    of_label = {entry.label: (entry.n, entry.n_correct) for entry in found.per_class}
    assert of_label == {m: ((y == m).sum(), (told == y)[y == m].sum()) for m in np.unique(y)}
    assert found.balanced_accuracy == pytest.approx(
        np.mean([(told == y)[y == m].mean() for m in np.unique(y)])
    )
    groups = table[by].to_numpy()
    assert {g.name: g.n_correct for g in found.groups} == {
        str(g): (told == y)[groups == g].sum() for g in np.unique(groups)
    }
    assert found.interval is not None
    assert found.interval[0] < found.accuracy < found.interval[1]


def test_features_that_know_nothing_are_at_chance() -> None:
    table = wells(n=200, noise=1.0)
    shuffled = table.with_columns(pl.col("Metadata_MoA").shuffle(seed=1))
    found = linear_probe(shuffled, "MoA", bootstrap=0)
    # balanced classes: a third of 600 rows, give or take four standard errors
    assert abs(found.balanced_accuracy - 1 / 3) < 4 * np.sqrt(2 / 9 / 90)


def test_named_plates_alone_are_held_out() -> None:
    found = linear_probe(wells(), "MoA", hold_out=["p2"])
    assert [(group.name, group.n) for group in found.groups] == [("p2", 20)]
    assert found.n == 20
    assert found.groups[0] == linear_probe(wells(), "MoA").groups[1]
    with pytest.raises(TableError, match="Metadata_Plate has no p9 to hold out: use p1, p2, p3"):
        linear_probe(wells(), "MoA", hold_out=["p9"])


def test_labels_that_training_lacks_count_as_wrong() -> None:
    table = wells().with_columns(
        pl.when(pl.col("Metadata_Plate") == "p3")
        .then(pl.lit("new"))
        .otherwise("Metadata_MoA")
        .alias("Metadata_MoA")
    )
    found = linear_probe(table, "MoA", hold_out=["p3"])
    assert (found.accuracy, found.n_unseen, found.chance) == (0.0, 20, 0.0)
    assert "20 have a label that training lacks" in found.summary()


@pytest.mark.parametrize(
    ("change", "options", "error", "said"),
    [
        (pl.lit("p1").alias("Metadata_Plate"), {}, TableError,
         "Metadata_Plate is 'p1' in all rows, so none can be held out: give a table of several"
         " plates, or hold out wells of the same plate, which is easier, by --by Row or --by Col"),
        (pl.lit(1).alias("Metadata_Column"), {"by": "Column"}, TableError, "name a column with se"),
        (pl.lit("x").alias("Metadata_MoA"), {}, TableError, "Metadata_MoA is 'x' in all 60 rows"),
        (pl.lit(None).alias("Metadata_Plate"), {}, TableError, "Metadata_Plate is null in 60"),
        ((), {"label": "Plate"}, UsageError, "is the label and cannot be held out too"),
    ],
)  # fmt: skip
def test_refusals(change: Any, options: dict[str, Any], error: type[Exception], said: str) -> None:
    table = wells().with_columns(change)
    with pytest.raises(error) as caught:
        linear_probe(table, **{"label": "MoA", **options})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_as_a_question() -> None:
    asked = Question(metric="linear-probe", label="MoA", by=("Column",), bootstrap=0)
    result = answer(wells(), asked)
    assert result.to_dict() == linear_probe(wells(), "MoA", by="Column", bootstrap=0).to_dict()
    frame = result.to_frame()
    assert frame["metric"][0] == "accuracy"
    assert frame.filter(pl.col("metric") == "held_out_accuracy")["subject"].to_list() == [
        "1", "2", "3", "4",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="no label was given"):
        answer(wells(), Question(metric="linear-probe"))


def test_many_labels_of_few_rows() -> None:
    """No warning of scikit-learn, which pytest would raise."""
    labels = [f"m{at}" for at in range(24)]
    rows = np.random.default_rng(1).normal(size=(48, 3))
    table = pl.DataFrame(rows, schema=["DNA_000", "DNA_001", "DNA_002"]).with_columns(
        Metadata_Plate=pl.Series(["p"] * 24 + ["q"] * 24), Metadata_MoA=pl.Series(labels * 2)
    )
    found = linear_probe(table, "MoA", bootstrap=0)
    assert found.chance == pytest.approx(1 / 24)
