"""Section: which treatments look alike, by Pearson correlation of their mean profiles, clustered.

G groups. Average linkage on 1 - r with optimal leaf order, as in Morelli et al. 2025.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from unidino_fast.evaluation.table import codes_of
from unidino_fast.figures.similarity import correlations, draw_similarity, leaf_order
from unidino_fast.figures.style import shown as in_font
from unidino_fast.names import distinct_names
from unidino_fast.report.labels import shown, stem
from unidino_fast.report.section import Chart, Section
from unidino_fast.report.stills import Still, still

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

    from unidino_fast.report.gather import PlateResults
    from unidino_fast.report.labels import Labels

    Values = NDArray[np.float64]

_MOST = 320
"""Groups in one map: more cells than their square are neither drawn quickly nor told apart."""
_FEWEST = 3
_NAME = 34


def similarity_section(results: PlateResults, labels: Labels) -> Section | None:
    """Maps by compound and by mechanism; None where nothing is labelled."""
    charts: list[Chart] = []
    data: dict[str, list[Any]] = {}
    captions: dict[str, str] = {}
    warnings: list[str] = []
    stills: list[Still] = []
    for key, column in (("compound", labels.compound), ("moa", labels.moa)):
        if column is None:
            continue
        names, means, wells = group_means(results.profiles[column], results.filled)
        if len(names) < _FEWEST:
            continue
        if len(names) > _MOST:
            far = np.sort(np.argsort(-np.linalg.norm(means, axis=1), kind="stable")[:_MOST])
            warnings.append(
                f"the similarity map shows the {_MOST} of {len(names)} values of {stem(column)}"
                " that lie farthest from the plate's median"
            )
            names, means, wells = [names[i] for i in far], means[far], [wells[i] for i in far]
        correlation = correlations(means)
        order = leaf_order(correlation)
        ordered = [names[i] for i in order]
        data[f"sim-{key}"] = [
            round(100 * float(r)) for r in correlation[np.ix_(order, order)].ravel()
        ]
        data[f"names-{key}"] = [
            {"i": place, "name": names[i], "n": wells[i]} for place, i in enumerate(order)
        ]
        charts.append(
            Chart(
                f"similarity-{key}",
                _spec(key, ordered, stem(column)),
                f"Clustered correlation of mean profiles by {stem(column)}, {len(names)} values",
                (len(names), len(names)),
            )
        )
        stills.append(_still(means, names, stem(column)))
        captions[f"similarity-{key}"] = f"By {stem(column)}: {len(names)} values"
    if not charts:
        return None
    return Section(
        key="similarity",
        title="What looks alike",
        values={"charts": captions},
        charts=charts,
        data=data,
        stills=stills,
        warnings=warnings,
    )


def _still(means: Values, names: list[str], title: str) -> Still:
    drawn = [in_font(name) for name in names]
    return still(
        lambda figure: draw_similarity(figure, means, drawn, None, (in_font(title), "")),
        f"Clustered correlation of mean profiles by {title}",
        150.0,
    )


def group_means(labels: pl.Series, values: Values) -> tuple[list[str], Values, list[int]]:
    """Distinct names, mean rows (G, F) and numbers of rows; rows without a label take no part."""
    known = labels.is_not_null().to_numpy()
    codes, distinct = codes_of(labels.filter(labels.is_not_null()))
    counts = np.bincount(codes, minlength=len(distinct))
    sums = np.zeros((len(distinct), values.shape[1]))
    np.add.at(sums, codes, values[known])
    names = distinct_names(distinct, partial(shown, longest=_NAME))
    return [names[value] for value in distinct], sums / counts[:, None], counts.tolist()


def _spec(key: str, names: list[str], title: str) -> dict[str, Any]:
    """Cells from one list of numbers: row and column of a cell follow from its place in it."""
    count = len(names)
    axis: dict[str, Any] = {"labelLimit": 150, "ticks": False, "domain": False}
    x = {
        "field": "b",
        "type": "nominal",
        "title": title,
        "scale": {"domain": names},
        "axis": {**axis, "labelAngle": -60, "orient": "bottom"},
    }
    y = {"field": "a", "type": "nominal", "title": title, "scale": {"domain": names}, "axis": axis}
    color = {
        "field": "data",
        "type": "quantitative",
        "scale": {"scheme": "blueorange", "domain": [-100, 100], "domainMid": 0},
        "legend": {
            "title": "Pearson correlation × 100",
            "orient": "top",
            "gradientThickness": 10,
            "tickCount": 5,
        },
    }
    named = {"data": {"name": f"names-{key}"}, "key": "i", "fields": ["name"]}
    return {
        "data": {"name": f"sim-{key}"},
        "usermeta": {
            "cells": True,
            "tips": [["a", "Row", ""], ["b", "Column", ""], ["data", "Correlation × 100", ""]],
        },
        "transform": [
            {"window": [{"op": "row_number", "as": "n"}]},
            {"calculate": f"floor((datum.n - 1) / {count})", "as": "y"},
            {"calculate": f"(datum.n - 1) % {count}", "as": "x"},
            {"lookup": "y", "from": named, "as": ["a"]},
            {"lookup": "x", "from": named, "as": ["b"]},
        ],
        "mark": {"type": "rect", "tooltip": {"content": "data"}},
        "encoding": {"x": x, "y": y, "color": color},
    }
