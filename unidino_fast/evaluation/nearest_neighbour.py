"""Nearest-neighbour accuracies: does a profile's closest allowed neighbour share its label?

Cosine distance, one neighbour (Morelli et al. 2025, Tables 2 to 4; Ljosa et al. 2013 before it).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import polars as pl

from unidino_fast.columns import find_column, find_columns
from unidino_fast.errors import TableError, UsageError
from unidino_fast.evaluation.cosine import at_largest_distance, nearest_rows, unit_rows
from unidino_fast.evaluation.counting import count_allowed, share_interval
from unidino_fast.evaluation.table import (
    average,
    check_complete,
    check_count,
    check_varies,
    codes_of,
    feature_matrix,
    group_codes,
    joint_codes,
    labelled,
    shown,
    tidy,
)
from unidino_fast.names import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Codes = NDArray[np.int32]

Preset = Literal["NSC", "NSCB", "NSPW", "NSB", "NSS", "NSCP"]
Rule = Literal["strict", "seed"]

_WELL = "Metadata_Well"
_BATCH = "Metadata_Batch"
_LEVELS = ("well", "treatment")
_TREATMENT = ("Metadata_Compound", "Metadata_Concentration", _BATCH)


class _Task(NamedTuple):
    label: str
    not_same: tuple[str, ...]


PRESETS: dict[str, _Task] = {
    "NSC": _Task("Metadata_MoA", ("Metadata_Compound",)),
    "NSCB": _Task("Metadata_MoA", ("Metadata_Compound", _BATCH)),
    "NSPW": _Task("Metadata_Compound", ("Metadata_Plate", _WELL)),
    "NSB": _Task("Metadata_Compound", (_BATCH,)),
    "NSS": _Task("Metadata_Compound", ("Metadata_Source",)),
    "NSCP": _Task("Metadata_MoA", ("Metadata_Compound", "Metadata_Plate")),
}


class ClassResult(NamedTuple):
    """Queries of one label that count in the accuracy, and how many found their label."""

    label: str
    n_queries: int
    n_correct: int


class Confusion(NamedTuple):
    """How many counted queries of one label have a neighbour of another, or of the same."""

    label: str
    neighbour: str
    n: int


@dataclass(frozen=True, slots=True)
class NearestNeighbourResult:
    """A nearest-neighbour accuracy and what it was measured on.

    Attributes:
        accuracy: share of the counted queries whose neighbour has their label; NaN if none counts.
        n_queries: rows with a label, all of which were asked.
        n_without_candidate: queries for which the exclusion left no row. The strict rule leaves
            them out of the accuracy, the seed rule counts them.
        n_correct: queries whose neighbour has their label.
        chance: accuracy to expect of a random allowed row, averaged over the counted queries.
        rule: how excluded keys were understood, see `evaluate`.
        label: column of the labels.
        not_same: columns that a query and its neighbour may not share.
        preset: the named task, if one was asked for.
        dropped_labels: labels in one batch only, which NSCB leaves out.
        per_class: counted queries by label, in the order of the labels.
        metric: always cosine.
        level: `well`, `treatment`, or the columns whose rows were averaged.
        interval: percentile bootstrap interval (95 %) of the accuracy over its queries, the table
            being given: how far it would move with other queries. Queries that share a compound
            are not independent, so `resample_by` gives wider, more honest ones.
        confusion: counted queries by label and by the label of their neighbour, where there are
            any.
    """

    accuracy: float
    n_queries: int
    n_without_candidate: int
    n_correct: int
    chance: float
    rule: Rule
    label: str
    not_same: tuple[str, ...]
    preset: Preset | None
    dropped_labels: tuple[str, ...]
    per_class: tuple[ClassResult, ...]
    metric: str = "cosine"
    level: str | tuple[str, ...] = "well"
    interval: tuple[float, float] | None = None
    confusion: tuple[Confusion, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; an accuracy that does not exist is None, which JSON can say and NaN not."""
        return {
            "accuracy": None if math.isnan(self.accuracy) else self.accuracy,
            "n_queries": self.n_queries,
            "n_without_candidate": self.n_without_candidate,
            "n_correct": self.n_correct,
            "chance": None if math.isnan(self.chance) else self.chance,
            "rule": self.rule,
            "metric": self.metric,
            "preset": self.preset,
            "label": self.label,
            "not_same": list(self.not_same),
            "dropped_labels": list(self.dropped_labels),
            "level": self.level if isinstance(self.level, str) else list(self.level),
            "lower": None if self.interval is None else self.interval[0],
            "upper": None if self.interval is None else self.interval[1],
            "per_class": [entry._asdict() for entry in self.per_class],
            "confusion": [entry._asdict() for entry in self.confusion],
        }

    def to_frame(self) -> pl.DataFrame:
        """Tidy rows: accuracy of all and of each label, chance, queries without a candidate."""
        n_counted = sum(entry.n_queries for entry in self.per_class)
        lower, upper = self.interval or (None, None)
        rows: list[tuple[Any, ...]] = [
            ("accuracy", None, self.accuracy, lower, upper, n_counted),
            ("chance", None, self.chance, None, None, n_counted),
            ("without_candidate", None, self.n_without_candidate, None, None, self.n_queries),
        ]
        for label, asked, right in self.per_class:
            share = right / asked if asked else math.nan
            rows.append(("accuracy", label, share, None, None, asked))
        return tidy(rows)

    def summary(self) -> str:
        """The result in two lines for a person."""
        allowed = (
            f"a neighbour may not share {shown(self.not_same, '')}"
            if self.not_same
            else "a neighbour is any other row"
        )
        n_counted = sum(entry.n_queries for entry in self.per_class)
        alone = (
            f"; {self.n_without_candidate} queries had no candidate"
            if self.n_without_candidate
            else ""
        )
        between = "" if self.interval is None else "; 95 % {:.3f} to {:.3f}".format(*self.interval)
        return (
            f"accuracy {self.accuracy:.3f} ({self.n_correct} of {n_counted}{between}),"
            f" by chance {self.chance:.3f}\n"
            f"label {one_line(self.label)}; {allowed};"
            f" rule {self.rule}{alone}"
        )


def evaluate(
    profiles: pl.DataFrame,
    label: str | None = None,
    not_same: str | Sequence[str] = (),
    *,
    preset: Preset | None = None,
    rule: Rule = "strict",
    level: str | Sequence[str] = "well",
    bootstrap: int = 1000,
    resample_by: str | Sequence[str] = (),
    seed: int = 0,
) -> NearestNeighbourResult:
    """Share of profiles whose nearest allowed neighbour by cosine distance carries their label.

    Features are the columns without the `Metadata_` prefix. Rows whose label is null take no part.
    The lowest row wins ties. A row of zeros has distance 1 to every row.

    Args:
        profiles: one row a profile.
        label: column to predict, with or without `Metadata_`; a preset brings its own.
        not_same: columns that query and neighbour may not share; added to those of the preset.
        preset: a task of the paper. NSC: mechanism, other compound; NSCB: mechanism, other compound
            and batch, without labels that occur in one batch only; NSCP: mechanism, other compound
            and plate; NSPW: compound, other plate and well position; NSB and NSS: compound, other
            batch or source.
        rule: `strict` (the paper): a row that shares any of the columns is no candidate, and a
            query without a candidate is left out. `seed` (the released code): columns other than
            Metadata_Well exclude only rows that share the label too; a query without a candidate,
            or whose candidates all lie at the largest distance in the table, gets the label of the
            first row and counts.
        level: `well` compares the rows as they are. `treatment` first averages them by compound,
            concentration, batch and label, as the paper does; any other columns by those and the
            label.
        bootstrap: resamples of the interval of the accuracy; 0 for none.
        resample_by: columns, such as the compound: whole groups of queries are drawn instead.
        seed: of the draws.

    Raises:
        UsageError: an unknown preset, rule or level, no label asked for, or one that may not be
            shared.
        TableError: a column that is missing or unfit, or a label that does not vary.
    """
    check_count("bootstrap", bootstrap, 0)
    task = _task(label, not_same, preset, rule)
    needed_by = "" if preset is None else f"preset {preset}"
    label = find_column(profiles, task.label, needed_by)
    keys = find_columns(profiles, task.not_same, needed_by)
    if label in keys:
        raise UsageError(
            f"{label} is the label and may not be shared, so no neighbour could be right: choose"
            " another label, or leave it out of not_same"
        )
    clusters = find_columns(profiles, resample_by)
    by = _level(profiles, level)
    rows, features = labelled(profiles, label), None
    if by:
        rows, features = average(rows, [*by, label], [*keys, *clusters])
    single = _single_batch(rows, label) if preset == "NSCB" else []
    stay = ~rows[label].is_in(single)
    rows = rows.filter(stay)
    _check_rows(rows, label, keys)
    features = feature_matrix(rows) if features is None else features[stay.to_numpy()]
    labels, names = codes_of(rows[label])
    found = _ask(features, labels, _exclusions(rows, labels, keys, rule), rule)
    cluster_codes = group_codes(rows, clusters)[found.counted] if clusters else None
    n_counted = int(found.counted.sum())
    return NearestNeighbourResult(
        accuracy=float(found.correct.sum() / n_counted) if n_counted else math.nan,
        n_queries=len(rows),
        n_without_candidate=found.n_without,
        n_correct=int(found.correct.sum()),
        chance=float(found.expected[found.counted].mean()) if n_counted else math.nan,
        rule=rule,
        label=label,
        not_same=keys,
        preset=preset,
        dropped_labels=tuple(sorted(map(str, single))),
        per_class=_per_class(labels, names, found),
        level=level if isinstance(level, str) and level in _LEVELS else by,
        interval=share_interval(found.correct[found.counted], cluster_codes, bootstrap, seed),
        confusion=tuple(_confusion(labels, names, found)),
    )


class _Found(NamedTuple):
    """What the queries found."""

    chosen: NDArray[np.int64]  # (N,) row whose label a query gets
    counted: NDArray[np.bool_]  # (N,) queries that count
    correct: NDArray[np.bool_]  # (N,) those of them whose neighbour has their label
    expected: NDArray[np.float64]  # (N,) share of a query's allowed rows that have its label
    n_without: int


def _ask(features: NDArray[Any], labels: Codes, excluded: Sequence[Codes], rule: Rule) -> _Found:
    """Asks each row for its neighbour by one of the rules."""
    rows = unit_rows(features)
    neighbours = nearest_rows(rows, excluded)
    chosen, found = neighbours.row, neighbours.row >= 0
    counted = found
    if rule == "seed":
        chosen = np.where(found & ~at_largest_distance(rows, neighbours), chosen, 0)
        counted = np.ones_like(found)
    correct = counted & (labels[chosen] == labels)
    n_allowed = count_allowed(excluded, len(labels))
    n_same = count_allowed(excluded, len(labels), within=labels)
    expected = np.where(found, n_same / np.maximum(n_allowed, 1), correct)
    return _Found(chosen, counted, correct, expected, int((~found).sum()))


def _exclusions(
    rows: pl.DataFrame, labels: Codes, keys: Sequence[str], rule: Rule
) -> tuple[Codes, ...]:
    """Codes of each key; under the seed rule most exclude within a label only."""
    codes = []
    for key in keys:
        own = codes_of(rows[key])[0]
        any_label = rule == "strict" or key == _WELL
        codes.append(own if any_label else joint_codes([own, labels], len(rows)))
    return tuple(codes)


def _task(label: str | None, not_same: str | Sequence[str], preset: str | None, rule: str) -> _Task:
    """What to predict and what to exclude, from the arguments alone."""
    if rule not in get_args(Rule):
        raise UsageError(f"rule {rule!r} is unknown: use {' or '.join(get_args(Rule))}")
    extra = (not_same,) if isinstance(not_same, str) else tuple(not_same)
    if preset is None:
        if label is None:
            raise UsageError("no label was given: use --label Metadata_MoA or a --preset")
        return _Task(label, extra)
    named = PRESETS.get(preset)
    if named is None:
        raise UsageError(f"preset {preset!r} is unknown: use {', '.join(PRESETS)}")
    return _Task(label or named.label, (*named.not_same, *extra))


def _level(profiles: pl.DataFrame, level: str | Sequence[str]) -> tuple[str, ...]:
    """Columns to average by; none for wells."""
    if level == "well":
        return ()
    if level == "treatment":
        return find_columns(profiles, _TREATMENT, "level treatment")
    by = find_columns(profiles, level)
    if not by:
        raise UsageError("level names no columns: use well, treatment or columns to average by")
    return by


def _single_batch(rows: pl.DataFrame, label: str) -> list[Any]:
    """Labels that occur in one batch only, which NSCB leaves out."""
    check_complete(rows, _BATCH)
    batches = rows.group_by(label).agg(pl.n_unique(_BATCH).alias("n"))
    single = batches.filter(pl.col("n") == 1)[label].to_list()
    if len(single) == len(batches):
        raise TableError(
            f"every {label} occurs in one {_BATCH} only, so NSCB has nothing to ask: use NSC"
        )
    return single


def _check_rows(rows: pl.DataFrame, label: str, keys: Sequence[str]) -> None:
    check_varies(rows, label)
    for key in keys:
        check_complete(rows, key)


def _per_class(labels: Codes, names: list[Any], found: _Found) -> tuple[ClassResult, ...]:
    asked = np.bincount(labels[found.counted], minlength=len(names))
    right = np.bincount(labels[found.correct], minlength=len(names))
    return tuple(
        ClassResult(str(name), int(asked[code]), int(right[code]))
        for code, name in enumerate(names)
    )


def _confusion(labels: Codes, names: list[Any], found: _Found) -> Iterator[Confusion]:
    pairs = np.stack([labels, labels[found.chosen]], axis=1)[found.counted]
    for (own, other), n in zip(*np.unique(pairs, axis=0, return_counts=True), strict=True):
        yield Confusion(str(names[own]), str(names[other]), int(n))
