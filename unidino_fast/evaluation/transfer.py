"""Train on one data set, test on another: a table with a row a backbone and a column a pair.

For each ordered pair of data sets A and B of one backbone: a linear probe fitted on all of A and
asked on B, and the 1-NN accuracy of B's rows among A's (cosine). Of A alone the same with one
plate held out in turn, where A has several.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import polars as pl

from unidino_fast.columns import find_column
from unidino_fast.errors import TableError, UsageError
from unidino_fast.evaluation.cellprofiler import read_profiles
from unidino_fast.evaluation.counting import share_interval
from unidino_fast.evaluation.linear_probe import PLATE, fit_predict
from unidino_fast.evaluation.table import (
    check_complete,
    check_varies,
    codes_of,
    feature_matrix,
    labelled,
)
from unidino_fast.names import one_line
from unidino_fast.results import METADATA_PREFIX, feature_columns
from unidino_fast.tables import provenance_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

Method = Literal["linear-probe", "nearest-neighbour"]
METHODS: tuple[Method, ...] = get_args(Method)
SCHEMA = {
    "weights": pl.String,
    "method": pl.String,
    "train": pl.String,
    "test": pl.String,
    "accuracy": pl.Float64,
    "lower": pl.Float64,
    "upper": pl.Float64,
    "chance": pl.Float64,
    "n_train": pl.Int64,
    "n_test": pl.Int64,
    "n_unseen": pl.Int64,
    "n_features": pl.Int64,
}
_DIGEST_SHOWN = 8


@dataclass(frozen=True)
class DataSet:
    """Profiles of one data set by one backbone."""

    weights: str
    name: str
    profiles: pl.DataFrame


class _Told(NamedTuple):
    """What rows that were not trained on got for a label."""

    correct: NDArray[np.bool_]  # (M,)
    chance: NDArray[np.float64]  # (M,) share of the training rows with its label
    n_train: int
    n_features: int


def read_data_sets(arguments: Sequence[str]) -> list[DataSet]:
    """Tables as they are typed: `FILE`, or `WEIGHTS/DATASET=FILE` where the file does not say it.

    A Parquet file that `embed` or `profile` wrote says by which weights; its data set is its plate.
    Weights of one digest are the same, whatever they were called: the first name stands for all.

    Raises:
        UsageError: an argument names no data set, or two name the same.
        TableError: a table cannot be read, or does not say whose it is.
    """
    found = []
    called: dict[str, str] = {}  # digest of weights -> what they are shown as
    for text in arguments:
        name, mark, path = text.partition("=")
        if not mark or Path(text).exists():
            name, path = "", text
        weights, slash, data_set = name.rpartition("/")
        if name and not (slash and weights and data_set):
            raise UsageError(f"{text} names no data set: write WEIGHTS/DATASET=FILE, or FILE alone")
        profiles = read_profiles(Path(path), ())
        if not weights:
            own, digest = _weights_of(Path(path))
            weights = called.setdefault(digest, f"{own} {digest[:_DIGEST_SHOWN]}")
        found.append(DataSet(weights, data_set or _name_of(profiles, path), profiles))
    seen: set[tuple[str, str]] = set()
    for one in found:
        if (one.weights, one.name) in seen:
            raise UsageError(
                f"two tables are of data set {one_line(one.name)} by weights"
                f" {one_line(one.weights)}: name them apart by WEIGHTS/DATASET=FILE"
            )
        seen.add((one.weights, one.name))
    return found


def transfer_table(
    data_sets: Sequence[DataSet],
    label: str,
    *,
    methods: Sequence[Method] = METHODS,
    bootstrap: int = 1000,
    seed: int = 0,
) -> pl.DataFrame:
    """Accuracies of all ordered pairs of data sets of each backbone, one row a figure.

    Features are those that both data sets have, by name. A row whose label the training set lacks
    counts, and cannot be told: `n_unseen` says how many. Data sets of one plate have no row of
    their own alone.

    Args:
        data_sets: with the label in each.
        label: column to predict.
        methods: of telling it.
        bootstrap: resamples of the intervals; 0 for none.
        seed: of the draws.

    Raises:
        TableError: a column is missing or unfit, or two data sets have no feature in common.
        UsageError: there is nothing to compare.
    """
    rows: list[tuple[Any, ...]] = []
    for weights in dict.fromkeys(one.weights for one in data_sets):
        members = [_prepared(one, label) for one in data_sets if one.weights == weights]
        for method in methods:
            for train, test, told in _pairs(members, label, method):
                share = share_interval(told.correct, None, bootstrap, seed)
                rows.append(
                    (
                        *(weights, method, train, test, float(told.correct.mean())),
                        *(share or (None, None)),
                        float(told.chance.mean()),
                        *(told.n_train, len(told.correct), int((told.chance == 0).sum())),
                        told.n_features,
                    )
                )
    if not rows:
        raise UsageError(
            "there is nothing to compare: give tables of two data sets by the same weights, or one"
            " of several plates"
        )
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def render(table: pl.DataFrame) -> str:
    """A matrix for people: a row a backbone and method, a column a pair of data sets."""
    pairs = list(dict.fromkeys(zip(table["train"], table["test"], strict=True)))
    held = {
        (row["weights"], row["method"], row["train"], row["test"]): row
        for row in table.iter_rows(named=True)
    }
    lines = [["weights", "method", *(_pair(*pair) for pair in pairs)]]
    for weights, method in dict.fromkeys(zip(table["weights"], table["method"], strict=True)):
        cells = [held.get((weights, method, *pair)) for pair in pairs]
        lines.append(
            [weights, method, *("-" if c is None else f"{c['accuracy']:.3f}" for c in cells)]
        )
    firsts = [next(r for k, r in held.items() if k[2:] == pair) for pair in pairs]
    lines.append(["by chance", "", *(f"{row['chance']:.3f}" for row in firsts)])
    lines.append(["rows asked", "", *(str(row["n_test"]) for row in firsts)])
    widths = [max(len(one_line(line[i])) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(one_line(c).ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _pair(train: str, test: str) -> str:
    return f"{train}, plates held out" if train == test else f"{train} -> {test}"


def _pairs(
    members: Sequence[DataSet], label: str, method: Method
) -> Iterator[tuple[str, str, _Told]]:
    for train in members:
        plates = train.profiles[PLATE].unique(maintain_order=True).to_list()
        if len(plates) > 1:
            parts = [
                _told(
                    train.profiles.filter(pl.col(PLATE) != plate),
                    train.profiles.filter(pl.col(PLATE) == plate),
                    label,
                    method,
                )
                for plate in plates
            ]
            joint = _Told(
                np.concatenate([part.correct for part in parts]),
                np.concatenate([part.chance for part in parts]),
                min(part.n_train for part in parts),
                parts[0].n_features,
            )
            yield train.name, train.name, joint
        for test in members:
            if test is not train:
                yield train.name, test.name, _told(train.profiles, test.profiles, label, method)


def _told(train: pl.DataFrame, test: pl.DataFrame, label: str, method: Method) -> _Told:
    """Labels of the test rows by the training rows."""
    column = find_column(train, label)
    there = set(feature_columns(test))
    common = [name for name in feature_columns(train) if name in there]
    if not common:
        raise TableError(
            f"{train[PLATE][0]} and {test[PLATE][0]} have no feature in common: embed the same"
            " channels of both (embed --channels)"
        )
    both = pl.concat([train.select(column), test.select(column)])
    codes, names = codes_of(both[column])
    known, wanted = codes[: len(train)], codes[len(train) :]
    x, y = feature_matrix(train.select(common)), feature_matrix(test.select(common))
    given = fit_predict(x, known, y) if method == "linear-probe" else known[nearest(x, y)]
    shares = np.bincount(known, minlength=len(names)) / len(known)
    return _Told(given == wanted, shares[wanted], len(known), len(common))


def nearest(candidates: NDArray[Any], queries: NDArray[Any]) -> NDArray[np.intp]:
    """The row (M,) of the candidates (N, D) of the highest cosine to each query (M, D)."""
    x, y = (_unit(part.astype(np.float64)) for part in (candidates, queries))
    found: NDArray[np.intp] = (y @ x.T).argmax(1)
    return found


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float64] = rows / np.where(lengths > 0, lengths, 1.0)
    return unit


def _prepared(one: DataSet, label: str) -> DataSet:
    """Its labelled rows, checked."""
    column = find_column(one.profiles, label)
    find_column(one.profiles, PLATE)
    rows = labelled(one.profiles, column)
    check_varies(rows, column)
    check_complete(rows, PLATE)
    return DataSet(one.weights, one.name, rows)


def _weights_of(path: Path) -> tuple[str, str]:
    """Name and digest of the weights that a file of ours, or what it was made of, was made by."""
    held = provenance_in(path) or {}
    while isinstance(source := held.get("source"), dict):  # of a table that `profile` wrote
        held = source
    try:
        model = held["model"]
        return str(model["weights"]), str(model["weights_digest"])
    except (KeyError, TypeError) as error:
        raise TableError(
            f"{path} does not say by which weights it was made: write WEIGHTS/DATASET={path}"
        ) from error


def _name_of(profiles: pl.DataFrame, path: str) -> str:
    column = METADATA_PREFIX + "Plate"
    plates = profiles[column].unique().to_list() if column in profiles.columns else []
    return str(plates[0]) if len(plates) == 1 else Path(path).parent.name or Path(path).stem
