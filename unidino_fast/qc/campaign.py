"""Plates of one output folder against each other: channels that are swapped, or unlike elsewhere.

Letters: P plates, C channels, L looks.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from unidino_fast.files import write_json
from unidino_fast.names import QUALITY, one_line
from unidino_fast.qc.flags import LEAST_SPREAD, root_mean_square
from unidino_fast.qc.robust import mad, median
from unidino_fast.qc.thresholds import Thresholds, shipped_thresholds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Looks = NDArray[np.float64]

_FORMAT = 1
_LARGEST = 1 << 26
"""Bytes of a plate's file; a plate of 1536 wells with flags everywhere stays below a tenth."""
_LEAST_LIGHT = 1e-6


@dataclass(frozen=True, slots=True)
class Unlike:
    """A channel of a plate that is unlike the same channel of the other plates.

    Attributes:
        check: `swap` where it looks like another one, and that one like it; else `unlike`.
        other: the channel that it looks like.
        value: how far it is off; of a swap, over how far it is from the other one.
        limit: beyond which it counts.
    """

    plate: str
    channel: str
    check: Literal["swap", "unlike"]
    other: str | None
    value: float
    limit: float

    def line(self) -> str:
        """For people."""
        if self.check == "swap":
            what = f"looks like channel {self.other} of the other plates, and that like it"
            return one_line(f"qc: plate {self.plate}: channel {self.channel} {what}: swapped?")
        off = f"is unlike that of the other plates ({self.value:.1f} times their spread)"
        return one_line(f"qc: plate {self.plate}: channel {self.channel} {off}")


@dataclass(frozen=True, slots=True)
class Campaign:
    """Plates that were compared, and what is unlike on them."""

    plates: tuple[str, ...]
    checks: tuple[Unlike, ...]
    unread: tuple[str, ...] = ()

    @property
    def warnings(self) -> list[str]:
        """A line each; of two swapped channels one."""
        lines = [
            f"qc: {name} cannot be read and takes no part in the comparison of plates: embed it"
            " again"
            for name in self.unread
        ]
        told = (c for c in self.checks if c.check == "unlike" or c.channel < (c.other or ""))
        return [*lines, *(check.line() for check in told)]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        checks = [
            {
                "plate": check.plate,
                "channel": check.channel,
                "other": check.other,
                "check": check.check,
                "value": float(f"{check.value:.6g}"),
                "limit": check.limit,
            }
            for check in self.checks
        ]
        return {
            "format": _FORMAT,
            "plates": list(self.plates),
            "checks": checks,
            "warnings": self.warnings,
        }


def compare_folder(out: Path, config: Thresholds | None = None) -> Campaign | None:
    """Compares the plates of an output folder and writes what is found into its `qc.json`.

    Returns:
        None where it holds fewer plates than `plates.min_plates`.

    Raises:
        OutputError: the file cannot be written.
    """
    config = config or shipped_thresholds()
    documents, unread = {}, []
    for file in sorted(out.glob(f"*/{QUALITY}")):
        statistics = _read(file)
        if statistics is None:
            unread.append(f"{file.parent.name}/{QUALITY}")
        else:
            documents[file.parent.name] = statistics
    if len(documents) < config.plates.min_plates:
        return None
    found = Campaign(tuple(documents), tuple(compare_plates(documents, config)), tuple(unread))
    write_json(found.to_dict(), out / QUALITY)
    return found


def compare_plates(
    statistics: Mapping[str, Mapping[str, Any]], config: Thresholds | None = None
) -> list[Unlike]:
    """What is unlike on some plates.

    Each plate is compared with the others that have the same channels, where these are enough.

    Args:
        statistics: of each plate by name: the `statistics` of its `qc.json`.
        config: from `read_thresholds`; that of the package by default.
    """
    config = config or shipped_thresholds()
    sets: dict[tuple[str, ...], list[str]] = {}
    for name, channels in statistics.items():
        sets.setdefault(tuple(sorted(channels)), []).append(name)
    found: list[Unlike] = []
    for labels, plates in sets.items():
        if len(plates) < config.plates.min_plates:
            continue
        looks = np.stack([[_looks(statistics[name][c]) for c in labels] for name in plates])
        within = np.stack([[_spreads(statistics[name][c]) for c in labels] for name in plates])
        for at, name in enumerate(plates):
            others = np.arange(len(plates)) != at
            spread = np.maximum(
                mad(looks[others]), config.plates.least * np.nan_to_num(median(within[others]))
            )
            spread = np.maximum(spread, LEAST_SPREAD)
            usual = median(looks[others])
            with np.errstate(invalid="ignore"):
                apart = root_mean_square((looks[at][:, None] - usual) / spread)  # (C, C)
            found += _judged(name, labels, apart, config)
    return found


def _judged(
    plate: str, labels: Sequence[str], apart: NDArray[Any], config: Thresholds
) -> list[Unlike]:
    """What is wrong with the channels of a plate."""
    own = np.diagonal(apart)
    with np.errstate(invalid="ignore"):
        ratio = own[:, None] / np.maximum(apart, 1.0)
    fits = (apart <= config.swapped.fits) & (ratio >= config.swapped.unlike)
    both = fits & fits.T
    found = []
    for c, channel in enumerate(labels):
        if both[c].any():
            other = int(np.argmax(np.where(both[c], ratio[c], -1)))
            value, limit = float(ratio[c, other]), config.swapped.unlike
            found.append(Unlike(plate, channel, "swap", labels[other], value, limit))
        elif np.isfinite(own[c]) and own[c] > config.plates.unlike:
            limit = config.plates.unlike
            found.append(Unlike(plate, channel, "unlike", None, float(own[c]), limit))
    return found


def _looks(channel: Mapping[str, Any]) -> list[float]:
    """As `flags.looks_of`, of the medians of a plate."""
    value = {name: _number(channel[name]["median"]) for name in _NEEDED}
    signal = np.log(max(value["Signal"], _LEAST_LIGHT))
    light = np.log(max(value["Intensity"] - value["Background"], _LEAST_LIGHT))
    return [signal, light - signal, np.log1p(max(value["Background"], 0)), value["Focus"]]


_NEEDED = ("Intensity", "Background", "Signal", "Focus")


def _spreads(channel: Mapping[str, Any]) -> list[float]:
    """MADs of the looks within a plate, as near as its statistics tell."""
    middle = {name: _number(channel[name]["median"]) for name in _NEEDED}
    spread = {name: _number(channel[name]["mad"]) for name in _NEEDED}
    signal = spread["Signal"] / max(middle["Signal"], _LEAST_LIGHT)
    background = spread["Background"] / (1 + max(middle["Background"], 0))
    return [signal, signal, background, spread["Focus"]]


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _read(file: Path) -> dict[str, Any] | None:
    """The statistics of a plate's file; None where it is none of ours."""
    try:
        if file.stat().st_size > _LARGEST:
            return None
        statistics = json.loads(file.read_bytes())["statistics"]
        for channel in statistics.values():
            _looks(channel), _spreads(channel)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return dict(statistics)
