"""Which channels tell the classes of a label: stacked bars of the most important features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from unidino_fast.errors import TableError
from unidino_fast.evaluation.channels import TOP
from unidino_fast.figures.style import HATCHES, OKABE_ITO, PALE, add_legend, shown
from unidino_fast.names import distinct_names, one_line
from unidino_fast.profiles.table import numbered
from unidino_fast.results import feature_columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

    from unidino_fast.evaluation import ChannelResult

NO_CHANNEL = "no channel"
_MOST_CLASSES = 40


def named_by_channel(profiles: pl.DataFrame, channels: Sequence[str]) -> pl.DataFrame:
    """Profiles whose features are called by their channel, as `channel_importance` needs them.

    A feature belongs to the channel that one of the parts of its name between `_` is, such as
    `CorrDAPI` in CellProfiler's `Nuclei_Intensity_MeanIntensity_CorrDAPI`; one without such a part
    to none.

    Raises:
        TableError: no feature is of a channel.
    """
    names = feature_columns(profiles)
    of: dict[str, list[str]] = {channel: [] for channel in (*channels, NO_CHANNEL)}
    for name in names:
        parts = set(name.split("_"))
        of[next((channel for channel in channels if channel in parts), NO_CHANNEL)].append(name)
    for channel in channels:
        if not of[channel]:
            raise TableError(
                f"no feature is of channel {one_line(channel)}: name parts of the features' names,"
                f" as between the _ of {one_line(names[0])}"
            )
    renamed = {
        old: new
        for channel, found in of.items()
        for old, new in zip(found, numbered(channel, len(found)), strict=True)
    }
    metadata = profiles.drop(names)
    return metadata.hstack(profiles.select(list(renamed)).rename(renamed))


def draw_importance(figure: Any, result: ChannelResult, title: str) -> Any:
    """A bar a class, a colour a channel; returns the axes.

    Raises:
        TableError: too many classes for one figure.
    """
    if len(result.counts) > _MOST_CLASSES:
        raise TableError(
            f"{len(result.counts)} values of {title} make more bars than {_MOST_CLASSES}: use"
            " another --label, or narrow the rows with --where"
        )
    classes = distinct_names(result.counts, shown)
    channels = distinct_names(result.channels, shown)
    axes = figure.subplots()
    places = np.arange(len(classes))
    left = np.zeros(len(classes))
    handles = []
    for number, channel in enumerate(result.channels):
        counts = np.array([result.counts[name][channel] for name in classes], dtype=float)
        handles.append(
            axes.barh(
                places,
                counts,
                0.78,
                left=left,
                color=PALE if channel == NO_CHANNEL else OKABE_ITO[number % len(OKABE_ITO)],
                hatch=HATCHES[number // len(OKABE_ITO) % len(HATCHES)],
                edgecolor="white",
                linewidth=0.4,
            )
        )
        left += counts
    axes.set_yticks(places, [f"{classes[name]} (n = {result.n_rows[name]})" for name in classes])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.margins(y=0.01)
    axes.set(xlabel=f"of the {TOP} most important features, number by channel", ylabel=title)
    add_legend(
        figure, handles, list(channels.values()), "channel", loc="outside right upper",
    )  # fmt: skip
    return axes
