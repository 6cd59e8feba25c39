"""Section: the plate, well by well: quality measures a channel, distances, tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from unidino_fast.figures.plates import ACROSS, draw_plate_maps
from unidino_fast.report.charts import amounts, largest, numbers, plate_map, plate_steps, signed
from unidino_fast.report.labels import shown
from unidino_fast.report.section import Chart, Choice, Option, Section
from unidino_fast.report.stills import Still, still

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from unidino_fast.report.gather import PlateResults
    from unidino_fast.report.labels import Labels
    from unidino_fast.report.section import Spec

    Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Measure:
    """A measure of quality control as `qc` names it, and as the page does."""

    name: str
    label: str
    unit: str
    kind: str = "amount"


_MEASURES = (
    _Measure("Intensity", "Mean intensity", "grey levels"),
    _Measure("Focus", "Focus (higher is sharper)", "score"),
    _Measure("Saturated", "Saturated pixels", "share", "share"),
    _Measure("EmptyTiles", "Empty area", "share", "share"),
    _Measure("Background", "Background", "grey levels"),
    _Measure("Signal", "Signal above background", "grey levels"),
    _Measure("GradientY", "Light, lower minus upper edge", "share of mean", "signed"),
    _Measure("GradientX", "Light, right minus left edge", "share of mean", "signed"),
)
_MOST_STILL = 11
"""Channels in the figure for readers without scripts."""
_DISTANCE = "distance, robust SD per feature"


def plate_section(results: PlateResults, labels: Labels) -> Section:
    """Maps of the plate."""
    columns: dict[str, list[float | None]] = {}
    distance = distances(results, labels)
    reference = "negative controls" if labels.controls is not None else "the plate's median"
    columns["d"] = numbers(distance)
    options = []
    for measure in _MEASURES:
        option = _option(results, measure, columns)
        if option is not None:
            options.append(option)
    options.append(_distance_option(results, labels, reference, columns))
    charts = [
        Chart(
            f"map-{index}",
            plate_map(results.positions, shown(channel), {}, tips=[]),
            f"Plate map of channel {shown(channel)}; the measure is chosen above it",
            plate_steps(results.positions),
        )
        for index, channel in enumerate(results.channels)
    ]
    whole, said = _whole_well_charts(results, reference, columns)
    return Section(
        key="plate",
        title="Plate maps",
        values={
            "channel_charts": [chart.key for chart in charts],
            "whole_charts": [chart.key for chart in whole],
            "said": said,
            "has_quality": len(options) > 1,
            "reference": reference,
            "controls_are": labels.controls_are,
            "n_controls": 0 if labels.controls is None else int(labels.controls.sum()),
        },
        charts=[*charts, *whole],
        choices=[Choice("measure", "Measure", options)],
        columns=columns,
        stills=[_still(results, distance, reference)],
    )


def _still(results: PlateResults, distance: Values, reference: str) -> Still:
    """Intensities, where they were measured, and distances."""
    maps = [(f"Distance to {reference}", distance, _DISTANCE)]
    for channel in results.channels[:_MOST_STILL]:
        values = results.measured("Intensity", channel)
        if values is not None:
            light = values.fill_null(float("nan")).to_numpy().astype(np.float64)
            maps.append((f"Mean intensity of {channel}", light, "grey levels"))
    return still(
        lambda figure: draw_plate_maps(figure, results.positions, maps),
        f"Plate maps: {', '.join(shown(title) for title, *_ in maps)}",
        66.0 * -(-len(maps) // ACROSS),
    )


def distances(results: PlateResults, labels: Labels, channel: str | None = None) -> Values:
    """Distance of each well's profile (N,) to the median of the negative controls.

    Root mean square over features of the difference, so that its unit is that of the profiles:
    robust standard deviations of the plate. Features that a well lacks are left out.
    """
    values = results.normalised
    if channel is not None:
        values = values[:, results.places(channel)]
    base = values if labels.controls is None else values[labels.controls]
    known = np.isfinite(base).any(axis=0)
    values, base = values[:, known], base[:, known]
    difference = values - np.nanmedian(base, axis=0)
    square = np.square(difference)
    count = np.isfinite(square).sum(axis=1)
    total = np.nansum(square, axis=1)
    mean = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
    found: Values = np.sqrt(mean)
    return found


def _option(
    results: PlateResults, measure: _Measure, columns: dict[str, list[float | None]]
) -> Option | None:
    """A measure of all channels that have it."""
    patches = {}
    for index, channel in enumerate(results.channels):
        values = results.measured(measure.name, channel)
        if values is None:
            continue
        field = f"q_{measure.name}_{index}"
        columns[field] = numbers(values)
        patches[f"map-{index}"] = _patch(field, measure, columns[field])
    return Option(measure.label, patches) if patches else None


def _patch(
    field: str, measure: _Measure, values: Sequence[float | None]
) -> list[tuple[list[str | int], object]]:
    title = f"{measure.label}, {measure.unit}"
    known = [value for value in values if value is not None]
    if measure.kind == "signed":
        color = signed(title, largest(known))
    elif measure.kind == "share":  # a scale from 0, so that a harmless trace is not painted loud
        color = amounts(title, low=0, high=max([0.01, *known]))
    else:
        color = amounts(title)
    return _painted(field, color, [[field, measure.label, measure.unit]])


def _painted(
    field: str, color: Spec, tips: list[list[str]]
) -> list[tuple[list[str | int], object]]:
    return [
        (["layer", 1, "encoding", "color"], {"field": field, **color}),
        (["usermeta", "tips"], tips),
    ]


def _distance_option(
    results: PlateResults, labels: Labels, reference: str, columns: dict[str, list[float | None]]
) -> Option:
    patches = {}
    for index, channel in enumerate(results.channels):
        field = f"d_{index}"
        columns[field] = numbers(distances(results, labels, channel))
        tips = [[field, f"Distance to {reference}", "robust SD per feature"]]
        patches[f"map-{index}"] = _painted(field, amounts(_DISTANCE, low=0), tips)
    return Option(f"Profile distance to {reference}", patches)


def _whole_well_charts(
    results: PlateResults, reference: str, columns: dict[str, list[float | None]]
) -> tuple[list[Chart], list[str]]:
    """Maps that are not of one channel; and what needs no map, a line each."""
    said: list[str] = []
    charts = [
        Chart(
            "map-distance",
            plate_map(
                results.positions,
                "Profile distance, all channels",
                {"field": "d", **amounts(_DISTANCE, low=0)},
                tips=[["d", f"Distance to {reference}", "robust SD per feature"]],
            ),
            f"Plate map of each profile's distance to {reference}",
            plate_steps(results.positions),
        )
    ]
    for name, field, title in (
        ("Metadata_n_tiles", "t", "Tiles embedded per channel"),
        ("Metadata_n_tiles_dropped", "e", "Empty tiles per channel"),
    ):
        if name not in results.profiles.columns:
            continue
        columns[field] = numbers(results.profiles[name])
        known = [value for value in columns[field] if value is not None]
        if len(set(known)) == 1:  # a map of one colour says no more than this
            said.append(f"{title}: {known[0]:g} in every well.")
            continue
        charts.append(
            Chart(
                f"map-{field}",
                plate_map(
                    results.positions,
                    title,
                    {"field": field, **amounts("tiles", low=0)},
                    tips=[[field, title, "tiles"]],
                ),
                f"Plate map: {title.lower()}",
                plate_steps(results.positions),
            )
        )
    return charts, said
