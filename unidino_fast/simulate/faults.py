"""What can go wrong with a plate, planted into a simulated one for quality control to find."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from unidino_fast.errors import UsageError
from unidino_fast.names import parse_well, row_index

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from unidino_fast.names import WellName


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Faults of a simulated plate; none by default.

    Attributes:
        defocused: wells (`B03`) out of focus, in all channels.
        defocus: by how much: sigma in pixels of the blur that light suffers before the camera.
        saturated: wells whose `saturated_channel` was exposed too long.
        saturated_channel: the channel of these; the first one by default.
        exposure: times as long.
        dead_rows: rows (`C`) that hold nothing: no cells, no stain.
        swapped: wells in which `swapped_channels` stand in each other's place.
        swapped_channels: the two; the first and the last one by default.
        bright_edge: share of light that wells at the rim of the plate gain.
        unevenness: of the light in all fields: that at the right edge less that at the left, over
            the mean; 2 at most.
    """

    defocused: tuple[str, ...] = ()
    defocus: float = 5.0
    saturated: tuple[str, ...] = ()
    saturated_channel: str | None = None
    exposure: float = 25.0
    dead_rows: tuple[str, ...] = ()
    swapped: tuple[str, ...] = ()
    swapped_channels: tuple[str, str] | None = None
    bright_edge: float = 0.0
    unevenness: float = 0.0

    def check(self, rows: int, columns: int, channels: Sequence[str]) -> None:
        """Raises UsageError where a fault cannot be planted on such a plate."""
        wells = (*self.defocused, *self.saturated, *self.swapped)
        for name in wells:
            well = parse_well(name)
            if well is None or well.row >= rows or well.column > columns:
                raise UsageError(f"well {name!r} is not on a plate of {rows} x {columns}: use A01")
        for row in self.dead_rows:
            if not (row.isascii() and row.isalpha() and row_index(row) < rows):
                raise UsageError(f"row {row!r} is not on a plate of {rows} rows: use A")
        named = (self.saturated_channel, *(self.swapped_channels or ()))
        for channel in named:
            if channel is not None and channel not in channels:
                raise UsageError(f"channel {channel!r} is not stored: use {', '.join(channels)}")
        if self.swapped and len(set(self.swapped_pair(channels))) < 2:
            raise UsageError("swapped channels must be two: store two channels or more")
        for name, value, most in (
            ("defocus", self.defocus, 100),
            ("exposure", self.exposure, 1000),
            ("bright_edge", self.bright_edge, 100),
            ("unevenness", self.unevenness, 2),
        ):
            if not 0 <= value <= most:
                raise UsageError(f"{name} {value} is outside its range: use 0 to {most}")

    def swapped_pair(self, channels: Sequence[str]) -> tuple[str, str]:
        """The two channels that are swapped."""
        return self.swapped_channels or (channels[0], channels[-1])

    def is_dead(self, well: WellName) -> bool:
        """Whether a well lies in a dead row."""
        return any(row_index(row) == well.row for row in self.dead_rows)


def among(well: WellName, names: Iterable[str]) -> bool:
    """Whether a well is one of those named, however they are written."""
    return any(parse_well(name) == well for name in names)


NO_FAULTS = Faults()
