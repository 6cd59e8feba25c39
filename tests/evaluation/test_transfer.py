"""Train on A, test on B: figures against scikit-learn, and how tables are told apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from unidino_fast.errors import TableError, UsageError
from unidino_fast.evaluation.transfer import (
    DataSet,
    nearest,
    read_data_sets,
    render,
    transfer_table,
)
from unidino_fast.tables import write_parquet

if TYPE_CHECKING:
    from pathlib import Path

    from unidino_fast import Embedder


def profiles(plate: str, seed: int, n: int = 24, channels: tuple[str, ...] = ("DNA", "ER")) -> Any:
    centres = np.random.default_rng(9).normal(size=(4, 3 * len(channels)))
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, n)
    values = centres[labels] + 0.7 * generator.normal(size=(n, 3 * len(channels)))
    names = [f"{channel}_{i:03}" for channel in channels for i in range(3)]
    return pl.DataFrame(
        {
            "Metadata_Plate": [plate] * n,
            "Metadata_MoA": [f"m{label}" for label in labels],
            **dict(zip(names, values.T, strict=True)),
        }
    )


def told(train: pl.DataFrame, test: pl.DataFrame, model: Any) -> float:
    """Accuracy by scikit-learn alone."""
    x, y = (one.select(pl.exclude("^Metadata.*$")).to_numpy() for one in (train, test))
    if isinstance(model, LogisticRegression):
        scaler = StandardScaler().fit(x)
        x, y = scaler.transform(x), scaler.transform(y)
    found = model.fit(x, train["Metadata_MoA"]).predict(y)
    return float((found == test["Metadata_MoA"].to_numpy()).mean())


def test_figures_are_those_of_scikit_learn() -> None:
    a, b = profiles("A", 1), profiles("B", 2, n=31)
    two = pl.concat([profiles("C", 3), profiles("D", 4)])
    sets = [DataSet("w", name, table) for name, table in (("a", a), ("b", b), ("cd", two))]
    table = transfer_table(sets, "MoA", bootstrap=50)
    assert len(table) == 2 * (6 + 1)  # ordered pairs, and the plates of cd against each other
    models = {
        "linear-probe": lambda: LogisticRegression(class_weight="balanced", max_iter=10_000),
        "nearest-neighbour": lambda: KNeighborsClassifier(1, metric="cosine"),
    }
    held = {"a": a, "b": b, "cd": two}
    for row in table.iter_rows(named=True):
        model = models[row["method"]]()
        if row["train"] != row["test"]:
            assert row["accuracy"] == told(held[row["train"]], held[row["test"]], model)
            assert (row["n_train"], row["n_test"]) == (
                len(held[row["train"]]), len(held[row["test"]]),
            )  # fmt: skip
        else:
            parts = [two.filter(pl.col("Metadata_Plate") == plate) for plate in ("C", "D")]
            both = [told(parts[0], parts[1], model), told(parts[1], parts[0], model)]
            assert row["accuracy"] == pytest.approx(np.mean(both))
        assert row["lower"] <= row["accuracy"] <= row["upper"]
    text = render(table)
    header = text.splitlines()[0]
    assert all(title in header for title in ("a -> b", "cd -> b", "cd, plates held out"))
    assert len(text.splitlines()) == 1 + 2 + 2


def test_nearest_by_cosine() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(9, 4)), generator.normal(size=(5, 4))
    x[3] = 0
    cosines = [[a @ b / (np.linalg.norm(a) * np.linalg.norm(b) or 1) for a in x] for b in y]
    assert nearest(x, y).tolist() == np.argmax(cosines, axis=1).tolist()


def test_each_backbone_stands_for_itself() -> None:
    sets = [DataSet(w, n, profiles(n, s)) for w in ("u", "v") for s, n in enumerate("AB")]
    table = transfer_table(sets, "MoA", methods=["nearest-neighbour"], bootstrap=0)
    assert table["weights"].to_list() == ["u", "u", "v", "v"]
    assert table["lower"].null_count() == 4
    assert [line.split()[0] for line in render(table).splitlines()] == [
        "weights", "u", "v", "by", "rows",
    ]  # fmt: skip


def test_features_in_common_and_labels_unseen() -> None:
    b = profiles("B", 2, channels=("DNA",)).with_columns(
        pl.when(pl.col("Metadata_MoA") == "m0")
        .then(pl.lit("new"))
        .otherwise("Metadata_MoA")
        .alias("Metadata_MoA")
    )
    sets = [DataSet("w", "A", profiles("A", 1)), DataSet("w", "B", b)]
    row = transfer_table(sets, "MoA", bootstrap=0).row(0, named=True)
    assert row["n_features"] == 3
    assert row["n_unseen"] == (b["Metadata_MoA"] == "new").sum()
    other = DataSet("w", "B", profiles("B", 2, channels=("Mito",)))
    with pytest.raises(TableError, match="A and B have no feature in common"):
        transfer_table([sets[0], other], "MoA")
    with pytest.raises(UsageError, match="there is nothing to compare"):
        transfer_table(sets[:1], "MoA")


def test_files_say_whose_they_are(model: Embedder, tmp_path: Path) -> None:
    path, digest = tmp_path / "profiles.parquet", model.backbone.digest
    write_parquet(profiles("A", 1), path, {"model": model.describe()})
    other = {**model.describe(), "weights": "default"}  # the same ones by another name
    write_parquet(profiles("C", 1), tmp_path / "c.parquet", {"model": other})
    whitened = {"recipe": [], "source": {"recipe": [], "source": {"model": other}}}
    write_parquet(profiles("D", 1), tmp_path / "d.parquet", whitened)  # by `profile`, twice
    assert read_data_sets([str(tmp_path / "d.parquet")])[0].weights == f"default {digest[:8]}"
    profiles("B", 2).write_csv(tmp_path / "b.csv")
    first, again, second = read_data_sets(
        [str(path), str(tmp_path / "c.parquet"), f"cp/B={tmp_path}/b.csv"]
    )
    assert (first.weights, first.name) == (f"tiny.safetensors {digest[:8]}", "A")
    assert (again.weights, again.name) == (first.weights, "C")
    assert (second.weights, second.name) == ("cp", "B")
    with pytest.raises(TableError, match=r"b\.csv does not say by which weights it was made"):
        read_data_sets([str(tmp_path / "b.csv")])
    with pytest.raises(UsageError, match=r"two tables are of data set A by weights tiny"):
        read_data_sets([str(path), str(path)])
    with pytest.raises(UsageError, match="names no data set: write WEIGHTS/DATASET=FILE"):
        read_data_sets([f"cp={tmp_path}/b.csv"])
