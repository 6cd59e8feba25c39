"""Plate + options -> the work to do, as data. Pure: no I/O, everything wrong is found here.

A task is one well: small enough to send anywhere, large enough to be worth sending.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unidino_fast.errors import PlateError, UsageError

if TYPE_CHECKING:
    from unidino_fast.config import EmbedOptions
    from unidino_fast.plate_model import Field, Plate, Well


_METADATA_PREFIX = "Metadata_"  # as in `results`, which stands above this module


@dataclass(frozen=True, slots=True)
class TileGrid:
    """Square tiles from the top-left corner; remainders at the right and bottom are dropped.

    Source: Morelli et al. 2025 (224 px tiles, stride 224; 1080 px give 4 x 4).
    """

    tile: int
    stride: int

    def count(self, length: int) -> int:
        """Tiles along an edge of `length` pixels."""
        return (length - self.tile) // self.stride + 1 if length >= self.tile else 0

    def n_tiles(self, height: int, width: int) -> int:
        """Tiles of an image."""
        return self.count(height) * self.count(width)


@dataclass(frozen=True, slots=True)
class FieldTask:
    """One field at one time point: what to read, and where its channels go.

    Attributes:
        channels: indices along the image's channel axis to embed, in output order.
        labels: their names.
        n_tiles: tiles of one channel.
    """

    field: Field
    time: int
    channels: tuple[int, ...]
    labels: tuple[str, ...]
    n_tiles: int


def channels_to_read(task: FieldTask, options: EmbedOptions) -> tuple[int, ...]:
    """Channels to read, each once: the first one decides which tiles are empty."""
    channels = task.channels if options.keep_empty else (0, *task.channels)
    return tuple(dict.fromkeys(channels))


@dataclass(frozen=True, slots=True)
class WellTask:
    """One well: the unit of work, of a part file and of resuming."""

    well: Well
    fields: tuple[FieldTask, ...]

    @property
    def name(self) -> str:
        """`A01`."""
        return self.well.name

    @property
    def n_tiles(self) -> int:
        """Tiles of all fields and channels."""
        return sum(task.n_tiles * len(task.channels) for task in self.fields)


@dataclass(frozen=True, slots=True)
class Plan:
    """All wells to embed and the channels that their features belong to, in output order."""

    wells: tuple[WellTask, ...]
    channels: tuple[str, ...]
    has_time: bool

    @property
    def n_fields(self) -> int:
        """Fields of all wells, each time point counted."""
        return sum(len(well.fields) for well in self.wells)

    @property
    def n_tiles(self) -> int:
        """Tiles of all wells."""
        return sum(well.n_tiles for well in self.wells)


def plan_plate(plate: Plate, options: EmbedOptions, *, patch: int = 1) -> Plan:
    """Plans the embedding of a plate.

    Args:
        plate: the plate, opened with the acquisition of the options.
        options: what to embed and how.
        patch: patch edge of the backbone; suggested tiles are multiples of it.

    Raises:
        UsageError: a channel or a z plane does not exist, or a tile does not fit a field.
        PlateError: a channel's name would make its features metadata.
    """
    channels = _chosen_channels(plate, options)
    for label in channels:
        if label.startswith(_METADATA_PREFIX):
            raise PlateError(
                f"channel {label!r} of plate {plate.name} starts with {_METADATA_PREFIX}, which"
                " marks what is no feature: rename it in the plate, or leave it out by --channels"
            )
    grid = TileGrid(options.tile, options.step)
    wells = []
    for well in plate.wells:
        fields = tuple(
            task
            for field in well.fields
            for task in _field_tasks(field, well, channels, grid, options, patch)
        )
        if fields:
            wells.append(WellTask(well, fields))
    has_time = any(field.length("t") > 1 for field in plate.fields)
    return Plan(tuple(wells), channels, has_time)


def _chosen_channels(plate: Plate, options: EmbedOptions) -> tuple[str, ...]:
    if options.channels is None:
        return plate.channels
    if not options.channels or len(set(options.channels)) != len(options.channels):
        raise UsageError(
            f"channels {','.join(options.channels) or '(none)'} are empty or repeat:"
            f" choose each once among {', '.join(plate.channels)}"
        )
    for name in options.channels:
        if name not in plate.channels:
            near = difflib.get_close_matches(name, plate.channels, n=1, cutoff=0.6)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise UsageError(
                f"channel {name!r} is not in plate {plate.name}{hint}:"
                f" choose among {', '.join(plate.channels)}"
            )
    return tuple(name for name in plate.channels if name in options.channels)


def _field_tasks(
    field: Field,
    well: Well,
    channels: tuple[str, ...],
    grid: TileGrid,
    options: EmbedOptions,
    patch: int,
) -> list[FieldTask]:
    labels = tuple(label for label in channels if label in field.channels)
    if not labels:
        return []
    name = f"{well.name}/{field.site}"
    size = f"{field.height} x {field.width} px"
    n_tiles = grid.n_tiles(field.height, field.width)
    if n_tiles == 0:
        fits = min(field.height, field.width) // patch * patch
        remedy = (
            f"use --tile {fits} or smaller" if fits else f"the backbone needs at least {patch} px"
        )
        raise UsageError(f"tile {grid.tile} does not fit field {name} of {size}: {remedy}")
    if isinstance(options.z, int) and options.z >= field.length("z"):
        raise UsageError(
            f"z plane {options.z} is not in field {name}:"
            f" it has planes 0 to {field.length('z') - 1}"
        )
    indices = tuple(field.channels.index(label) for label in labels)
    return [FieldTask(field, time, indices, labels, n_tiles) for time in range(field.length("t"))]
