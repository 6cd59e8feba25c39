"""How much of a profile is its batch: predicted batches and silhouettes, before and after.

N rows, D features, C classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from unidino_fast.columns import find_column, find_columns
from unidino_fast.errors import TableError, UsageError
from unidino_fast.evaluation.cosine import nearest_rows, unit_rows
from unidino_fast.evaluation.counting import count_allowed
from unidino_fast.evaluation.table import (
    check_count,
    check_varies,
    codes_of,
    feature_matrix,
    group_codes,
    group_means,
    labelled,
    shown,
    tidy,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Codes = NDArray[np.int32]


class Score(NamedTuple):
    """One score on so many rows; `chance` is what no information would give, NaN if unknown."""

    value: float
    chance: float
    n: int


@dataclass(frozen=True, slots=True)
class BatchEffectResult:
    """How well the batch is predicted, and how rows cluster by batch and by label.

    Attributes:
        neighbour: share of rows whose nearest neighbour is of their batch.
        linear: balanced accuracy of a linear classifier of batches on rows it was not fitted on;
            None where there are fewer groups or rows of a batch than folds.
        silhouette_batch: mean silhouette by batch, cosine: near 0 or below where batches mix.
        silhouette_label: mean silhouette by label; None without a label.
        batch: column of the batches.
        label: column of the labels, or None.
        group: columns whose rows neither match nor stand in training and test together.
        folds: of the cross-validation.
    """

    neighbour: Score
    linear: Score | None
    silhouette_batch: Score
    silhouette_label: Score | None
    batch: str
    label: str | None
    group: tuple[str, ...]
    folds: int

    def scores(self) -> dict[str, Score]:
        """The scores that exist, by name."""
        all_scores = {
            "batch_neighbour_accuracy": self.neighbour,
            "batch_linear_accuracy": self.linear,
            "silhouette_batch": self.silhouette_batch,
            "silhouette_label": self.silhouette_label,
        }
        return {name: score for name, score in all_scores.items() if score is not None}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; what does not exist is None."""
        scores = {
            name: {k: None if math.isnan(v) else v for k, v in score._asdict().items()}
            for name, score in self.scores().items()
        }
        return {
            "batch": self.batch,
            "label": self.label,
            "group": list(self.group),
            "folds": self.folds,
            **scores,
        }

    def to_frame(self) -> pl.DataFrame:
        """Tidy rows: each score, and the chance of those that have one."""
        rows: list[tuple[Any, ...]] = []
        for name, score in self.scores().items():
            rows.append((name, None, score.value, None, None, score.n))
            if not math.isnan(score.chance):
                rows.append((f"{name}_by_chance", None, score.chance, None, None, score.n))
        return tidy(rows)

    def summary(self) -> str:
        """The result in a few lines for a person."""
        linear = (
            "too few groups for a classifier"
            if self.linear is None
            else f"linear classifier {self.linear.value:.3f} (by chance {self.linear.chance:.3f})"
        )
        by_label = (
            ""
            if self.silhouette_label is None
            else f", by {shown([self.label or ''], '')} {self.silhouette_label.value:.3f}"
        )
        return (
            f"{shown([self.batch], '')} predicted: nearest neighbour {self.neighbour.value:.3f}"
            f" (by chance {self.neighbour.chance:.3f}), {linear}\n"
            f"silhouette by {shown([self.batch], '')} {self.silhouette_batch.value:.3f}{by_label}\n"
            f"kept apart: rows that share {shown(self.group, 'nothing')}"
        )


def batch_effects(
    profiles: pl.DataFrame,
    batch: str = "Metadata_Plate",
    label: str | None = None,
    *,
    group: str | Sequence[str] | None = None,
    folds: int = 5,
    seed: int = 0,
) -> BatchEffectResult:
    """How well the batch of a profile is predicted from it, and how profiles cluster.

    A batch that holds other compounds than the rest is predicted by its compounds. So rows that
    share `group` (by default the label) may not be each other's nearest neighbour, and the linear
    classifier (ridge on standardised features, classes weighted equally) is asked about groups it
    was not fitted on.

    Args:
        profiles: one row a profile; rows without batch or label take no part.
        batch: column to predict, such as plate or batch.
        label: column that should matter instead, such as the compound.
        group: columns to keep apart; an empty sequence for none.
        folds: of the cross-validation.
        seed: of its assignment of groups to folds.

    Raises:
        UsageError: fewer than two folds.
        TableError: a column or feature that is missing or unfit, or only one batch.
    """
    check_count("folds", folds, 2)
    batch = find_column(profiles, batch)
    label = None if label is None else find_column(profiles, label)
    default = () if label is None else (label,)
    keys = default if group is None else find_columns(profiles, group)
    if batch in keys:
        raise UsageError(
            f"{batch} is to be predicted, so it cannot be kept apart: use another group"
        )
    rows = labelled(profiles, batch)
    if label is not None:
        rows = labelled(rows, label)
        check_varies(rows, label)
    check_varies(rows, batch, "batch column")
    features = feature_matrix(rows)
    batches = codes_of(rows[batch])[0]
    groups = group_codes(rows, keys) if keys else None
    labels = None if label is None else codes_of(rows[label])[0]
    return BatchEffectResult(
        neighbour=_neighbour_score(features, batches, groups),
        linear=_linear_score(features, batches, groups, folds, seed),
        silhouette_batch=_silhouette_score(features, batches),
        silhouette_label=None if labels is None else _silhouette_score(features, labels),
        batch=batch,
        label=label,
        group=keys,
        folds=folds,
    )


def compare_batch_effects(
    tables: Mapping[str, pl.DataFrame],
    batch: str = "Metadata_Plate",
    label: str | None = None,
    *,
    group: str | Sequence[str] | None = None,
    folds: int = 5,
    seed: int = 0,
) -> pl.DataFrame:
    """`batch_effects` of several tables, such as before and after a normalisation.

    Returns:
        The tidy rows of each with its name in a first column `table`.

    Raises:
        UsageError: no tables, or as `batch_effects`.
        TableError: as `batch_effects`, with the name of the table.
    """
    if not tables:
        raise UsageError("no tables were given: name one or more")
    frames = []
    for name, table in tables.items():
        try:
            result = batch_effects(table, batch, label, group=group, folds=folds, seed=seed)
        except TableError as error:
            raise TableError(f"{name}: {error}") from error
        frames.append(result.to_frame().select(pl.lit(name).alias("table"), pl.all()))
    return pl.concat(frames)


def silhouettes(features: NDArray[Any], labels: Codes) -> NDArray[np.float64]:
    """Silhouette (N,) of each row by cosine distance (Rousseeuw 1987), 0 where it is alone.

    A row's mean distance to a class is 1 minus its product with the class's mean direction: N x C
    products in place of N x N distances. A row of zeros has distance 1 to every other row.

    Args:
        features: (N, D), finite.
        labels: codes 0 ... C - 1 (N,), each in use.
    """
    rows = unit_rows(features)
    units = features / rows.largest / rows.length  # (N, D) float64
    sizes = np.bincount(labels)
    totals = sizes * (1 - units @ group_means(units, labels).T)  # (N, C) distances, added up
    own = np.arange(len(labels)), labels
    itself = 1 - np.einsum("ij,ij->i", units, units)  # a product is not quite 1; of zeros it is 0
    inside = (totals[own] - itself) / np.maximum(sizes[labels] - 1, 1)
    means = totals / sizes
    means[own] = np.inf
    outside = means.min(axis=1)
    largest = np.maximum(inside, outside)
    value = np.where(largest > 0, (outside - inside) / np.where(largest > 0, largest, 1.0), 0.0)
    return np.where(sizes[labels] > 1, value, 0.0)


def _neighbour_score(features: NDArray[Any], batches: Codes, groups: Codes | None) -> Score:
    excluded = () if groups is None else (groups,)
    row = nearest_rows(unit_rows(features), excluded).row
    found = row >= 0
    if not found.any():
        return Score(math.nan, math.nan, 0)
    n_allowed = count_allowed(excluded, len(batches))[found]
    n_same = count_allowed(excluded, len(batches), within=batches)[found]
    right = batches[row[found]] == batches[found]
    return Score(float(right.mean()), float((n_same / n_allowed).mean()), int(found.sum()))


def _linear_score(
    features: NDArray[Any], batches: Codes, groups: Codes | None, folds: int, seed: int
) -> Score | None:
    """Balanced accuracy over the rows of all folds, each predicted once."""
    # two seconds to import, which other evaluations need not wait for
    from sklearn.linear_model import RidgeClassifier
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    apart = np.arange(len(batches)) if groups is None else groups
    if len(np.unique(apart)) < folds or np.bincount(batches).min() < folds:
        return None
    predicted = np.empty_like(batches)
    splits = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for fitted, asked in splits.split(features, batches, apart):
        if len(np.unique(batches[fitted])) == 1:  # the other batches hold the asked groups alone
            predicted[asked] = batches[fitted][0]
            continue
        model = make_pipeline(StandardScaler(), RidgeClassifier(class_weight="balanced"))
        predicted[asked] = model.fit(features[fitted], batches[fitted]).predict(features[asked])
    score = float(balanced_accuracy_score(batches, predicted))
    return Score(score, 1 / (int(batches.max()) + 1), len(batches))


def _silhouette_score(features: NDArray[Any], codes: Codes) -> Score:
    return Score(float(silhouettes(features, codes).mean()), math.nan, len(codes))
