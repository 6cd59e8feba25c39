"""Wells that are unlike the others of their plate, or that no plate should have.

Letters: N wells (and time points), C channels, M measures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from unidino_fast.qc.columns import FLAGGED, FLAGS, WELL_KEYS, Quality, of_wells, quality_columns
from unidino_fast.qc.robust import mad, median
from unidino_fast.qc.thresholds import KINDS, Kind, Thresholds, shipped_thresholds

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]

_LEAST_LIGHT = 1e-6
"""Grey levels, below those of any camera: darkness has no logarithm."""
LEAST_SPREAD = 0.1
"""Of a channel's looks (log light, octaves of focus): no plate repeats itself more closely."""


@dataclass(frozen=True, slots=True)
class Flag:
    """What is wrong with a channel of a well.

    Attributes:
        kind: what.
        value: of the measure.
        usual: the plate's median of it.
        limit: beyond which a well is flagged.
    """

    kind: Kind
    channel: str
    value: float
    usual: float
    limit: float

    def __str__(self) -> str:
        return f"{self.kind}:{self.channel}"


def flag_wells(frame: pl.DataFrame, config: Thresholds | None = None) -> pl.DataFrame:
    """A table with `Metadata_QC_Flags` and `Metadata_QC_Flagged` as a configuration has them.

    Wells are compared with the others of their plate (and time point).

    Args:
        frame: fields, wells or profiles with the columns `Metadata_QC_...` of measures.
        config: from `qc.read_thresholds`; that of the package by default.

    Returns:
        The same rows; all fields of a well carry the flags of the well.

    Raises:
        TableError: the table has no such columns.
    """
    config = config or shipped_thresholds()
    wells = of_wells(frame)
    found = flags_of(wells, config)
    keys = [name for name in WELL_KEYS if name in wells.columns]
    drop = set(config.drop)
    told = wells.select(keys).with_columns(
        pl.Series(FLAGS, [";".join(map(str, flags)) for flags in found], pl.String),
        pl.Series(FLAGGED, [any(f.kind in drop for f in flags) for flags in found], pl.Boolean),
    )
    bare = frame.drop(FLAGS, FLAGGED, strict=False)
    joined = bare.join(told, on=keys, how="left", nulls_equal=True, maintain_order="left")
    last = max(bare.columns.index(name) for name in quality_columns(frame).values())
    order = [*bare.columns[: last + 1], FLAGS, FLAGGED, *bare.columns[last + 1 :]]
    return joined.select(order)


def flags_of(wells: pl.DataFrame, config: Thresholds) -> list[list[Flag]]:
    """Flags of each row of `of_wells`."""
    quality = Quality.of(wells)
    found: list[list[Flag]] = [[] for _ in range(wells.height)]
    for rows in groups_of(wells):
        for row, flags in zip(rows, _of_group(quality.rows(rows), config), strict=True):
            found[row] = flags
    return found


def groups_of(wells: pl.DataFrame) -> list[NDArray[np.int64]]:
    """Rows that are compared with each other: those of a plate and time point."""
    keys = [name for name in WELL_KEYS if name in wells.columns and name != "Metadata_Well"]
    numbered = wells.select(keys).with_row_index("\0row")
    groups = numbered.group_by(keys, maintain_order=True).agg(pl.col("\0row"))
    return [rows.to_numpy().astype(np.int64) for rows in groups["\0row"]]


def _of_group(quality: Quality, config: Thresholds) -> list[list[Flag]]:
    """Flags of wells that are compared with each other, kind by kind, channel by channel."""
    found: list[list[Flag]] = [[] for _ in quality.values]
    marked = {
        "defocused": _defocused(quality, config),
        "saturated": _saturated(quality, config),
        "empty": _empty(quality, config),
        "background": _background(quality, config),
        "swapped": _swapped(quality, config),
    }
    is_swapped = marked["swapped"][3]
    for kind in KINDS:
        value, usual, limit, is_so = marked[kind]
        if kind in ("defocused", "background"):
            is_so = is_so & ~is_swapped  # it is another channel's
        for well, channel in zip(*np.nonzero(is_so), strict=True):
            numbers = (float(a[well, channel]) for a in (value, usual, limit))
            found[well].append(Flag(kind, quality.channels[channel], *numbers))
    return found


_Marked = tuple[Any, Any, Any, "NDArray[np.bool_]"]


def _marked(value: Matrix, usual: Matrix, limit: Matrix | float, is_so: Any) -> _Marked:
    """All (N, C)."""
    shape = value.shape
    return value, np.broadcast_to(usual, shape), np.broadcast_to(limit, shape), is_so


def _defocused(quality: Quality, config: Thresholds) -> _Marked:
    focus = quality.of_measure("Focus")
    usual = median(focus)
    fall = np.maximum(config.defocused.mads * mad(focus), config.defocused.octaves)
    limit = usual - fall
    return _marked(focus, usual, limit, (focus < limit) & _comparable(focus, config))


def _saturated(quality: Quality, config: Thresholds) -> _Marked:
    share = quality.of_measure("Saturated")
    limit = config.saturated.share
    return _marked(share, median(share), limit, share >= limit)


def _empty(quality: Quality, config: Thresholds) -> _Marked:
    share = quality.of_measure("EmptyTiles")
    usual = median(share)
    is_so = (share >= config.empty.share) & (usual <= config.empty.usual)
    return _marked(share, usual, config.empty.share, is_so & _comparable(share, config))


def _background(quality: Quality, config: Thresholds) -> _Marked:
    level = quality.of_measure("Background")
    signal = median(quality.of_measure("Signal"))
    usual = median(level)
    rise = np.maximum(
        config.background.mads * mad(level), config.background.share_of_signal * signal
    )
    limit = usual + rise
    is_so = (level > limit) & (quality.of_measure("Saturated") < config.saturated.share)
    return _marked(level, usual, limit, is_so & _comparable(level, config))


def _swapped(quality: Quality, config: Thresholds) -> _Marked:
    """Two channels that both look like the other one, and unlike themselves."""
    looks = looks_of(quality)
    usual = median(looks)  # (C, L)
    spread = np.maximum(mad(looks), LEAST_SPREAD)
    with np.errstate(invalid="ignore"):
        apart = root_mean_square((looks[:, :, None] - usual) / spread)  # (N, C, C)
        own = np.diagonal(apart, axis1=1, axis2=2)  # (N, C)
        ratio = own[:, :, None] / np.maximum(apart, 1.0)  # of channel a, taken for b
    fits = (apart <= config.swapped.fits) & (ratio >= config.swapped.unlike)
    both = fits & np.swapaxes(fits, 1, 2)
    is_so = both.any(axis=2)
    shown = np.where(both, ratio, np.nan)
    best = np.where(is_so, np.nan_to_num(shown, nan=0).max(axis=2), 1.0)
    comparable = _comparable(quality.of_measure("Intensity"), config)
    return _marked(best, np.ones_like(best), config.swapped.unlike, is_so & comparable)


def root_mean_square(values: NDArray[Any]) -> NDArray[Any]:
    """Over the last axis, of what is known there; infinite where nothing is."""
    known = np.isfinite(values)
    total = np.where(known, np.square(values), 0).sum(axis=-1)
    count = known.sum(axis=-1)
    root: NDArray[Any] = np.where(count > 0, np.sqrt(total / np.maximum(count, 1)), np.inf)
    return root


def looks_of(quality: Quality) -> NDArray[np.float64]:
    """How channels look (N, C, L): signal, mean light over signal, background and focus.

    The first three as logarithms; they vary by themselves where light and signal vary together.
    """
    level = quality.of_measure("Background")
    signal = np.log(np.maximum(quality.of_measure("Signal"), _LEAST_LIGHT))
    background = np.log1p(np.maximum(level, 0))
    focus = quality.of_measure("Focus")
    return np.stack([signal, np.log(light_of(quality)) - signal, background, focus], axis=-1)


def light_of(quality: Quality) -> Matrix:
    """Mean light above the background (N, C), grey levels."""
    above = quality.of_measure("Intensity") - quality.of_measure("Background")
    light: Matrix = np.maximum(above, _LEAST_LIGHT)
    return light


def _comparable(values: Matrix, config: Thresholds) -> NDArray[np.bool_]:
    """Channels that enough wells have to compare them (1, C)."""
    enough: NDArray[np.bool_] = (~np.isnan(values)).sum(axis=0, keepdims=True) >= config.min_wells
    return enough
