"""What is in the wells of plates: labels to learn from, and wells that are held out."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from unidino_fast.columns import find_column
from unidino_fast.errors import TrainingError, UnidinoError, UsageError
from unidino_fast.plate import open_plate
from unidino_fast.platemap import join_platemap, read_platemap
from unidino_fast.training.sources import PlateSource

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from unidino_fast.plate_model import Plate
    from unidino_fast.training.config import SourceConfig
    from unidino_fast.training.config_labels import LoraConfig
    from unidino_fast.training.sources import Box, Place, Source


def wells_table(plate: Plate, platemap: pl.DataFrame) -> pl.DataFrame:
    """One row a well: plate, well, row and column as `embed` writes them, and the platemap's.

    Raises:
        TableError: the platemap does not fit the plate.
    """
    wells = pl.DataFrame(
        {
            "Metadata_Plate": [plate.name] * len(plate.wells),
            "Metadata_Well": [well.name for well in plate.wells],
            "Metadata_Row": [well.position.row_letters for well in plate.wells],
            "Metadata_Column": [well.position.column for well in plate.wells],
        }
    )
    return join_platemap(wells, platemap)[0]


def is_held_out(config: LoraConfig) -> pl.Expr:
    """Whether a row of wells lies in a row or column of the plate that is held out."""
    rows = pl.col("Metadata_Row").is_in(list(config.hold_out_rows))
    return rows | pl.col("Metadata_Column").is_in(list(config.hold_out_columns))


def refuse_leaks(configs: Sequence[SourceConfig], held_out: Sequence[str]) -> None:
    """Raises where one plate stands under two names, of which one is held out.

    Raises:
        UsageError: names both.
    """
    places: dict[str, SourceConfig] = {}
    for config in sorted(configs, key=lambda one: one.name not in held_out):
        path = config.path or ""
        place = path.rstrip("/") if "://" in path else str(Path(path).resolve())
        if config.name in held_out:
            places[place] = config
        elif place in places:
            raise UsageError(
                f"datasets {places[place].name} and {config.name} are one plate, {path}, but"
                f" {places[place].name} is held out: take one of them out"
            )


class Part:
    """Some planes of a source, as a source of their own."""

    n_small = 0

    def __init__(self, name: str, source: Source, planes: Sequence[int]) -> None:
        self.name = name
        self._source = source
        self._planes = list(planes)

    def __len__(self) -> int:
        return len(self._planes)

    def shape(self, index: int) -> tuple[int, int]:
        """See `Source`."""
        return self._source.shape(self._planes[index])

    def crops(self, index: int, boxes: Sequence[Box]) -> list[NDArray[Any]]:
        """See `Source`."""
        return self._source.crops(self._planes[index], boxes)

    def plane(self, index: int) -> NDArray[Any]:
        """See `Source`."""
        return self._source.plane(self._planes[index])

    def bounds(self, index: int) -> tuple[float, float]:
        """See `Source`."""
        return self._source.bounds(self._planes[index])

    def describe(self, index: int) -> str:
        """See `Source`."""
        return self._source.describe(self._planes[index])

    def place(self, index: int) -> Place:
        """See `Source`."""
        return self._source.place(self._planes[index])


@dataclass(frozen=True)
class Labelled:
    """Training images, a source for each plate, label and channel: each weighs the same.

    Attributes:
        sources: of the loop; the number of a batch's dataset is a place in the next two.
        label_of: number of each source's label.
        channel_of: number of each source's channel.
        labels: names, sorted.
        channels: names, sorted.
        digest: SHA-256 of what was put where.
    """

    sources: list[Source]
    label_of: tuple[int, ...]
    channel_of: tuple[int, ...]
    labels: tuple[str, ...]
    channels: tuple[str, ...]
    digest: str


def labelled_sources(
    configs: Sequence[SourceConfig], sources: Sequence[Source], lora: LoraConfig
) -> Labelled:
    """Cuts plates up by label and channel, without the wells that are held out or have no label.

    Raises:
        TrainingError: a dataset is no plate, its platemap does not fit, or there are fewer than
            two labels: names the dataset.
    """
    parts: dict[tuple[str, str, str], tuple[Source, list[int]]] = {}
    for config, source in zip(configs, sources, strict=True):
        if not isinstance(source, PlateSource):
            raise TrainingError(
                f"dataset {config.name} is no plate, which method lora needs for its wells: convert"
                " the images first (unidino-fast convert)"
            )
        for key, planes in _by_label(config, source, lora).items():
            parts[(config.name, *key)] = (source, planes)
    labels = tuple(sorted({label for _, label, _ in parts}))
    channels = tuple(sorted({channel for _, _, channel in parts}))
    if len(labels) < 2:
        raise TrainingError(
            f"all wells to train on have the label {', '.join(labels) or 'of nothing'}: label two"
            " or more, or hold out fewer"
        )
    keys = sorted(parts)
    return Labelled(
        sources=[Part("/".join(key), *parts[key]) for key in keys],
        label_of=tuple(labels.index(label) for _, label, _ in keys),
        channel_of=tuple(channels.index(channel) for *_, channel in keys),
        labels=labels,
        channels=channels,
        digest=hashlib.sha256(repr([(k, parts[k][1]) for k in keys]).encode()).hexdigest(),
    )


def _by_label(
    config: SourceConfig, source: PlateSource, lora: LoraConfig
) -> dict[tuple[str, str], list[int]]:
    """Planes of each label and channel."""
    try:
        plate = open_plate(config.path or "")
        wells = wells_table(plate, read_platemap(config.platemap or ""))
        column = find_column(wells, config.label or "")
    except UnidinoError as error:
        raise TrainingError(f"dataset {config.name}: {error}") from error
    kept = wells.filter(~is_held_out(lora) & pl.col(column).is_not_null())
    if kept.is_empty():
        raise TrainingError(
            f"dataset {config.name}: no well to train on has a {column}: hold out fewer, or"
            " correct its platemap"
        )
    label_of = dict(zip(kept["Metadata_Well"], kept[column].cast(pl.String), strict=True))
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index in range(len(source)):
        place = source.place(index)
        if place.well in label_of:
            found[label_of[place.well], place.channel].append(index)
    return found
