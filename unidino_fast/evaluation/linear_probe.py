"""Linear probe: can a linear classifier on frozen features tell labels on plates it has not seen?

Logistic regression (scikit-learn) on standardised features, classes balanced. N rows, D features.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from unidino_fast.columns import find_column
from unidino_fast.errors import TableError, UsageError
from unidino_fast.evaluation.counting import share_interval
from unidino_fast.evaluation.table import (
    check_complete,
    check_count,
    check_varies,
    codes_of,
    feature_matrix,
    labelled,
    tidy,
)
from unidino_fast.names import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl
    from numpy.typing import NDArray

PLATE = "Metadata_Plate"
_MOST_ITERATIONS = 1000


class HeldOutGroup(NamedTuple):
    """Rows that were held out together: how many, how many were told, and what chance gives."""

    name: str
    n: int
    n_correct: int
    chance: float


class LabelResult(NamedTuple):
    """Held-out rows of one label, and how many of them were told."""

    label: str
    n: int
    n_correct: int


@dataclass(frozen=True, slots=True)
class LinearProbeResult:
    """Accuracy on rows whose group was held out.

    Attributes:
        accuracy: share of the held-out rows whose label was told.
        balanced_accuracy: mean over labels of that share, so that each label counts alike.
        chance: accuracy to expect of the label of a random training row.
        majority: accuracy of the most frequent training label, always.
        n: held-out rows.
        n_correct: of them, those told.
        n_unseen: of them, those whose label no training row has, which cannot be told.
        label: column that was predicted.
        by: column whose values were held out in turn.
        groups: held-out rows by that column.
        per_class: held-out rows by label.
        interval: bootstrap interval (95 %) of the accuracy over rows; see
            `NearestNeighbourResult.interval`.
    """

    accuracy: float
    balanced_accuracy: float
    chance: float
    majority: float
    n: int
    n_correct: int
    n_unseen: int
    label: str
    by: str
    groups: tuple[HeldOutGroup, ...]
    per_class: tuple[LabelResult, ...]
    interval: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        lower, upper = self.interval or (None, None)
        return {
            "accuracy": self.accuracy,
            "balanced_accuracy": self.balanced_accuracy,
            "chance": self.chance,
            "majority": self.majority,
            "n": self.n,
            "n_correct": self.n_correct,
            "n_unseen": self.n_unseen,
            "label": self.label,
            "held_out_by": self.by,
            "lower": lower,
            "upper": upper,
            "groups": [group._asdict() for group in self.groups],
            "per_class": [entry._asdict() for entry in self.per_class],
        }

    def to_frame(self) -> pl.DataFrame:
        """Tidy rows: accuracy of all, of each label and of each held-out group; chance."""
        lower, upper = self.interval or (None, None)
        rows: list[tuple[Any, ...]] = [
            ("accuracy", None, self.accuracy, lower, upper, self.n),
            ("balanced_accuracy", None, self.balanced_accuracy, None, None, self.n),
            ("chance", None, self.chance, None, None, self.n),
            ("majority", None, self.majority, None, None, self.n),
        ]
        for label, n, right in self.per_class:
            rows.append(("accuracy", label, right / n, None, None, n))
        for name, n, right, chance in self.groups:
            rows.append(("held_out_accuracy", name, right / n, None, None, n))
            rows.append(("held_out_chance", name, chance, None, None, n))
        return tidy(rows)

    def summary(self) -> str:
        """The result in a few lines for a person."""
        between = "" if self.interval is None else "; 95 % {:.3f} to {:.3f}".format(*self.interval)
        unseen = f"; {self.n_unseen} have a label that training lacks" if self.n_unseen else ""
        names = ", ".join(one_line(group.name) for group in self.groups)
        return (
            f"accuracy {self.accuracy:.3f} ({self.n_correct} of {self.n}{between}), balanced"
            f" {self.balanced_accuracy:.3f}, by chance {self.chance:.3f}\n"
            f"label {one_line(self.label)}; linear probe; {one_line(self.by)} held out in turn:"
            f" {names}{unseen}"
        )


def linear_probe(
    profiles: pl.DataFrame,
    label: str,
    *,
    by: str = PLATE,
    hold_out: Sequence[str] = (),
    bootstrap: int = 1000,
    seed: int = 0,
) -> LinearProbeResult:
    """Share of rows whose label a logistic regression tells that has not seen their group.

    Each value of a column is held out in turn, and the classifier is fitted on all others.
    Features are standardised by the training rows; classes are balanced; L2 with C = 1. The fit is
    deterministic.

    Args:
        profiles: one row a profile, normalised per plate if they are of several.
        label: column to predict, with or without `Metadata_`; rows where it is null take no part.
        by: column whose values are held out, `Metadata_Plate` by default.
        hold_out: values to hold out; all by default, each in turn.
        bootstrap: resamples of the interval; 0 for none.
        seed: of the draws.

    Raises:
        UsageError: the label is the column that is held out.
        TableError: a column is missing or unfit, one group alone, or labels that do not vary.
    """
    check_count("bootstrap", bootstrap, 0)
    label, by = find_column(profiles, label), find_column(profiles, by)
    if label == by:
        raise UsageError(f"{label} is the label and cannot be held out too: use another --by")
    rows = labelled(profiles, label)
    check_varies(rows, label)
    check_complete(rows, by)
    groups, group_names = codes_of(rows[by])
    _check_groups(by, group_names)
    wanted = _wanted(by, group_names, hold_out)
    labels, names = codes_of(rows[label])
    features = feature_matrix(rows)
    told = np.full(len(rows), -1)
    chance, majority, unseen = np.zeros(len(rows)), np.zeros(len(rows)), np.zeros(len(rows), bool)
    for group in wanted:
        test, train = groups == group, groups != group
        told[test] = fit_predict(features[train], labels[train], features[test])
        shares = np.bincount(labels[train], minlength=len(names)) / train.sum()
        chance[test] = shares[labels[test]]
        majority[test] = labels[test] == shares.argmax()
        unseen[test] = shares[labels[test]] == 0
    asked = np.isin(groups, wanted)
    correct = told == labels
    per_class = [(asked & (labels == code), str(name)) for code, name in enumerate(names)]
    results = tuple(
        LabelResult(name, int(here.sum()), int(correct[here].sum()))
        for here, name in per_class
        if here.any()
    )
    return LinearProbeResult(
        accuracy=float(correct[asked].mean()),
        balanced_accuracy=float(np.mean([right / n for _, n, right in results])),
        chance=float(chance[asked].mean()),
        majority=float(majority[asked].mean()),
        n=int(asked.sum()),
        n_correct=int(correct[asked].sum()),
        n_unseen=int(unseen[asked].sum()),
        label=label,
        by=by,
        groups=tuple(
            HeldOutGroup(
                str(group_names[group]),
                int((groups == group).sum()),
                int(correct[groups == group].sum()),
                float(chance[groups == group].mean()),
            )
            for group in wanted
        ),
        per_class=results,
        interval=share_interval(correct[asked], None, bootstrap, seed),
    )


def fit_predict(
    train: NDArray[Any], labels: NDArray[np.int32], test: NDArray[Any]
) -> NDArray[np.int32]:
    """Labels (M,) of test rows (M, D) by the classifier fitted on training rows (N, D).

    Raises:
        TableError: the training rows have one label, or the fit does not converge.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(labels)) < 2:
        raise TableError(
            f"all {len(labels)} training rows have one label: hold out less, or label more rows"
        )
    model = make_pipeline(
        StandardScaler(),
        LogisticRegression(class_weight="balanced", max_iter=_MOST_ITERATIONS),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        # labels are codes of classes, however many of them there are
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        try:
            model.fit(train.astype(np.float64), labels)
        except ConvergenceWarning as error:
            raise TableError(
                f"the linear probe does not converge in {_MOST_ITERATIONS} steps: normalise the"
                " profiles first (unidino-fast profile)"
            ) from error
    found: NDArray[np.int32] = model.predict(test.astype(np.float64))
    return found


def _check_groups(by: str, names: Sequence[Any]) -> None:
    if len(names) > 1:
        return
    other = (
        "give a table of several plates, or hold out wells of the same plate, which is easier, by"
        " --by Row or --by Column"
        if by == PLATE
        else "name a column with several"
    )
    raise TableError(f"{by} is {names[0]!r} in all rows, so none can be held out: {other}")


def _wanted(by: str, names: Sequence[Any], hold_out: Sequence[str]) -> list[int]:
    """Codes of the groups to hold out."""
    place = {str(name): code for code, name in enumerate(names)}
    for name in hold_out:
        if name not in place:
            known = ", ".join(map(one_line, place))
            raise TableError(f"{by} has no {one_line(str(name))} to hold out: use {known}")
    return sorted(place[name] for name in dict.fromkeys(hold_out)) or list(range(len(names)))
