"""Each feature on its own scale: MAD robustize and standardize, within groups of rows.

Letters: N rows, F features, h one feature over the rows of a group, MAD its median absolute
deviation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from unidino_fast.errors import TableError
from unidino_fast.profiles.statistics import mean, median, median_absolute, standard_deviation
from unidino_fast.profiles.table import Neutralised, blocks, no_sample, within
from unidino_fast.threads import in_threads, threads_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from unidino_fast.profiles.table import Mask, Matrix, Profiles, Rows

MAD_TO_SD = 1.4826
"""Scales a MAD to the standard deviation of a normal distribution (pycytominer's constant)."""
_PYCYTOMINER_EPSILON = 1e-18
ROUNDING = 4 * float(np.finfo(np.float32).eps)
"""A spread below this share of a feature's centre is the rounding of float32, no spread."""
_ROUNDING_OF_FLOAT64 = 4096 * float(np.finfo(np.float64).eps)
"""The same of float64, wide enough for sums over thousands of values."""


def scale(
    profiles: Profiles,
    method: str,
    groups: Mapping[str, Rows],
    selected: Mask,
    samples: str | None,
) -> tuple[Profiles, list[Neutralised]]:
    """Scales features within groups, in place.

    Args:
        profiles: written into.
        method: `mad_robustize`, `standardize` or `pycytominer_mad_robustize`: see `normalize`.
        groups: rows by name.
        selected: rows that give centre and spread (N,).
        samples: the query behind them, for errors.

    Raises:
        TableError: a group has no selected row, or none that has a feature.
    """
    chosen = {group: within(rows, selected) for group, rows in groups.items()}
    for group, mask in chosen.items():
        if mask is not None and not mask.any():
            raise no_sample(group, samples)
    portions = blocks(len(profiles.features))
    jobs = [(group, rows, portion) for group, rows in groups.items() for portion in portions]

    def work(job: tuple[str, Rows, slice]) -> tuple[Mask, Mask]:
        group, rows, portion = job
        values = profiles.values[portion, rows] if isinstance(rows, slice) else (
            profiles.values[portion][:, rows]
        )  # fmt: skip
        mask = chosen[group]
        scaled, flat, unknown = _scaled(values, values if mask is None else values[:, mask], method)
        profiles.values[portion, rows] = scaled
        return flat, unknown

    done = list(in_threads(work, jobs, threads_for(profiles.values.size)))
    neutralised = []
    for at, group in enumerate(groups):
        parts = done[at * len(portions) : (at + 1) * len(portions)]
        flat, unknown = (np.concatenate([part[kind] for part in parts]) for kind in (0, 1))
        if unknown.any():
            name = profiles.features[int(unknown.argmax())]
            raise TableError(
                f"feature {name} is null in the rows of {group} that fit the samples {samples!r}:"
                " widen the query"
            )
        if flat.any():
            names = tuple(profiles.features[index] for index in np.flatnonzero(flat))
            neutralised.append(Neutralised(group, names))
    return profiles, neutralised


def _scaled(block: Matrix, reference: Matrix, method: str) -> tuple[Matrix, Mask, Mask]:
    """Features (b, n) of one group, which of them have no spread and which no known centre (b,)."""
    is_standard = method == "standardize"
    centre = mean(reference) if is_standard else median(reference)
    shifted = centre.taken_from(block)
    deviations = shifted if reference is block else centre.taken_from(reference)
    if is_standard:
        spread = standard_deviation(deviations)
    else:
        spread = MAD_TO_SD * median_absolute(deviations).astype(np.float64)
    unknown = np.isnan(centre.base)
    if unknown.any():  # in all rows of the group, it is a channel that the group lacks
        unknown &= ~np.isnan(block).all(axis=1)
    if method == "pycytominer_mad_robustize":
        with np.errstate(over="ignore"):
            shifted /= (spread + _PYCYTOMINER_EPSILON).astype(block.dtype)[:, None]
        return shifted, np.zeros(len(block), bool), unknown
    flat = without_spread(reference, spread, centre.whole())
    shifted /= np.where(flat, 1, spread).astype(block.dtype)[:, None]
    shifted[flat] = np.where(np.isnan(shifted[flat]), np.nan, 0)
    return shifted, flat, unknown


def without_spread(values: Matrix, spread: Matrix, centre: Matrix) -> Mask:
    """Which features (F,) of (F, n) have a spread within the rounding of their numbers.

    Divided by next to nothing they would outweigh all others (Morelli et al. 2025, BBBC021:
    accuracy .330 instead of .650). The rounding is that of the centre, which one extreme value does
    not move as it moves the largest.

    Args:
        values: what spread and centre are of.
        spread: (F,).
        centre: (F,), in the unit of the values.
    """
    size = np.abs(centre)
    flat: Mask = np.fmax.reduce(values, axis=1) == np.fmin.reduce(values, axis=1)
    within_float32: Mask = spread <= ROUNDING * size  # false where all is NaN
    if values.dtype == np.float32:
        return flat | within_float32
    flat |= spread <= _ROUNDING_OF_FLOAT64 * size
    for at in np.flatnonzero(within_float32 & ~flat):
        flat[at] = _are_float32(values[at])
    return flat


def _are_float32(values: Matrix) -> bool:
    """Whether float64 values (n,) are float32 ones in truth, widened or read from text."""
    present = values[~np.isnan(values)]
    narrow = present.astype(np.float32)
    same = narrow == present
    return bool(
        same.all() or (narrow[~same].astype(str).astype(np.float64) == present[~same]).all()
    )
