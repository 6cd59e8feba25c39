"""What quality control says of one plate: flagged wells, faults of the whole, lines for people."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from unidino_fast.errors import TableError
from unidino_fast.names import counted, one_line, parse_well
from unidino_fast.qc.checks import Check, Plate, plate_checks
from unidino_fast.qc.columns import Quality, of_wells
from unidino_fast.qc.controls import contents_of, control_checks, replicate_check
from unidino_fast.qc.flags import Flag, flags_of, light_of
from unidino_fast.qc.measures import MEASURES
from unidino_fast.qc.robust import mad, median
from unidino_fast.qc.thresholds import KINDS, Kind, Thresholds, shipped_thresholds

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

    from unidino_fast.names import WellName

_FORMAT = 1
_SHOWN = 12
"""Wells that a line names."""
_WORDS: dict[Kind, str] = {
    "defocused": "out of focus",
    "saturated": "saturated",
    "empty": "empty",
    "background": "flagged for a raised background",
    "swapped": "suspected of swapped channels",
}
_DIGITS = 6
"""Significant ones that are written: the last bits of products of matrices differ by machine."""


@dataclass(frozen=True, slots=True)
class PlateQc:
    """The judgement of a plate.

    Attributes:
        plate: its name.
        channels: labels.
        flagged: well, time point (None where there is one alone) and flags of each row with flags.
        n_wells: rows that were judged.
        checks: everything that was looked for on the plate as a whole.
        not_assessed: what could not be looked for, and why.
        statistics: median and MAD over wells of each measure, channel by channel.
        config: limits.
    """

    plate: str
    channels: tuple[str, ...]
    flagged: tuple[tuple[str, int | None, tuple[Flag, ...]], ...]
    n_wells: int
    checks: tuple[Check, ...]
    not_assessed: dict[str, str]
    statistics: dict[str, dict[str, dict[str, float | None]]]
    config: Thresholds

    @property
    def warnings(self) -> list[str]:
        """A line for each kind of flag and each fault of the plate."""
        lines = []
        for kind in KINDS:
            wells = [name for name, _, flags in self.flagged if any(f.kind == kind for f in flags)]
            named = list(dict.fromkeys(wells))
            if named:
                more = f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
                wells_are = "1 well is" if len(named) == 1 else f"{len(named)} wells are"
                shown = ", ".join(named[:_SHOWN])
                lines.append(f"qc: {wells_are} {_WORDS[kind]}: {shown}{more}")
        merged: dict[tuple[str, str | None], list[Check]] = {}
        for check in self.checks:
            if check.found:
                merged.setdefault((check.check, check.where), []).append(check)
        return lines + [one_line(f"qc: {_joined(checks)}") for checks in merged.values()]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; what `qc.json` holds."""
        drop = set(self.config.drop)
        wells = [
            {
                "well": well,
                "time": time,
                "flagged": any(flag.kind in drop for flag in flags),
                "flags": [asdict(flag) for flag in flags],
            }
            for well, time, flags in self.flagged
        ]
        document = {
            "format": _FORMAT,
            "plate": self.plate,
            "channels": list(self.channels),
            "measures": list(MEASURES),
            "n_wells": self.n_wells,
            "n_flagged": sum(bool(well["flagged"]) for well in wells),
            "counts": {
                kind: sum(any(f.kind == kind for f in flags) for *_, flags in self.flagged)
                for kind in KINDS
            },
            "wells": wells,
            "statistics": self.statistics,
            "checks": [_check_document(check) for check in self.checks],
            "not_assessed": self.not_assessed,
            "warnings": self.warnings,
        }
        rounded: dict[str, Any] = _rounded(document)
        return {**rounded, "thresholds": self.config.describe()}


def plate_qc(
    wells: pl.DataFrame, profiles: pl.DataFrame | None = None, config: Thresholds | None = None
) -> PlateQc:
    """Judges a plate by the measures of its wells.

    Args:
        wells: the columns of `wells.parquet` (or `fields.parquet`) of one plate. Their labels tell
            treatments from position.
        profiles: the same wells normalised, whose labels and features tell whether controls are
            apart and replicates agree; without them that is not assessed.
        config: from `qc.read_thresholds`; the limits of the package by default.

    Raises:
        TableError: the tables have no measures, hold several plates or other wells than each other,
            or a query of the configuration does not fit them.
        UsageError: a query of the configuration is none.
    """
    config = config or shipped_thresholds()
    judged = of_wells(wells)
    names = judged["Metadata_Plate"].unique().to_list()
    if len(names) != 1:
        raise TableError(f"the table holds {len(names)} plates: give one at a time")
    flags = flags_of(judged, config)
    times = judged["Metadata_Time"] if "Metadata_Time" in judged.columns else [None] * len(flags)
    flagged = tuple(
        (well, time, tuple(own))
        for well, time, own in zip(judged["Metadata_Well"], times, flags, strict=True)
        if own
    )
    labelled = wells if profiles is None else profiles
    plate, labels = _plate(judged, {well for well, *_ in flagged}, labelled, config)
    checks, not_assessed = _checks(plate, None if profiles is None else labels, config)
    return PlateQc(
        plate=str(names[0]),
        channels=plate.quality.channels,
        flagged=flagged,
        n_wells=len(flags),
        checks=tuple(checks),
        not_assessed=not_assessed,
        statistics=_statistics(plate.quality),
        config=config,
    )


def _plate(
    judged: pl.DataFrame, flagged: set[str], labelled: pl.DataFrame, config: Thresholds
) -> tuple[Plate, pl.DataFrame]:
    """One row a well (where there are time points, the median over them), and its labels."""
    still = of_wells(judged.drop("Metadata_Time", strict=False))
    positions = []
    for name in still["Metadata_Well"]:
        position = parse_well(str(name))
        if position is None:
            raise TableError(f"well {name!r} is none: write A01")
        positions.append(position)
    marked = np.array([name in flagged for name in still["Metadata_Well"]], bool)
    labels = _labels(positions, labelled)
    holds = contents_of(labels, config)
    return Plate(tuple(positions), Quality.of(still), marked, holds), labels


def _checks(
    plate: Plate, labels: pl.DataFrame | None, config: Thresholds
) -> tuple[list[Check], dict[str, str]]:
    checks: list[Check] = []
    not_assessed: dict[str, str] = {}
    n_sound = int((~plate.flagged).sum())
    if n_sound >= config.min_wells:
        checks += plate_checks(plate, config)
    else:
        not_assessed["plate"] = (
            f"{counted(n_sound, 'well')} without flags: too few to compare, {config.min_wells} are"
            " needed"
        )
    if labels is None:
        not_assessed |= dict.fromkeys(("controls", "replicates"), "no profiles were given")
        return checks, not_assessed
    sound = ~plate.flagged
    controls = control_checks(labels, plate.quality, light_of(plate.quality), sound, config)
    replicates = replicate_check(labels, sound, config)
    if isinstance(controls, str):
        not_assessed["controls"] = controls
    else:
        checks += controls
    if isinstance(replicates, str):
        not_assessed["replicates"] = replicates
    else:
        checks.append(replicates)
    return checks, not_assessed


def _labels(wells: Sequence[WellName], profiles: pl.DataFrame) -> pl.DataFrame:
    """Rows in the order of the wells; of time points or fields, the first."""
    if "Metadata_Well" not in profiles.columns:
        raise TableError("column Metadata_Well is missing: give a table of profiles")
    first = profiles.unique("Metadata_Well", keep="first", maintain_order=True)
    rows = {parse_well(str(name)): row for row, name in enumerate(first["Metadata_Well"])}
    if set(rows) != set(wells):
        raise TableError("wells and profiles hold different wells: give those of one plate")
    return first[[rows[well] for well in wells]]


def _statistics(quality: Quality) -> dict[str, dict[str, dict[str, float | None]]]:
    middle, spread = median(quality.values), mad(quality.values)
    return {
        channel: {
            measure: {"median": _number(middle[c, m]), "mad": _number(spread[c, m])}
            for m, measure in enumerate(MEASURES)
        }
        for c, channel in enumerate(quality.channels)
    }


def _joined(checks: Sequence[Check]) -> str:
    """One line for what several channels show alike."""
    channels = [check.channel for check in checks if check.channel is not None]
    worst = max(checks, key=lambda check: check.value or 0)
    if not channels:
        return worst.line
    most = f", most {worst.channel}" if len(channels) > 1 else ""
    return f"{worst.line} ({', '.join(channels)}{most})"


def _check_document(check: Check) -> dict[str, Any]:
    document = asdict(check)
    document.pop("line")
    return document


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _rounded(value: Any) -> Any:
    """The same with numbers of `_DIGITS` significant digits; null where they are not finite."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.{_DIGITS}g}") if np.isfinite(value) else None
    return value
