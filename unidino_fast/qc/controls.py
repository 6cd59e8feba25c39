"""What labels say of a plate: whether its controls are apart, and whether its replicates agree.

Letters: N wells, F features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from unidino_fast.errors import TableError
from unidino_fast.qc.checks import Check, Numbers
from unidino_fast.query import parse_query
from unidino_fast.results import METADATA_PREFIX, QUALITY_PREFIX, feature_columns

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from unidino_fast.qc.columns import Quality
    from unidino_fast.qc.thresholds import Controls, Thresholds

    Mask = NDArray[np.bool_]
    Matrix = NDArray[np.float64]

_PLACES = frozenset(f"{METADATA_PREFIX}{name}" for name in ("Plate", "Well", "Row", "Site"))
_USUAL, _HIGH = 75, 95
"""Percentiles of the correlations of wells that hold different things."""


def controls_of(frame: pl.DataFrame, config: Controls) -> tuple[Mask, Mask]:
    """Which wells are negative and which are positive controls (N,).

    Raises:
        UsageError: a query of the configuration is none.
        TableError: it does not fit the table.
    """
    positive = np.zeros(frame.height, bool)
    if config.positive:
        positive = _answering(frame, config.positive)
    else:
        held = (name for name in config.columns if name in frame.columns)
        for name in held:
            if frame[name].dtype == pl.String:
                positive = _worded(frame[name], config.positive_words)
                break
    return negative_controls(frame, config)[0], positive


def negative_controls(frame: pl.DataFrame, config: Controls) -> tuple[Mask, str | None]:
    """Which wells are negative controls (N,), and the column that says so; None for a query's.

    Without a query, the configuration's words are looked for in its columns, then in every other
    column of labels; -1 marks them in a column of numbers that is named after controls, beside 0
    for samples and 1 for positive ones. The first column with such wells decides.

    Raises:
        UsageError: the configuration's query is none.
        TableError: it does not fit the table.
    """
    if config.negative:
        return _answering(frame, config.negative), None
    labels = (
        name
        for name in frame.columns
        if name.startswith(METADATA_PREFIX) and name not in _PLACES
        if not name.startswith(QUALITY_PREFIX)
    )
    for name in dict.fromkeys([*config.columns, *labels]):
        if name not in frame.columns:
            continue
        values = frame[name]
        if values.dtype == pl.String:
            marked = _worded(values, config.negative_words)
        elif "control" in name.lower() and values.dtype.is_numeric():
            marked = (values == -1).fill_null(value=False).to_numpy()
        else:
            continue
        if marked.any():
            return marked, name
    return np.zeros(frame.height, bool), None


def _answering(frame: pl.DataFrame, query: str) -> Mask:
    fits = frame.select(parse_query(query, frame.schema).alias("fits"))["fits"]
    mask: Mask = fits.to_numpy().astype(bool)
    return mask


def _worded(values: pl.Series, words: Sequence[str]) -> Mask:
    lower = values.str.strip_chars().str.to_lowercase()
    mask: Mask = lower.is_in([word.lower() for word in words]).fill_null(value=False).to_numpy()
    return mask


def check_labels(frame: pl.DataFrame, config: Thresholds) -> None:
    """Raises what is wrong with the labels of wells, or with queries on them, before any work.

    Raises:
        UsageError: a query of the configuration is none.
        TableError: it does not fit the table.
    """
    controls_of(frame, config.controls)
    replicate_columns(frame, config)


def control_checks(
    frame: pl.DataFrame, quality: Quality, light: Matrix, sound: Mask, config: Thresholds
) -> Iterator[Check] | str:
    """How far controls are apart, or why that cannot be told.

    Args:
        frame: profiles, N.
        quality: of the same wells.
        light: of the same wells and all channels (N, C).
        sound: wells that have no flag (N,).
        config: limits.
    """
    limits = config.controls
    negative, positive = controls_of(frame, limits)
    for name, marked in (("negative", negative), ("positive", positive)):
        if not marked.any():
            return f"no {name} control is labelled: [controls] of --qc-config can name them"
        n = int((marked & sound).sum())
        if n < limits.min_wells:
            return f"{n} {name} controls without flags are too few: {limits.min_wells} are needed"
    return _control_checks(frame, quality, light, negative & sound, positive & sound, limits)


def _control_checks(
    frame: pl.DataFrame,
    quality: Quality,
    light: Matrix,
    negative: Mask,
    positive: Mask,
    limits: Controls,
) -> Iterator[Check]:
    for c, channel in enumerate(quality.channels):
        yield _separation(channel, light[negative, c], light[positive, c], limits)
    features = feature_matrix(frame)
    if features.shape[1]:
        scores = along_axis(features[negative], features[positive])
        yield _separation(None, *scores, limits)


def _separation(channel: str | None, negative: Matrix, positive: Matrix, limits: Controls) -> Check:
    """Of light it is told, of profiles it decides: not every stain shows what a control does."""
    negative, positive = negative[~np.isnan(negative)], positive[~np.isnan(positive)]
    details: Numbers = {
        "z_prime": z_prime(negative, positive),
        "ssmd": ssmd(negative, positive),
        "n_negative": len(negative),
        "n_positive": len(positive),
    }
    z, effect = details["z_prime"], details["ssmd"]
    found = False
    if channel is None and z is not None and effect is not None:
        # signed: positive controls that come to lie before negative ones are not apart either
        found = z < limits.z_prime and effect < limits.ssmd
    line = f"controls are hardly apart: Z' {_shown(z)}, SSMD {_shown(effect)}"
    return Check("controls", channel, found, z, limits.z_prime, None, line, details)


def along_axis(negative: Matrix, positive: Matrix) -> tuple[Matrix, Matrix]:
    """Places of control wells between the means of the others: 0 negative, 1 positive.

    Each well is placed on the line between the means of the other controls, so that it has no say
    in where that line lies.

    Args:
        negative: (n, F), two or more.
        positive: (m, F), two or more.
    """

    def place(well: Matrix, one: Matrix, other: Matrix) -> float:
        start, axis = one.mean(axis=0), other.mean(axis=0) - one.mean(axis=0)
        length = float(np.square(axis).sum())
        return float(((well - start) * axis).sum()) / length if length else 0.0

    rest = [np.delete(negative, at, axis=0) for at in range(len(negative))]
    low = [place(well, others, positive) for well, others in zip(negative, rest, strict=True)]
    rest = [np.delete(positive, at, axis=0) for at in range(len(positive))]
    high = [place(well, negative, others) for well, others in zip(positive, rest, strict=True)]
    return np.array(low), np.array(high)


def z_prime(negative: Matrix, positive: Matrix) -> float | None:
    """Zhang, Chung, Oldenburg 1999; None where both are the same or are too few."""
    if min(len(negative), len(positive)) < 2 or negative.mean() == positive.mean():
        return None
    spread = float(negative.std(ddof=1) + positive.std(ddof=1))
    return 1 - 3 * spread / abs(float(positive.mean() - negative.mean()))


def ssmd(negative: Matrix, positive: Matrix) -> float | None:
    """Zhang 2007, by moments; None where nothing varies or wells are too few."""
    if min(len(negative), len(positive)) < 2:
        return None
    variance = float(negative.var(ddof=1) + positive.var(ddof=1))
    return float(positive.mean() - negative.mean()) / variance**0.5 if variance else None


def feature_matrix(frame: pl.DataFrame) -> Matrix:
    """Features that all rows have (N, F)."""
    features = frame.select(feature_columns(frame))
    known = [column for column in features.iter_columns() if column.null_count() == 0]
    return (
        pl.DataFrame(known).to_numpy().astype(np.float64) if known else np.empty((frame.height, 0))
    )


def contents_of(frame: pl.DataFrame, config: Thresholds) -> NDArray[np.int64]:
    """Numbers of what wells hold (N,), equal where that is equal; all 0 where it is not known."""
    columns = replicate_columns(frame, config)
    if columns is None:
        return np.zeros(frame.height, np.int64)
    groups = frame.select(pl.struct(columns).rank("dense")).to_series()
    return groups.to_numpy().astype(np.int64)


def replicate_columns(frame: pl.DataFrame, config: Thresholds) -> list[str] | None:
    """The columns whose entries replicates share.

    Raises:
        TableError: one of them holds lists or the like.
    """
    sets = ([name.strip() for name in names.split(",")] for names in config.replicates.by)
    columns = next((names for names in sets if set(names) <= set(frame.columns)), None)
    for name in columns or ():
        if frame[name].dtype.is_nested():
            raise TableError(f"column {name} is {frame[name].dtype}: replicates need plain labels")
    return columns


def replicate_check(frame: pl.DataFrame, sound: Mask, config: Thresholds) -> Check | str:
    """Whether wells that hold the same are alike, or why that cannot be told.

    Args:
        frame: profiles, N.
        sound: wells that have no flag (N,).
        config: limits.
    """
    limits = config.replicates
    columns = replicate_columns(frame, config)
    if columns is None:
        return "no column says what wells hold: [replicates] of --qc-config can name some"
    negative, positive = controls_of(frame, config.controls)
    takes_part = sound & ~negative & ~positive
    takes_part &= (
        frame.select(pl.all_horizontal(pl.col(columns).is_not_null())).to_series().to_numpy()
    )
    group = contents_of(frame.filter(pl.Series(takes_part)), config)
    sizes = np.bincount(group) if len(group) else np.zeros(1, int)
    n_groups = int((sizes > 1).sum())
    if n_groups < limits.min_groups:
        by = " and ".join(columns)
        return f"{n_groups} sets of replicates by {by} are too few: {limits.min_groups} are needed"
    features = feature_matrix(frame)[takes_part]
    if features.shape[1] < 2:
        return "the table has no features"
    medians, others = _agreement(features, group, np.flatnonzero(sizes > 1))
    usual, high = (float(np.percentile(others, percent)) for percent in (_USUAL, _HIGH))
    share = float((medians > usual).mean())
    details: Numbers = {
        "median_replicate": float(np.median(medians)),
        "null_75": usual,
        "null_95": high,
        "share": share,
        "share_95": float((medians > high).mean()),
        "n_groups": n_groups,
    }
    line = (
        f"replicates by {' and '.join(columns)} hardly agree: {share:.0%} of {n_groups} sets do"
        f" better than {_USUAL}% of other pairs"
    )
    found = share < limits.share
    return Check("replicates", None, found, share, limits.share, None, line, details)


def _agreement(
    features: Matrix, group: NDArray[Any], groups: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Median correlation within each group, and all those of wells of different groups."""
    centred = features - features.mean(axis=1, keepdims=True)
    length = np.sqrt(np.square(centred).sum(axis=1, keepdims=True))
    unit = centred / np.where(length > 0, length, 1)
    correlation = unit @ unit.T
    one, other = np.triu_indices(len(group), 1)
    pairs, same = correlation[one, other], group[one] == group[other]
    medians = np.array([np.median(pairs[same & (group[one] == g)]) for g in groups])
    return medians, pairs[~same]


def _shown(value: float | int | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"
