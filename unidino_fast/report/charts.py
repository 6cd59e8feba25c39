"""Pieces of Vega-Lite charts that sections share: colours, plate maps, numbers for JSON.

Colours can be told apart by people who see colours in other ways: viridis for amounts, blue to
orange for what has a sign, Okabe and Ito's eight, with shapes beyond them, for kinds.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from unidino_fast.names import WellName, row_letters

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from unidino_fast.report.section import Spec

OKABE_ITO = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#B8A800", "#6B6B6B"]
"""Their yellow is darkened and their black is grey, to be seen on white and on black."""
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross")
MOST_KINDS = len(OKABE_ITO) * len(SHAPES)
OTHERS = "(others)"
MISSING = "(none)"
_GREY = "#9A9A9A"
_DIGITS = 4


def numbers(values: Iterable[Any]) -> list[float | None]:
    """Numbers for JSON, to four digits; None where there is none."""
    return [_number(value) for value in values]


def _number(value: Any) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    rounded = float(f"{float(value):.{_DIGITS}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded


def amounts(title: str, *, low: float | None = None, high: float | None = None) -> Spec:
    """Colour scale of an amount, and its legend."""
    scale: Spec = {"scheme": "viridis"}
    if low is not None:
        scale["domainMin"] = low
    if high is not None:
        scale["domainMax"] = high
    return {"type": "quantitative", "title": title, "scale": scale, "legend": _bar()}


def signed(title: str, largest: float) -> Spec:
    """Colour scale of what may be above or below zero."""
    largest = largest or 1.0
    scale = {"scheme": "blueorange", "domain": [-largest, largest], "domainMid": 0}
    return {"type": "quantitative", "title": title, "scale": scale, "legend": _bar()}


def _bar() -> Spec:
    return {"orient": "bottom", "gradientThickness": 10, "tickCount": 4}


def kinds(field: str, names: Sequence[str], title: str) -> Spec:
    """Encoding channels `color` and `shape` of kinds, which are data of a field.

    Names come commonest first; beyond `MOST_KINDS` they are to be called `OTHERS`.
    """
    palette = [OKABE_ITO[i % len(OKABE_ITO)] for i in range(len(names))]
    shapes = [SHAPES[(i // len(OKABE_ITO)) % len(SHAPES)] for i in range(len(names))]
    for place, name in enumerate(names):
        if name in (OTHERS, MISSING):
            palette[place] = _GREY
    legend = {"orient": "bottom", "symbolLimit": len(names)}
    common = {"field": field, "type": "nominal", "title": title, "legend": legend}
    return {
        "color": {**common, "scale": {"domain": list(names), "range": palette}},
        "shape": {**common, "scale": {"domain": list(names), "range": shapes}},
    }


def extent(positions: Sequence[WellName]) -> tuple[range, range]:
    """Rows (from 0) and columns (from 1) that a plate map spans."""
    rows = [position.row for position in positions]
    columns = [position.column for position in positions]
    return range(min(rows), max(rows) + 1), range(min(columns), max(columns) + 1)


def absent_positions(positions: Sequence[WellName]) -> list[dict[str, Any]]:
    """Positions within the map that hold no result."""
    rows, columns = extent(positions)
    present = {(position.row, position.column) for position in positions}
    return [
        {"r": row_letters(row), "c": column, "w": str(WellName(row, column)), "absent": True}
        for row in rows
        for column in columns
        if (row, column) not in present
    ]


def plate_map(
    positions: Sequence[WellName], title: str, color: Spec, *, tips: Sequence[Sequence[str]]
) -> Spec:
    """A plate as cells in the colour of a field; what was not embedded is an outline.

    A dot marks wells that quality control has flagged (field `q`).
    """
    rows, columns = extent(positions)
    x = {
        "field": "c",
        "type": "ordinal",
        "title": "plate column",
        "scale": {"domain": list(columns)},
        "axis": {"labelAngle": 0, "orient": "top", "ticks": False, "domain": False},
    }
    y = {
        "field": "r",
        "type": "ordinal",
        "title": "plate row",
        "scale": {"domain": [row_letters(row) for row in rows]},
        "axis": {"ticks": False, "domain": False},
    }
    cell = {"type": "rect", "tooltip": {"content": "data"}, "cornerRadius": 1}
    return {
        "title": title,
        "usermeta": {"tips": [list(tip) for tip in tips], "map": True},
        "encoding": {"x": x, "y": y},
        "layer": [
            {
                "data": {"name": "absent"},
                "mark": {**cell, "filled": False, "stroke": _GREY, "strokeDash": [2, 2]},
            },
            {
                "data": {"name": "wells"},
                "mark": {**cell, "cursor": "pointer"},
                "encoding": {"color": color},
            },
            {
                "data": {"name": "wells"},
                "transform": [{"filter": "datum.q"}],
                "mark": {
                    "type": "point",
                    "filled": True,
                    "size": 26,
                    "color": "#fff",
                    "stroke": "#000",
                    "strokeWidth": 1.2,
                    "opacity": 1,
                    "tooltip": {"content": "data"},
                    "cursor": "pointer",
                },
            },
        ],
    }


def plate_steps(positions: Sequence[WellName]) -> tuple[int, int]:
    """Cells across and down."""
    rows, columns = extent(positions)
    return len(columns), len(rows)


def largest(values: Iterable[float]) -> float:
    """Greatest absolute value; 0 of none."""
    array = np.asarray(list(values), dtype=np.float64)
    array = array[np.isfinite(array)]
    return float(np.abs(array).max()) if len(array) else 0.0
