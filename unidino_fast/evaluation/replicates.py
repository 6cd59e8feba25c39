"""Percent replicating and percent matching: do replicates correlate more than chance?

Way et al. 2022 (Cell Systems 13, 911) and Chandrasekaran et al. 2024 (Nature Methods 21, 1114): a
group scores the median Pearson correlation of its pairs, and counts where that exceeds a quantile
of the same median over random groups of the same size whose members do not belong together.

G groups, S size of a group, R draws of the null, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from unidino_fast.columns import find_column, find_columns
from unidino_fast.errors import TableError
from unidino_fast.evaluation.table import (
    average,
    check_count,
    check_share,
    feature_matrix,
    group_codes,
    labelled,
    shown,
    tidy,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl
    from numpy.typing import NDArray

_GATHER_ELEMENTS = 1 << 22  # of rows compared at a time: 32 MiB


class GroupScore(NamedTuple):
    """One group: its median correlation, and the threshold for groups of its size."""

    group: str
    size: int
    correlation: float
    threshold: float

    @property
    def passes(self) -> bool:
        """Whether the group counts as replicating or matching."""
        return self.correlation > self.threshold


@dataclass(frozen=True, slots=True)
class ReplicateResult:
    """A share of groups that correlate more than chance.

    Attributes:
        metric: `percent_replicating` or `percent_matching`.
        share: groups whose correlation is above their threshold, as a share of the groups.
        groups: each group of two members or more.
        n_single: groups of one member, which cannot correlate and are left out.
        by: columns that name a group.
        n_null: random groups of each size.
        quantile: of their correlations that a group must exceed.
        seed: of the random groups.
    """

    metric: str
    share: float
    groups: tuple[GroupScore, ...]
    n_single: int
    by: tuple[str, ...]
    n_null: int
    quantile: float
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with the groups."""
        return {
            "metric": self.metric,
            "share": self.share,
            "n_groups": len(self.groups),
            "n_single": self.n_single,
            "by": list(self.by),
            "n_null": self.n_null,
            "quantile": self.quantile,
            "seed": self.seed,
            "groups": [{**score._asdict(), "passes": score.passes} for score in self.groups],
        }

    def to_frame(self) -> pl.DataFrame:
        """Tidy rows: the share, then each group's correlation and, as `threshold`, its null's."""
        rows: list[tuple[Any, ...]] = [
            (self.metric, None, self.share, None, None, len(self.groups))
        ]
        for score in self.groups:
            rows.append(("correlation", score.group, score.correlation, None, None, score.size))
            rows.append(("threshold", score.group, score.threshold, None, None, score.size))
        return tidy(rows)

    def summary(self) -> str:
        """The result in two lines for a person."""
        n_passed = sum(score.passes for score in self.groups)
        alone = f"; {self.n_single} of one member left out" * bool(self.n_single)
        return (
            f"{self.metric.replace('_', ' ')} {self.share:.1%} ({n_passed} of {len(self.groups)})\n"
            f"groups share {shown(self.by, 'nothing')}{alone};"
            f" threshold: {self.quantile:.0%} quantile of {self.n_null} random groups of each size"
        )


def percent_replicating(
    profiles: pl.DataFrame,
    by: str | Sequence[str] = ("Metadata_Compound",),
    *,
    n_null: int = 1000,
    quantile: float = 0.95,
    seed: int = 0,
) -> ReplicateResult:
    """Share of treatments whose replicates correlate more than wells of different treatments.

    Args:
        profiles: one row a well; rows where a column of `by` is null take no part.
        by: columns that replicates share, such as compound and concentration.
        n_null: random groups drawn for each size of group: wells of as many different groups.
        quantile: of the null's median correlations.
        seed: of the draws.

    Raises:
        UsageError: numbers out of range.
        TableError: a column or feature that is missing or unfit, no replicates, or fewer treatments
            than a group has members, so that no null can be drawn.
    """
    columns = find_columns(profiles, by)
    rows = profiles
    for column in columns:
        rows = labelled(rows, column)
    features = feature_matrix(rows)
    return _score("percent_replicating", rows, features, columns, n_null, quantile, seed)


def percent_matching(
    profiles: pl.DataFrame,
    label: str = "Metadata_MoA",
    compound: str | Sequence[str] = "Metadata_Compound",
    *,
    n_null: int = 1000,
    quantile: float = 0.95,
    seed: int = 0,
) -> ReplicateResult:
    """Share of labels whose compounds correlate more than compounds of different labels.

    Profiles are averaged by compound first, so that replicates of one compound do not count.

    Args:
        profiles: one row a well; rows without label take no part.
        label: column that compounds share, such as mechanism or target.
        compound: columns that name a compound.
        n_null: random groups drawn for each size of group: compounds of as many different labels.
        quantile: of the null's median correlations.
        seed: of the draws.

    Raises:
        UsageError: numbers out of range.
        TableError: as `percent_replicating`.
    """
    column = find_column(profiles, label)
    keys = find_columns(profiles, compound)
    rows, features = average(labelled(profiles, column), [*keys, column])
    return _score("percent_matching", rows, features, (column,), n_null, quantile, seed)


def _score(
    metric: str,
    rows: pl.DataFrame,
    features: NDArray[Any],
    by: tuple[str, ...],
    n_null: int,
    quantile: float,
    seed: int,
) -> ReplicateResult:
    check_count("n_null", n_null, 1)
    check_share("quantile", quantile)
    codes = group_codes(rows, by)
    sizes = np.bincount(codes)
    if sizes.max() < 2:
        raise TableError(
            f"no two rows share {', '.join(by)}: without replicates there is no correlation"
        )
    if sizes.max() > len(sizes):
        raise TableError(
            f"a group of {', '.join(by)} has {sizes.max()} members, but there are only"
            f" {len(sizes)} groups to draw as many different ones from: leave out controls"
            """ (evaluate --where 'Metadata_Compound != "DMSO"')"""
        )
    units = _standardised(features)
    members = np.split(np.argsort(codes, kind="stable"), np.cumsum(sizes)[:-1])
    thresholds = {}
    for size in np.unique(sizes[sizes > 1]).tolist():
        rng = np.random.default_rng([seed, size])
        drawn = _random_groups(members, size, n_null, rng)
        thresholds[size] = float(np.quantile(_median_correlations(units, drawn), quantile))
    firsts = rows.select(by)[[int(rows_[0]) for rows_ in members]]
    scores = tuple(
        GroupScore(
            " ".join(map(str, name)),
            len(own),
            float(_median_correlations(units, own[None])[0]),
            thresholds[len(own)],
        )
        for name, own in zip(firsts.iter_rows(), members, strict=True)
        if len(own) > 1
    )
    share = sum(score.passes for score in scores) / len(scores)
    n_single = int((sizes == 1).sum())
    return ReplicateResult(metric, share, scores, n_single, by, n_null, quantile, seed)


def _random_groups(
    members: Sequence[NDArray[np.int64]], size: int, n_draws: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Rows (R, S), each of another group: a row at random, others of its kind out, and again."""
    group_of = np.empty(sum(map(len, members)), dtype=np.int64)
    for group, rows in enumerate(members):
        group_of[rows] = group
    drawn = np.empty((n_draws, size), dtype=np.int64)
    for draw in drawn:
        rows = rng.integers(len(group_of), size=4 * size)
        while len(firsts := np.unique(group_of[rows], return_index=True)[1]) < size:
            rows = np.concatenate([rows, rng.integers(len(group_of), size=len(rows))])
        draw[:] = rows[np.sort(firsts)[:size]]
    return drawn


def _median_correlations(
    units: NDArray[np.float64], groups: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Median Pearson correlation of the pairs of rows of each group (R, S) -> (R,)."""
    size = groups.shape[1]
    one, other = np.triu_indices(size, k=1)
    medians = np.empty(len(groups))
    step = max(_GATHER_ELEMENTS // (size * units.shape[1]), 1)
    for start in range(0, len(groups), step):
        rows = units[groups[start : start + step]]  # (part of R, S, D)
        correlations = rows @ rows.transpose(0, 2, 1)
        medians[start : start + step] = np.median(correlations[:, one, other], axis=1)
    return medians


def _standardised(features: NDArray[Any]) -> NDArray[np.float64]:
    """Rows of mean 0 and length 1, so that products are Pearson correlations.

    A constant row, whose correlation is undefined, becomes zeros: it correlates 0 with all.
    """
    units = np.array(features, dtype=np.float64)
    units /= np.maximum(np.abs(units).max(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    units -= units.mean(axis=1, keepdims=True)
    length = np.sqrt(np.einsum("ij,ij->i", units, units))[:, None]
    flat = length <= 1e-12  # rounding of a constant row
    return np.asarray(np.where(flat, 0.0, units / np.where(flat, 1.0, length)))
