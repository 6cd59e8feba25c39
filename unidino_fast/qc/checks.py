"""What is wrong with a plate as a whole: its rim, rows, columns, light and channels.

Letters: N wells, C channels. Effects are differences of the logarithm of light, so that they are
shares: .1 is 10 % more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from unidino_fast.names import row_index, row_letters
from unidino_fast.qc.flags import light_of
from unidino_fast.qc.robust import MAD_OF_NORMAL, MEDIAN_ERROR, mad, median, theil_sen, trend

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from unidino_fast.names import WellName
    from unidino_fast.qc.columns import Quality
    from unidino_fast.qc.thresholds import Thresholds, Trend

    Mask = NDArray[np.bool_]

Line = Literal["row", "column"]
Drift = Literal["row_drift", "column_drift"]
Name = Literal[
    "edge",
    "row",
    "column",
    "row_drift",
    "column_drift",
    "illumination",
    "channel",
    "controls",
    "replicates",
]
_FORMATS = ((2, 3), (3, 4), (4, 6), (6, 8), (8, 12), (16, 24), (32, 48))
"""Rows and columns of plates of 6, 12, 24, 48, 96, 384 and 1536 wells."""
_LEAST_WELLS = 4
"""Of a line or a rim: the median of fewer is one well's."""
_LEAST_GROUP = 3
_LEAST_PAIRS = 15
"""Of wells that hold the same, to tell how much such wells differ."""
_PAIRS_ERROR = 1.0233
"""Standard error of the median of pairs of normal values, over that of a difference of means."""


Numbers = dict[str, float | int | None]


@dataclass(frozen=True, slots=True)
class Check:
    """Something that was looked for on a plate.

    Attributes:
        check: what.
        channel: of which; None for the whole profile.
        found: whether something is wrong.
        value: the number that decides, as `limit` is its threshold; None where there was none.
        where: which row or column, or which side of the field.
        line: what to tell a person; empty where nothing was found.
        details: further numbers.
    """

    check: Name
    channel: str | None
    found: bool
    value: float | None
    limit: float | None
    where: str | None = None
    line: str = ""
    details: Numbers = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plate:
    """Wells of a plate and what is known of them.

    Attributes:
        wells: positions, N.
        quality: (N, C, M).
        flagged: wells that are wrong by themselves, which say nothing of the plate (N,).
        holds: number of what each well holds (N,): only wells that hold the same are compared. All
            0 where that is not known.
    """

    wells: tuple[WellName, ...]
    quality: Quality
    flagged: Mask
    holds: NDArray[np.int64]

    @property
    def rows(self) -> NDArray[np.int64]:
        """Row of each well, from 0 (N,)."""
        return np.array([well.row for well in self.wells])

    @property
    def columns(self) -> NDArray[np.int64]:
        """Column of each well, from 1 (N,)."""
        return np.array([well.column for well in self.wells])

    @property
    def rim(self) -> Mask:
        """Wells at the edge of the smallest usual plate that has them all (N,)."""
        last_row, last_column = int(self.rows.max()), int(self.columns.max())
        formats = (f for f in _FORMATS if f[0] > last_row and f[1] >= last_column)
        n_rows, n_columns = next(formats, (last_row + 1, last_column))
        ends = np.isin(self.rows, (0, n_rows - 1)) | np.isin(self.columns, (1, n_columns))
        rim: Mask = ends
        return rim


def plate_checks(plate: Plate, config: Thresholds) -> Iterator[Check]:
    """Looks at a plate of `config.min_wells` wells or more."""
    lines_of: dict[Line, NDArray[Any]] = {"row": plate.rows, "column": plate.columns}
    for name, places in lines_of.items():
        yield from _flagged_lines(plate.flagged, places, name, config.line.flagged)
    light = np.log(light_of(plate.quality))  # (N, C)
    for c, channel in enumerate(plate.quality.channels):
        sound = ~np.isnan(light[:, c]) & ~plate.flagged
        values = np.where(sound, light[:, c], 0.0)
        edge, off = _edge(values, plate, sound, channel, config.edge)
        if edge is not None:
            yield edge
            if edge.found:  # or its rows and columns would be found too
                values = values - np.where(plate.rim, off, 0.0)
        lines = [
            check
            for name, places in lines_of.items()
            for check in _lines(values, places, plate.holds, sound, name, channel, config.line)
        ]
        yield from lines
        for check in lines:
            if check.found:
                places = plate.rows if check.check == "row" else plate.columns
                sound &= places != _place(check)
        level = _without_contents(values, plate.holds, sound)
        is_known = len(np.unique(plate.holds)) > 1
        drifts: dict[Drift, NDArray[Any]] = {"row_drift": plate.rows, "column_drift": plate.columns}
        for drift, places in drifts.items():
            yield from _drift(level, places, sound, drift, channel, config.drift, is_known=is_known)
        yield from _illumination(plate, c, config)
        yield _channel(plate, c, config)


def effect(
    values: NDArray[Any],
    holds: NDArray[Any],
    one: Mask,
    other: Mask,
    noise: Noise | None = None,
) -> tuple[float, float] | None:
    """How far some wells lie off others that hold the same, and by how many standard errors.

    The median of the differences of all pairs (Hodges and Lehmann 1963), which needs fewer wells
    than a difference of medians. Its error is told by how wells of the same side differ that hold
    the same.

    Args:
        values: of all wells (N,).
        holds: numbers of what they hold (N,).
        one: some wells (N,).
        other: those that they are compared with (N,).
        noise: of wells that hold the same, if it is known already.

    Returns:
        Offset and errors; None where fewer than `_LEAST_WELLS` on one side have a partner on the
        other, or too few on one side to tell an error.
    """
    if not (one.any() and other.any()):
        return None
    pairs = holds[one][:, None] == holds[other][None]
    n_one, n_other = int(pairs.any(axis=1).sum()), int(pairs.any(axis=0).sum())
    if noise is None:
        noise = _noise(*((values[side], holds[side]) for side in (one, other)))
    if min(n_one, n_other) < _LEAST_WELLS or noise.n_pairs < _LEAST_PAIRS:
        return None
    off = float(np.median((values[one][:, None] - values[other][None])[pairs]))
    error = _PAIRS_ERROR * noise.spread * (1 / n_one + 1 / n_other) ** 0.5
    return off, abs(off) / max(error, 1e-9)


class Noise(NamedTuple):
    """How wells differ that hold the same: a standard deviation, and of how many pairs."""

    spread: float
    n_pairs: int


def _noise(*sides: tuple[NDArray[Any], NDArray[Any]]) -> Noise:
    """Told by all pairs of wells of a side that hold the same, given values and what they hold."""
    differences = []
    for values, holds in sides:
        one, other = np.triu_indices(len(values), 1)
        same = holds[one] == holds[other]
        differences.append(np.abs((values[one] - values[other])[same]))
    apart = np.concatenate(differences)
    if not len(apart):
        return Noise(np.nan, 0)
    return Noise(float(np.median(apart)) * MAD_OF_NORMAL / 2**0.5, len(apart))


def _best_effect(
    values: NDArray[Any], holds: NDArray[Any], one: Mask, other: Mask
) -> tuple[float, float] | None:
    """Among wells that hold the same; among all where too few do."""
    found = effect(values, holds, one, other)
    return found if found is not None else effect(values, np.zeros_like(holds), one, other)


def _without_contents(values: NDArray[Any], holds: NDArray[Any], sound: Mask) -> NDArray[Any]:
    """Values without what wells of the same contents have in common, where three or more do."""
    level = values - np.median(values[sound]) if sound.any() else values.copy()
    for group in np.unique(holds[sound]):
        own = sound & (holds == group)
        if own.sum() >= _LEAST_GROUP:
            level[own] = values[own] - np.median(values[own])
    return level


def _is_found(off: float, errors: float, limits: Trend) -> bool:
    return bool(errors >= limits.errors and abs(float(np.expm1(off))) >= limits.change)


def _edge(
    values: NDArray[Any], plate: Plate, sound: Mask, channel: str, limits: Trend
) -> tuple[Check | None, float]:
    """The check, and by how much the rim is off."""
    outer, inner = plate.rim & sound, ~plate.rim & sound
    found_effect = _best_effect(values, plate.holds, outer, inner)
    if found_effect is None:
        return None, 0.0
    off, errors = found_effect
    change = float(np.expm1(off))
    details: Numbers = {
        "change": change,
        "n_rim": int(outer.sum()),
        "n_inside": int(inner.sum()),
    }
    line = f"wells at the rim have {_percent(change)} light than those inside"
    found = _is_found(off, errors, limits)
    return Check("edge", channel, found, errors, limits.errors, None, line, details), off


def _lines(
    values: NDArray[Any],
    places: NDArray[Any],
    holds: NDArray[Any],
    sound: Mask,
    name: Line,
    channel: str,
    limits: Trend,
) -> list[Check]:
    """The row or column that is most unlike the others, and all others that are too unlike."""
    checks = []
    alike = np.zeros_like(holds)
    ways = [(h, _noise((values[sound], h[sound]))) for h in (holds, alike)]
    for place in np.unique(places[sound]):
        own, other = sound & (places == place), sound & (places != place)
        effects = (effect(values, h, own, other, noise) for h, noise in ways)
        found_effect = next((found for found in effects if found is not None), None)
        if found_effect is None:
            continue
        off, errors = found_effect
        change = float(np.expm1(off))
        where = _where(name, place)
        line = f"{name} {where} has {_percent(change)} light than the others"
        found = _is_found(off, errors, limits)
        details: Numbers = {"change": change, "n_wells": int(own.sum())}
        checks.append(Check(name, channel, found, errors, limits.errors, where, line, details))
    checks.sort(key=lambda check: -(check.value or 0))
    return [check for at, check in enumerate(checks) if at == 0 or check.found]


def _flagged_lines(
    flagged: Mask, places: NDArray[Any], name: Line, limit: float
) -> Iterator[Check]:
    """Rows or columns of which most wells have a flag, where half as many elsewhere have none."""
    for place in np.unique(places):
        own = flagged[places == place]
        other = flagged[places != place]
        share = float(own.mean())
        if len(own) < _LEAST_WELLS or share < limit or other.mean() > limit / 2:
            continue
        where = _where(name, place)
        line = f"{name} {where}: {own.sum()} of {len(own)} wells are flagged"
        details: Numbers = {"n_wells": len(own), "n_flagged": int(own.sum())}
        yield Check(name, None, True, share, limit, where, line, details)


def _where(name: Line, place: Any) -> str:
    return row_letters(int(place)) if name == "row" else str(int(place))


def _place(check: Check) -> int:
    """Of a row or column."""
    where = check.where or ""
    return row_index(where) if check.check == "row" else int(where)


def _drift(
    values: NDArray[Any],
    places: NDArray[Any],
    sound: Mask,
    name: Drift,
    channel: str,
    limits: Trend,
    *,
    is_known: bool,
) -> Iterator[Check]:
    """A trend; where nobody knows what wells hold, doses in a row make one just as well."""
    at = places[sound].astype(float)
    extent = float(np.ptp(at)) if len(at) else 0.0
    if extent < 2:
        return
    errors = abs(trend(at, values[sound]))
    change = float(np.expm1(theil_sen(at, values[sound]) * extent))
    found = errors >= limits.errors and abs(change) >= limits.change
    direction = "the last row" if name == "row_drift" else "the last column"
    line = f"light drifts: {direction} has {_percent(change)} than the first"
    if not is_known:
        line += ", unless treatments stand in that order, which no known column says"
    details: Numbers = {"change": change, "n_wells": int(sound.sum())}
    yield Check(name, channel, found, errors, limits.errors, None, line, details)


def _illumination(plate: Plate, c: int, config: Thresholds) -> Iterator[Check]:
    """Light that rises across all fields in one direction."""
    limits = config.illumination
    for measure, sides in (("GradientY", ("upper", "lower")), ("GradientX", ("left", "right"))):
        rise = plate.quality.of_measure(measure)[:, c]
        rise = rise[~np.isnan(rise) & ~plate.flagged]
        if len(rise) < config.min_wells:
            continue
        usual = float(median(rise))
        error = MEDIAN_ERROR * float(mad(rise)) / len(rise) ** 0.5
        errors = abs(usual) / max(error, 1e-9)
        found = errors >= limits.errors and abs(usual) >= limits.change
        where = sides[usual > 0]
        line = f"fields are brighter at their {where} side, by {abs(usual):.0%} of the mean"
        details: Numbers = {"errors": errors, "n_wells": len(rise)}
        channel = plate.quality.channels[c]
        yield Check("illumination", channel, found, abs(usual), limits.change, where, line, details)


def _channel(plate: Plate, c: int, config: Thresholds) -> Check:
    """A stain that is too bright for the camera in most wells, or not there."""
    values = {name: plate.quality.of_measure(name)[:, c] for name in ("Saturated", "EmptyTiles")}
    n = max(int((~np.isnan(values["Saturated"])).sum()), 1)
    saturated = float((values["Saturated"] >= config.saturated.share).sum() / n)
    empty = float((values["EmptyTiles"] >= config.empty.share).sum() / n)
    worst = max(saturated, empty)
    what = "saturated" if saturated >= empty else "empty"
    return Check(
        "channel",
        plate.quality.channels[c],
        worst >= config.channel.share,
        worst,
        config.channel.share,
        None,
        f"{what} in {worst:.0%} of the wells",
        {"saturated": saturated, "empty": empty},
    )


def _percent(change: float) -> str:
    """`12 % less` of -.12."""
    return f"{abs(change):.0%} {'more' if change > 0 else 'less'}"
