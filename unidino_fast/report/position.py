"""Section: how much of a profile is its place on the plate, before and after normalisation.

Share of variance: sum of squares between groups of wells over the total, over all features, as in
an analysis of variance (eta squared). Chance is the 99 % quantile over random orders of the wells.
Treatments that stand in whole rows or columns look like position; so profiles are also asked after
the mean of their treatment was taken from them, and chance is then orders within treatments.
N wells, G groups.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from unidino_fast.report.charts import (
    extent,
    largest,
    numbers,
    plate_map,
    plate_steps,
    signed,
)
from unidino_fast.report.labels import stem
from unidino_fast.report.projections import principal_components
from unidino_fast.report.section import Chart, Finding, Section

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from unidino_fast.names import WellName
    from unidino_fast.report.gather import PlateResults
    from unidino_fast.report.labels import Labels

    Values = NDArray[np.float64]
    Codes = NDArray[np.int64]

_ORDERS = 500
_SEED = 0
_CHART = "position"
_RIM = "Rim or inside"
_BEFORE, _AFTER = "before", "after"
_WITHIN = "after, within treatments"
_CHANCE = 0.99


def position_section(results: PlateResults, labels: Labels) -> Section | None:
    """Bars of shares, and the first principal component on the plate; None of too few wells."""
    if len(results.names) < 8:
        return None
    groups = _groups(results, labels)
    tables = {_BEFORE: _filled(results.raw), _AFTER: results.filled}
    rows: list[dict[str, Any]] = []
    for when, values in tables.items():
        gram = gram_matrix(values)
        for what, codes in groups.items():
            share, chance = share_of_variance(gram, codes)
            rows.append({"name": what, "when": when, "share": share, "chance": chance})
    if labels.compound is not None:
        treatment = labels.treatment_codes(results.profiles)
        gram = gram_matrix(within(results.filled, treatment))
        for what in _POSITIONS:
            if what in groups and gram.trace() > 0:
                share, chance = share_of_variance(gram, groups[what], treatment)
                rows.append({"name": what, "when": _WITHIN, "share": share, "chance": chance})
    columns = {}
    charts = [_bars(list(groups), list(dict.fromkeys(row["when"] for row in rows)))]
    for when, values in tables.items():
        scores, shares = principal_components(values, 1)
        field = f"p_{when}"
        columns[field] = numbers(scores[:, 0])
        title = f"PC 1 {when} normalisation, {shares[0]:.0%}"
        color = signed("score, no unit", largest(scores[:, 0]))
        charts.append(
            Chart(
                f"map-{field}",
                plate_map(
                    results.positions,
                    title,
                    {"field": field, **color},
                    tips=[[field, f"First component {when}", ""]],
                ),
                f"Plate map: {title.lower()}",
                plate_steps(results.positions),
            )
        )
    for row in rows:
        row["share"], row["chance"] = numbers([row["share"], row["chance"]])
    return Section(
        key="position",
        title="Edge and position effects",
        values={"bars": _CHART, "maps": [chart.key for chart in charts[1:]], "orders": _ORDERS},
        charts=charts,
        columns=columns,
        data={_CHART: rows},
        findings=[_finding(rows)],
    )


def gram_matrix(values: Values) -> Values:
    """Inner products (N, N) of centred rows: all that shares of variance need."""
    centred = values - values.mean(axis=0)
    product: Values = centred @ centred.T
    return product


def within(values: Values, codes: Codes) -> Values:
    """Rows without the mean of their group."""
    member = np.eye(int(codes.max()) + 1)[codes]  # (N, G)
    count = np.maximum(member.sum(axis=0), 1)
    means: Values = (member.T @ values) / count[:, None]
    return values - means[codes]


def share_of_variance(
    gram: Values, codes: Codes, strata: Codes | None = None
) -> tuple[float, float]:
    """Share that groups explain, and what that stays below in 99 of 100 random orders of the wells.

    Args:
        gram: from `gram_matrix`.
        codes: group of each well.
        strata: wells change places only within these, where given.
    """
    total = float(np.trace(gram))
    if total <= 0:
        return 0.0, 0.0
    member = np.eye(int(codes.max()) + 1)[codes]  # (N, G)
    member = member[:, member.any(axis=0)]
    member = member / np.sqrt(member.sum(axis=0))
    weight = member @ member.T  # 1 over the group's size within a group, 0 between
    rng = np.random.default_rng(_SEED)
    drawn = []
    for _ in range(_ORDERS):
        order = rng.permutation(len(gram))
        if strata is not None:  # the random order of each stratum, at the stratum's places
            places = np.argsort(strata, kind="stable")
            shuffled = order[np.argsort(strata[order], kind="stable")]
            order = np.empty_like(places)
            order[places] = shuffled
        drawn.append(float((weight * gram[np.ix_(order, order)]).sum()))
    return float((weight * gram).sum()) / total, float(np.quantile(drawn, _CHANCE)) / total


def is_rim(positions: Sequence[WellName]) -> Codes:
    """1 for wells in the outermost rows and columns that are there, else 0; (N,)."""
    rows, columns = extent(positions)
    return np.array(
        [
            int(p.row in (rows[0], rows[-1]) or p.column in (columns[0], columns[-1]))
            for p in positions
        ]
    )


def _groups(results: PlateResults, labels: Labels) -> dict[str, Codes]:
    positions = results.positions
    found = {
        _RIM: is_rim(positions),
        "Plate row": np.unique([p.row for p in positions], return_inverse=True)[1],
        "Plate column": np.unique([p.column for p in positions], return_inverse=True)[1],
    }
    if labels.compound is not None:
        name = f"{stem(labels.compound)} (for comparison)"
        found[name] = labels.treatment_codes(results.profiles)
    return {name: codes for name, codes in found.items() if len(np.unique(codes)) > 1}


def _filled(values: Values) -> Values:
    """NaN becomes the mean of its feature."""
    known = np.isfinite(values)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, values, 0).sum(axis=0) / count
    return np.where(known, values, mean)


def _bars(names: Sequence[str], domain: Sequence[str]) -> Chart:
    """Bars by grouping and normalisation."""
    colours = ["#8C9AA8", "#0072B2", "#56B4E9"]
    spec: dict[str, Any] = {
        "width": "container",
        "height": 15 * len(domain) * len(names),
        "data": {"name": _CHART},
        "usermeta": {
            "stacked": True,
            "tips": [
                ["when", "Normalisation", ""],
                ["share", "Share of variance", ""],
                ["chance", "By chance less than", ""],
            ],
        },
        "encoding": {
            "y": {"field": "name", "type": "nominal", "title": None, "sort": list(names)},
            "yOffset": {"field": "when", "type": "nominal", "sort": list(domain)},
        },
        "layer": [
            {
                "mark": {"type": "bar", "tooltip": {"content": "data"}},
                "encoding": {
                    "x": {
                        "field": "share",
                        "type": "quantitative",
                        "title": "share of variance explained",
                        "axis": {"format": "%"},
                    },
                    "color": {
                        "field": "when",
                        "type": "nominal",
                        "scale": {"domain": list(domain), "range": colours[: len(domain)]},
                        "legend": {"title": "normalisation", "orient": "top"},
                    },
                },
            },
            {
                "mark": {
                    "type": "tick",
                    "thickness": 3,
                    "color": "#D55E00",
                    "size": 13,
                    "opacity": 1,
                },
                "encoding": {"x": {"field": "chance", "type": "quantitative"}},
            },
        ],
    }
    return Chart(_CHART, spec, "Share of variance explained by position, before and after")


def _finding(rows: Sequence[dict[str, Any]]) -> Finding:
    """Position after normalisation: the grouping that goes farthest beyond chance."""
    last = rows[-1]["when"]  # within treatments, where there are any
    placed = [row for row in rows if row["when"] == last and row["name"] in _POSITIONS]
    beyond = [row for row in placed if row["share"] > row["chance"] + _ROUNDING]
    if not beyond:
        return Finding(
            "Position on the plate",
            "no effect beyond chance",
            f"rim, rows and columns; {last} normalisation" if last == _AFTER else _WITHOUT,
            "good",
            "position",
        )
    worst = max(beyond, key=lambda row: row["share"] - row["chance"])
    return Finding(
        "Position on the plate",
        f"{worst['share']:.0%} by {worst['name'].lower()}",
        f"of the variance {'after normalisation' if last == _AFTER else 'within treatments'};"
        f" by chance below {worst['chance']:.0%}",
        "look",
        "position",
    )


_POSITIONS = (_RIM, "Plate row", "Plate column")
_WITHOUT = "rim, rows and columns, within treatments"
_ROUNDING = 1e-6
