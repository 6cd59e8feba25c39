"""Mean average precision: do a profile's positives stand before its negatives?

Kalinin et al. 2025 (Nature Communications 16, 5181); definitions as in their copairs 0.5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from unidino_fast.columns import find_columns
from unidino_fast.errors import TableError, UsageError
from unidino_fast.evaluation.ranking import (
    Pairs,
    Precision,
    adjust_p_values,
    average_precisions,
    expected_precision,
    random_precisions,
)
from unidino_fast.evaluation.table import (
    check_count,
    check_share,
    feature_matrix,
    group_codes,
    shown,
    tidy,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_EQUAL = 1e-9
"""Average precisions this close are equal: shares of small numbers, added in another order."""
_METADATA = "Metadata_"


@dataclass(frozen=True, slots=True, eq=False)
class RetrievalResult:
    """Average precisions of queries and of groups of them.

    Attributes:
        mean_average_precision: mean over groups; NaN where there is none.
        share_significant: groups whose corrected p-value is below the threshold, as a share.
        threshold: of the corrected p-values.
        null_size: draws of each null distribution.
        n_queries: rows that have a positive and a negative.
        n_left_out: rows that lack one of them.
        n_tied: queries with a negative exactly as near as a positive, which ranks first. Where
            they are many, profiles are repeated or all zeros, and the precision says nothing.
        groups: one row a group: its columns, `mean_average_precision`,
            `mean_normalized_average_precision` (0 by chance, 1 at best), `p_value`,
            `corrected_p_value`, `n_queries`.
        queries: one row a profile: its metadata, `average_precision` (null without positives),
            `normalized_average_precision`, `n_pos_pairs`, `n_total_pairs`.
        pos_sameby, pos_diffby, neg_sameby, neg_diffby, sameby: the columns that were used.
    """

    mean_average_precision: float
    share_significant: float
    threshold: float
    null_size: int
    n_queries: int
    n_left_out: int
    n_tied: int
    groups: pl.DataFrame
    queries: pl.DataFrame
    pos_sameby: tuple[str, ...]
    pos_diffby: tuple[str, ...]
    neg_sameby: tuple[str, ...]
    neg_diffby: tuple[str, ...]
    sameby: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with the groups; what does not exist is None."""
        return {
            "mean_average_precision": _known(self.mean_average_precision),
            "share_significant": _known(self.share_significant),
            "threshold": self.threshold,
            "null_size": self.null_size,
            "n_queries": self.n_queries,
            "n_left_out": self.n_left_out,
            "n_tied": self.n_tied,
            "pos_sameby": list(self.pos_sameby),
            "pos_diffby": list(self.pos_diffby),
            "neg_sameby": list(self.neg_sameby),
            "neg_diffby": list(self.neg_diffby),
            "sameby": list(self.sameby),
            "groups": self.groups.with_columns(pl.col(self.sameby).cast(pl.String)).to_dicts(),
        }

    def to_frame(self) -> pl.DataFrame:
        """Tidy rows: the mean, the share of significant groups, and each group's mean."""
        n_groups = len(self.groups)
        rows: list[tuple[Any, ...]] = [
            ("mean_average_precision", None, self.mean_average_precision, None, None, n_groups),
            ("share_significant", None, self.share_significant, None, None, n_groups),
        ]
        for group in self.groups.iter_rows(named=True):
            subject, n = " ".join(str(group[key]) for key in self.sameby), group["n_queries"]
            rows += (
                (metric, subject, group[metric], None, None, n)
                for metric in ("mean_average_precision", "p_value", "corrected_p_value")
            )
        return tidy(rows)

    def summary(self) -> str:
        """The result in two lines for a person, and a third where ties decided."""
        alone = f"; {self.n_left_out} rows had no positive or no negative" * bool(self.n_left_out)
        ties = (
            f"\nin {self.n_tied} of them a negative is exactly as near as a positive, which then"
            " ranks first: are profiles repeated, or all zeros?"
        ) * bool(self.n_tied)
        return (
            f"mean average precision {self.mean_average_precision:.3f} over {len(self.groups)}"
            f" groups, {self.share_significant:.0%} of them below a corrected p of"
            f" {self.threshold}\npositives share {shown(self.pos_sameby, 'nothing')},"
            f" negatives differ in {shown(self.neg_diffby, 'nothing')};"
            f" {self.n_queries} queries{alone}{ties}"
        )


def mean_average_precision(
    profiles: pl.DataFrame,
    pos_sameby: str | Sequence[str],
    neg_diffby: str | Sequence[str],
    *,
    pos_diffby: str | Sequence[str] = (),
    neg_sameby: str | Sequence[str] = (),
    sameby: str | Sequence[str] | None = None,
    null_size: int = 10_000,
    threshold: float = 0.05,
    seed: int = 0,
) -> RetrievalResult:
    """Average precision of each profile, means of groups, and their p-values by permutation.

    A query's positives share all columns of `pos_sameby` with it and none of `pos_diffby`; its
    negatives share all of `neg_sameby` and none of `neg_diffby`. Positives and negatives are ranked
    by cosine similarity; equal ones with the positive first. A group's p-value is the share of
    random rankings whose mean is greater than the group's. Such a ranking depends on the numbers of
    positives and negatives alone, so each pair of numbers is drawn once and serves all queries
    that have it, as in copairs. Rows without negatives are left out, where copairs counts them as
    perfectly ranked.

    Args:
        profiles: one row a profile.
        pos_sameby: columns, with or without `Metadata_`.
        neg_diffby: columns; a row that is both positive and negative is ranked as both.
        pos_diffby: columns, such as the plate.
        neg_sameby: columns, such as the plate.
        sameby: columns whose rows are averaged, by default `pos_sameby`.
        null_size: random rankings.
        threshold: of the corrected p-values (Benjamini and Hochberg).
        seed: of the random rankings.

    Raises:
        UsageError: a column on both sides, or numbers out of range.
        TableError: a column or feature that is missing or unfit, or no pairs at all.
    """
    check_count("null_size", null_size, 1)
    check_share("threshold", threshold)
    columns = [
        find_columns(profiles, names) for names in (pos_sameby, pos_diffby, neg_sameby, neg_diffby)
    ]
    _check_keys(*columns)
    same = columns[0] if sameby is None else find_columns(profiles, sameby)
    if profiles.is_empty():
        raise TableError("the profiles have no rows: there is nothing to evaluate")
    positives, negatives = _pairs(profiles, *columns[:2]), _pairs(profiles, *columns[2:])
    found = average_precisions(feature_matrix(profiles), positives, negatives)
    asked = (found.n_positive > 0) & (found.n_total > found.n_positive)
    if not asked.any():
        kind = "negative" if found.n_positive.any() else "positive"
        raise TableError(
            f"no row has both a positive and a negative (there is no {kind} pair): choose other"
            " columns that they share or differ in"
        )
    queries = _queries(profiles, found)
    groups = _groups(queries.filter(asked), same, null_size, seed)
    return RetrievalResult(
        mean_average_precision=float(groups["mean_average_precision"].to_numpy().mean()),
        share_significant=float((groups["corrected_p_value"].to_numpy() < threshold).mean()),
        threshold=threshold,
        null_size=null_size,
        n_queries=int(asked.sum()),
        n_left_out=int((~asked).sum()),
        n_tied=int((asked & found.tied).sum()),
        groups=groups,
        queries=queries,
        pos_sameby=columns[0],
        pos_diffby=columns[1],
        neg_sameby=columns[2],
        neg_diffby=columns[3],
        sameby=same,
    )


def _check_keys(
    pos_same: Sequence[str],
    pos_diff: Sequence[str],
    neg_same: Sequence[str],
    neg_diff: Sequence[str],
) -> None:
    for name, same, different in (("pos", pos_same, pos_diff), ("neg", neg_same, neg_diff)):
        if not (same or different):
            raise UsageError(f"{name}_sameby and {name}_diffby are both empty: give columns")
        for key in same:
            if key in different:
                raise UsageError(
                    f"{key} is in {name}_sameby and in {name}_diffby: pairs cannot both share it"
                    " and differ in it"
                )


def _pairs(profiles: pl.DataFrame, same: Sequence[str], different: Sequence[str]) -> Pairs:
    joint = (group_codes(profiles, same),) if same else ()
    return Pairs(joint, tuple(group_codes(profiles, [key]) for key in different))


def _queries(profiles: pl.DataFrame, found: Precision) -> pl.DataFrame:
    """The metadata of all rows with their average precisions."""
    expected = expected_precision(found.n_positive, found.n_total)
    room = np.maximum(1 - expected, 1e-10)  # as in copairs: nothing to gain without negatives
    normalized = np.clip((found.value - expected) / room, -1.0, 1.0)
    return profiles.select(f"^{_METADATA}.*$").with_columns(
        average_precision=pl.Series(found.value, nan_to_null=True),
        normalized_average_precision=pl.Series(normalized, nan_to_null=True),
        n_pos_pairs=pl.Series(found.n_positive),
        n_total_pairs=pl.Series(found.n_total),
    )


def _groups(queries: pl.DataFrame, by: Sequence[str], null_size: int, seed: int) -> pl.DataFrame:
    """Means of groups, in the order of their columns' values, with p-values."""
    codes = group_codes(queries, by)
    value = queries["average_precision"].to_numpy()
    normalized = queries["normalized_average_precision"].to_numpy()
    sizes = np.bincount(codes)
    means = np.bincount(codes, weights=value) / sizes
    p_values = _p_values(queries, codes, means, null_size, seed)
    firsts = np.unique(codes, return_index=True)[1]
    names: pl.DataFrame = queries.select(by)[firsts.tolist()]
    return names.with_columns(
        mean_average_precision=pl.Series(means),
        mean_normalized_average_precision=pl.Series(np.bincount(codes, weights=normalized) / sizes),
        p_value=pl.Series(p_values),
        corrected_p_value=pl.Series(adjust_p_values(p_values)),
        n_queries=pl.Series(sizes),
    )


def _p_values(
    queries: pl.DataFrame,
    codes: NDArray[np.int32],
    means: NDArray[np.float64],
    null_size: int,
    seed: int,
) -> NDArray[np.float64]:
    """(greater draws + 1) / (draws + 1) of each group."""
    counts = queries.select("n_pos_pairs", "n_total_pairs").to_numpy()
    kinds, kind_of = np.unique(counts, axis=0, return_inverse=True)
    nulls = np.empty((len(kinds), null_size), dtype=np.float32)
    for index, (n_positive, n_total) in enumerate(kinds.tolist()):
        rng = np.random.default_rng([seed, n_positive, n_total])  # the same in every table
        nulls[index] = random_precisions(n_positive, n_total, null_size, rng)
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes))
    p_values = np.empty(len(means))
    for group, members in enumerate(np.split(kind_of[order], ends[:-1])):
        own, weights = np.unique(members, return_counts=True)
        null = weights @ nulls[own].astype(np.float64) / len(members)
        p_values[group] = (np.count_nonzero(null > means[group] + _EQUAL) + 1) / (null_size + 1)
    return p_values


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
