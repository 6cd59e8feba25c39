"""Which channels, that is stains, carry a label: the paper's top-50 counts, and a held-out score.

A feature belongs to the channel that its name begins with, up to the last `_`. N rows, D features,
C channels, G groups.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from unidino_fast.columns import find_column, find_columns
from unidino_fast.errors import TableError, UsageError
from unidino_fast.evaluation.forest import forest_features
from unidino_fast.evaluation.holdout import GroupIntervals, HeldOut
from unidino_fast.evaluation.table import (
    average,
    check_count,
    check_varies,
    group_codes,
    labelled,
    tidy,
)
from unidino_fast.names import one_line
from unidino_fast.results import feature_columns
from unidino_fast.threads import in_threads

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Features = NDArray[np.float32]

TREES = 100
TOP = 50
FOLDS = 5
REPEATS = 1
PLATE_LEVEL = ("Metadata_Compound", "Metadata_Plate")


class ChannelScore(NamedTuple):
    """What one channel is worth to a classifier on held-out rows.

    Attributes:
        drop: accuracy lost without the channel.
        lower, upper: bounds of its 95 % interval; None without resamples, as those below.
        alone: accuracy with this channel only.
    """

    channel: str
    drop: float
    lower: float | None
    upper: float | None
    alone: float
    alone_lower: float | None
    alone_upper: float | None


@dataclass(frozen=True, slots=True)
class ChannelResult:
    """Top features by channel, and what each channel adds.

    Attributes:
        label: column of the classes.
        channels: in the order of the table.
        counts: class -> channel -> how many of its most important features are of the channel.
        n_rows: class -> rows of it on which importance was measured.
        group: columns whose rows stayed together in folds.
        accuracy: of all channels on held-out rows; None where no score was asked for.
        interval: its 95 % bounds; None without resamples.
        scores: one a channel.
        n_scored: rows that were held out.
        left_out: classes of one group, of which nothing can be learnt for another.
    """

    label: str
    channels: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    n_rows: dict[str, int]
    group: tuple[str, ...]
    accuracy: float | None = None
    interval: tuple[float, float] | None = None
    scores: tuple[ChannelScore, ...] = ()
    n_scored: int = 0
    left_out: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "metric": "channels",
            "label": self.label,
            "channels": list(self.channels),
            "top_features": self.counts,
            "n_rows": self.n_rows,
            "accuracy": self.accuracy,
            "interval": None if self.interval is None else list(self.interval),
            "without": [score._asdict() for score in self.scores],
            "n_scored": self.n_scored,
            "group": list(self.group),
            "left_out": list(self.left_out),
        }

    def to_frame(self) -> pl.DataFrame:
        """Tidy rows `metric, subject, value, lower, upper, n`."""
        rows: list[tuple[Any, ...]] = []
        if self.accuracy is not None:
            between = self.interval or (None, None)
            rows.append(("accuracy", None, self.accuracy, *between, self.n_scored))
        rows += [
            ("top features", f"{name} {channel}", count, None, None, self.n_rows[name])
            for name, counts in self.counts.items()
            for channel, count in counts.items()
        ]
        for score in self.scores:
            without = (score.drop, score.lower, score.upper)
            alone = (score.alone, score.alone_lower, score.alone_upper)
            rows.append(("accuracy lost without", score.channel, *without, self.n_scored))
            rows.append(("accuracy alone", score.channel, *alone, self.n_scored))
        return tidy(rows)

    def summary(self) -> str:
        """A line a channel."""
        totals = {c: sum(of[c] for of in self.counts.values()) for c in self.channels}
        n_top = sum(totals.values())
        lines = [
            f"{one_line(channel)}: {totals[channel]} of {n_top} top features"
            for channel in self.channels
        ]
        for place, score in enumerate(self.scores):
            lines[place] += (
                f"; without it accuracy falls by {score.drop:.3f}"
                f"{_between(score.lower, score.upper)}, alone it gives {score.alone:.3f}"
            )
        if self.accuracy is not None:
            lines.append(
                f"all channels: accuracy {self.accuracy:.3f}"
                f"{_between(*(self.interval or (None, None)))} on"
                f" {self.n_scored} held-out rows, groups {', '.join(map(one_line, self.group))}"
            )
        if self.left_out:
            names = ", ".join(map(one_line, self.left_out))
            lines.append(f"left out of the accuracy, being of one group only: {names}")
        return "\n".join(lines)


def _between(low: float | None, high: float | None) -> str:
    return "" if low is None else f" [{low:.3f}, {high:.3f}]"


def channels_of(features: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Channel -> the places of its features, channels in the order in which they first appear.

    Raises:
        TableError: a feature has no `_`, so that its channel is not known.
    """
    places: dict[str, list[int]] = {}
    for place, name in enumerate(features):
        channel, separator, _ = name.rpartition("_")
        if not (channel and separator):
            raise TableError(
                f"feature {one_line(name)} names no channel: features are called CHANNEL_NUMBER,"
                " such as DNA_007"
            )
        places.setdefault(channel, []).append(place)
    return {channel: np.array(found) for channel, found in places.items()}


def channel_importance(
    profiles: pl.DataFrame,
    label: str,
    *,
    by: Sequence[str] = PLATE_LEVEL,
    group: Sequence[str] = ("Metadata_Compound",),
    top: int = TOP,
    trees: int = TREES,
    folds: int = FOLDS,
    repeats: int = REPEATS,
    bootstrap: int = 1000,
    seed: int = 0,
    n_jobs: int | None = None,
) -> ChannelResult:
    """Which channels tell the classes of a label.

    Two answers. The paper's: a balanced random forest a class, one against the rest, on plate-level
    means; of its most important features, how many are of each channel (features without any
    importance never count). And a held-out one: accuracy of a balanced random forest whose folds
    keep groups together, with all channels, without each, and with each alone; intervals are
    percentiles over resampled groups, the same for both sides of a difference.

    Args:
        profiles: one row a profile; rows without a label take no part.
        label: column of the classes, with or without `Metadata_`.
        by: rows are averaged by the label and these columns before importance is measured; none
            leaves rows as they are.
        group: columns whose rows stay together in folds, as a rule the compound: a class must be
            known by other compounds than those asked.
        top: most important features that are counted.
        trees: of each forest.
        folds: of the cross-validation.
        repeats: of the cross-validation, whose outcomes are averaged; 0 leaves it out. One costs
            `folds` forests for all channels, and as many without and with only each channel.
        bootstrap: resamples of the intervals; 0 for none.
        seed: of forests, folds and resamples.
        n_jobs: forests grown at once; None for one a core.

    Raises:
        UsageError: numbers out of range.
        TableError: columns that are missing or unfit, or no class with two groups.
    """
    for name, value, least in (
        *(("top", top, 1), ("trees", trees, 1), ("folds", folds, 2)),
        *(("repeats", repeats, 0), ("bootstrap", bootstrap, 0)),
    ):
        check_count(name, value, least)
    if not group:
        raise UsageError("no column to group by: name one, such as Metadata_Compound")
    label = find_column(profiles, label)
    rows = labelled(profiles, label)
    check_varies(rows, label)
    places = channels_of(feature_columns(rows))
    keys = find_columns(rows, [label, *by])
    labels, features = rows[label], forest_features(rows)
    if by:
        means, mean_features = average(rows, keys)
        labels, features = means[label], mean_features.astype(np.float32)
    groups = find_columns(rows, group)
    counts, n_rows = _top_counts(features, labels, places, top, trees, seed, n_jobs)
    found = ChannelResult(label, tuple(places), counts, n_rows, groups)
    if not repeats:
        return found
    scored, left_out = _of_several_groups(rows, label, groups)
    held_out = HeldOut(
        forest_features(scored),
        scored[label].cast(pl.String).to_numpy(),
        group_codes(scored, groups),
        trees=trees,
        folds=folds,
        repeats=repeats,
        seed=seed,
        n_jobs=n_jobs,
    )
    accuracy, interval, scores = _scores(held_out, places, bootstrap, seed)
    return replace(
        found,
        accuracy=accuracy,
        interval=interval,
        scores=scores,
        n_scored=len(scored),
        left_out=left_out,
    )


def _top_counts(
    features: Features,
    labels: pl.Series,
    places: Mapping[str, NDArray[np.int64]],
    top: int,
    trees: int,
    seed: int,
    n_jobs: int | None,
) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
    """Top features of each class by channel, and rows of each class."""
    from sklearn.ensemble import RandomForestClassifier

    names = labels.cast(pl.String).to_numpy()

    def importance_of(name: str) -> NDArray[np.float64]:
        forest = RandomForestClassifier(
            n_estimators=trees, class_weight="balanced", random_state=seed
        )
        importance: NDArray[np.float64] = forest.fit(features, names == name).feature_importances_
        return importance

    classes = sorted(set(names))
    found = in_threads(importance_of, classes, n_jobs)
    counts, n_rows = {}, {}
    for name, importance in zip(classes, found, strict=True):
        best = np.argsort(-importance, kind="stable")[:top]
        best = best[importance[best] > 0]
        counts[name] = {c: int(np.isin(best, own).sum()) for c, own in places.items()}
        n_rows[name] = int((names == name).sum())
    return counts, n_rows


def _of_several_groups(
    rows: pl.DataFrame, label: str, groups: Sequence[str]
) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Rows of classes that two groups have, and the other classes."""
    counted = rows.group_by(label).agg(pl.struct(groups).n_unique().alias("n"))
    single = counted.filter(pl.col("n") == 1)[label]
    kept = rows.filter(~pl.col(label).is_in(single.to_list()))
    if kept.is_empty() or kept[label].n_unique() < 2:
        raise TableError(
            f"fewer than two classes of {label} have two groups by {', '.join(groups)}, so nothing"
            " can be held out: group by another column"
        )
    return kept, tuple(sorted(str(value) for value in single))


def _scores(
    held_out: HeldOut, places: Mapping[str, NDArray[np.int64]], bootstrap: int, seed: int
) -> tuple[float, tuple[float, float] | None, tuple[ChannelScore, ...]]:
    """Accuracy of all channels, its interval, and the scores of each channel."""
    everything = np.arange(held_out.features.shape[1])
    whole = held_out.told_by(everything)
    interval = GroupIntervals(held_out.groups, bootstrap, seed)
    scores = []
    for channel, found in places.items():
        alone = held_out.told_by(found) if len(places) > 1 else whole
        rest = np.setdiff1d(everything, found)
        lost = whole - (held_out.told_by(rest) if len(rest) else 0)
        scores.append(
            ChannelScore(
                channel,
                *(float(lost.mean()), *interval.of(lost)),
                *(float(alone.mean()), *interval.of(alone)),
            )
        )
    low, high = interval.of(whole)
    between = None if low is None or high is None else (low, high)
    return float(whole.mean()), between, tuple(scores)
