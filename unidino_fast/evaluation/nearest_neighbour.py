"""Nearest-neighbour accuracies: does a profile's closest allowed neighbour share its label?

Cosine distance, one neighbour (Morelli et al. 2025, Tables 2 to 4; Ljosa et al. 2013 before it).
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import polars as pl

from unidino_fast.errors import TableError, UsageError
from unidino_fast.evaluation.cosine import TIE, lowest_similarity, nearest_rows
from unidino_fast.names import one_line
from unidino_fast.results import METADATA_PREFIX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Preset = Literal["NSC", "NSCB", "NSPW", "NSB", "NSS", "NSCP"]
Rule = Literal["strict", "seed"]

_WELL = "Metadata_Well"
_BATCH = "Metadata_Batch"


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
            "per_class": [entry._asdict() for entry in self.per_class],
        }

    def summary(self) -> str:
        """The result in two lines for a person."""
        excluded = ", ".join(map(one_line, self.not_same)) or "nothing but itself"
        n_counted = sum(entry.n_queries for entry in self.per_class)
        alone = (
            f"; {self.n_without_candidate} queries had no candidate"
            if self.n_without_candidate
            else ""
        )
        return (
            f"accuracy {self.accuracy:.3f} ({self.n_correct} of {n_counted}),"
            f" by chance {self.chance:.3f}\n"
            f"label {one_line(self.label)}; a neighbour may not share {excluded};"
            f" rule {self.rule}{alone}"
        )


def evaluate(
    profiles: pl.DataFrame,
    label: str | None = None,
    not_same: str | Sequence[str] = (),
    *,
    preset: Preset | None = None,
    rule: Rule = "strict",
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

    Raises:
        UsageError: an unknown preset or rule, or no label asked for.
        TableError: a column that is missing or unfit, or a label that does not vary.
    """
    task = _task(label, not_same, preset, rule)
    label = _find(profiles, task.label, preset)
    keys = tuple(dict.fromkeys(_find(profiles, key, preset) for key in task.not_same))
    rows, dropped = _rows(profiles, label, drop_single_batch=preset == "NSCB")
    for key in keys:
        _check_complete(rows, key)
    labels, names = _codes(rows[label])
    pairs = _Pairs(
        labels=labels,
        keys=tuple(_codes(rows[key])[0] for key in keys),
        any_label=tuple(rule == "strict" or key == _WELL for key in keys),
        n_allowed=np.zeros(len(rows), dtype=np.int64),
        n_same=np.zeros(len(rows), dtype=np.int64),
    )
    features = _features(rows)
    neighbours = nearest_rows(features, pairs.excluded)
    chosen, found = neighbours.row, neighbours.row >= 0
    counted = found
    if rule == "seed":
        farthest = neighbours.similarity <= lowest_similarity(features) + TIE
        chosen = np.where(found & ~farthest, chosen, 0)
        counted = np.ones_like(found)
    correct = counted & (labels[chosen] == labels)
    expected = np.where(found, pairs.n_same / np.maximum(pairs.n_allowed, 1), correct)
    n_counted = int(counted.sum())
    return NearestNeighbourResult(
        accuracy=float(correct.sum() / n_counted) if n_counted else math.nan,
        n_queries=len(rows),
        n_without_candidate=int((~found).sum()),
        n_correct=int(correct.sum()),
        chance=float(expected[counted].mean()) if n_counted else math.nan,
        rule=rule,
        label=label,
        not_same=keys,
        preset=preset,
        dropped_labels=dropped,
        per_class=_per_class(labels, names, counted, correct),
    )


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Which rows may not match, and a tally of those that may, filled block by block."""

    labels: NDArray[np.int32]  # (N,)
    keys: tuple[NDArray[np.int32], ...]  # (N,) each
    any_label: tuple[bool, ...]  # per key: whether it excludes rows of another label too
    n_allowed: NDArray[np.int64]  # (N,) rows that a query may match
    n_same: NDArray[np.int64]  # (N,) those of them with its label

    def excluded(self, block: slice) -> NDArray[np.bool_]:
        """Mask (B, N) of the pairs that are not allowed for a block of queries."""
        same_label = self.labels[block, None] == self.labels
        mask = np.zeros(same_label.shape, dtype=np.bool_)
        for key, any_label in zip(self.keys, self.any_label, strict=True):
            shared = key[block, None] == key
            mask |= shared if any_label else shared & same_label
        mask[np.arange(len(mask)), np.arange(block.start, block.stop)] = True
        self.n_allowed[block] = (~mask).sum(axis=1)
        self.n_same[block] = (same_label & ~mask).sum(axis=1)
        return mask


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


def _find(profiles: pl.DataFrame, name: str, preset: str | None) -> str:
    """The metadata column of a name given with or without its prefix."""
    metadata = [column for column in profiles.columns if column.startswith(METADATA_PREFIX)]
    for column in (name, METADATA_PREFIX + name):
        if column in metadata:
            return column
    stem = name.removeprefix(METADATA_PREFIX)
    folded = {column.removeprefix(METADATA_PREFIX).lower(): column for column in metadata}
    near = difflib.get_close_matches(stem.lower(), folded, n=3, cutoff=0.6)
    meant = f"did you mean {' or '.join(folded[match] for match in near)}? " if near else ""
    asked = f", which preset {preset} needs" if preset is not None else ""
    raise TableError(
        f"the profiles have no column {METADATA_PREFIX}{stem}{asked}: {meant}join it to the table "
        "(embed --metadata) or name one of "
        f"{', '.join(metadata) or 'its columns (it has no metadata)'}"
    )


def _rows(
    profiles: pl.DataFrame, label: str, *, drop_single_batch: bool
) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Rows that take part, and the labels left out because they occur in one batch only."""
    if profiles.is_empty():
        raise TableError("the profiles have no rows: there is nothing to evaluate")
    if profiles[label].dtype.is_float():
        profiles = profiles.with_columns(pl.col(label).fill_nan(None))
    rows = profiles.filter(pl.col(label).is_not_null())
    if rows.is_empty():
        raise TableError(f"{label} is null in all {len(profiles)} rows: join labels to the table")
    dropped: tuple[str, ...] = ()
    if drop_single_batch:
        _check_complete(rows, _BATCH)
        batches = rows.group_by(label).agg(pl.n_unique(_BATCH).alias("n"))
        single = batches.filter(pl.col("n") == 1)[label]
        dropped = tuple(sorted(str(value) for value in single))
        rows = rows.filter(~pl.col(label).is_in(single.to_list()))
        if rows.is_empty():
            raise TableError(
                f"every {label} occurs in one {_BATCH} only, so NSCB has nothing to ask: use NSC"
            )
    if rows[label].n_unique() == 1:
        raise TableError(
            f"{label} is {rows[label][0]!r} in all {len(rows)} rows that take part: a label must "
            f"have two values or more, use another --label"
        )
    return rows, dropped


def _check_complete(rows: pl.DataFrame, key: str) -> None:
    """Raises TableError where a key is not known in every row."""
    values = rows[key]
    missing = (values.fill_nan(None) if values.dtype.is_float() else values).null_count()
    if missing:
        raise TableError(
            f"{key} is null in {missing} of {len(rows)} labelled rows, so what they may match is "
            f"unknown: fill it or filter those rows"
        )


def _codes(values: pl.Series) -> tuple[NDArray[np.int32], list[Any]]:
    """Values as integers in their sorted order, and the sorted values."""
    distinct = sorted(values.unique().to_list())
    place = {value: index for index, value in enumerate(distinct)}
    return np.array([place[value] for value in values], dtype=np.int32), distinct


def _features(rows: pl.DataFrame) -> NDArray[Any]:
    """Feature matrix (N, D), every value finite."""
    columns = [column for column in rows.columns if not column.startswith(METADATA_PREFIX)]
    if not columns:
        raise TableError("the profiles have no feature columns: every column begins with Metadata_")
    features = rows.select(columns)
    text = [column for column in columns if not features[column].dtype.is_numeric()]
    if text:
        raise TableError(
            f"column {text[0]} holds {features[text[0]].dtype}, but a column without the "
            f"{METADATA_PREFIX} prefix is a feature and must be a number: rename it to "
            f"{METADATA_PREFIX}{text[0]}"
        )
    bad = features.select((~pl.all().cast(pl.Float64).is_finite().fill_null(False)).sum()).row(0)
    faulty = [(column, count) for column, count in zip(columns, bad, strict=True) if count]
    if faulty:
        column, count = faulty[0]
        others = f" (and {len(faulty) - 1} more features)" if len(faulty) > 1 else ""
        kind = "null" if features[column].null_count() == len(rows) else "null, NaN or infinite"
        raise TableError(
            f"feature {column}{others} is {kind} in {count} of {len(rows)} rows: leave its channel "
            f"out (embed --channels), or give a table without such columns or rows"
        )
    return features.to_numpy()


def _per_class(
    labels: NDArray[np.int32], names: list[Any], counted: NDArray[Any], correct: NDArray[Any]
) -> tuple[ClassResult, ...]:
    asked = np.bincount(labels[counted], minlength=len(names))
    right = np.bincount(labels[correct], minlength=len(names))
    return tuple(
        ClassResult(str(name), int(asked[code]), int(right[code]))
        for code, name in enumerate(names)
    )
