"""Section: which channels tell treatments apart, by the paper's count of important features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from unidino_fast.errors import TableError, UsageError, first_line
from unidino_fast.evaluation import channel_importance
from unidino_fast.figures.bars import draw_importance
from unidino_fast.figures.style import shown as in_font
from unidino_fast.names import distinct_names
from unidino_fast.report.charts import OKABE_ITO
from unidino_fast.report.labels import shown, stem
from unidino_fast.report.section import Chart, Section
from unidino_fast.report.stills import still

if TYPE_CHECKING:
    from unidino_fast.report.gather import PlateResults
    from unidino_fast.report.labels import Labels

_MOST_CLASSES = 20
"""One forest a class: more take long and make bars that nobody reads."""
_CHART = "importance"


def importance_section(results: PlateResults, labels: Labels) -> Section | None:
    """Stacked bars, a class each; None where there is one channel or no label."""
    label = labels.moa or labels.compound
    if label is None or len(results.channels) < 2:
        return None
    rows = labels.treated(results.profiles).filter(pl.col(label).is_not_null())
    sizes = rows.group_by(label).len().sort("len", label, descending=[True, False])
    kept = sizes[label][:_MOST_CLASSES]
    n_left = len(sizes) - len(kept)
    rows = rows.filter(pl.col(label).is_in(kept.implode())).with_columns(
        pl.col(results.features).fill_null(0.0)
    )
    try:
        found = channel_importance(rows, label, by=(), group=(label,), repeats=0)
    except (TableError, UsageError) as error:
        note = f"channel importance was not computed: {shown(first_line(error), 240)}"
        return Section(
            "importance", "Which channels tell them apart", {"note": note, "chart": None}
        )
    channels = distinct_names(found.channels, shown)
    in_order = [str(value) for value in sorted(kept)]  # numbers as numbers: 2 before 10
    classes = distinct_names((name for name in in_order if name in found.counts), shown)
    data = [
        {
            "name": classes[name],
            "channel": channels[channel],
            "count": count,
            "order": place,
            "n": found.n_rows[name],
        }
        for name in classes
        for counts in (found.counts[name],)
        for place, (channel, count) in enumerate(counts.items())
    ]
    palette = [OKABE_ITO[i % len(OKABE_ITO)] for i in range(len(channels))]
    spec = {
        "width": "container",
        "height": 24 * len(classes),
        "data": {"name": _CHART},
        "usermeta": {
            "stacked": True,
            "tips": [
                ["channel", "Channel", ""],
                ["count", "Of its most important features", ""],
                ["n", "Wells", ""],
            ],
        },
        "mark": {"type": "bar", "tooltip": {"content": "data"}},
        "encoding": {
            "y": {"field": "name", "type": "nominal", "title": stem(label), "sort": None},
            "x": {
                "field": "count",
                "type": "quantitative",
                "title": "features of the top 50",
                "axis": {"tickMinStep": 1},
            },
            "color": {
                "field": "channel",
                "type": "nominal",
                "scale": {"domain": list(channels.values()), "range": palette},
                "legend": {"title": "channel", "orient": "top", "symbolLimit": len(channels)},
            },
            "order": {"field": "order"},
        },
    }
    return Section(
        key="importance",
        title="Which channels tell them apart",
        values={"note": "", "chart": _CHART, "label": stem(label), "n_left": n_left},
        charts=[Chart(_CHART, spec, f"Important features by channel, a bar a {stem(label)}")],
        data={_CHART: data},
        stills=[
            still(
                lambda figure: draw_importance(figure, found, in_font(stem(label))),
                f"Important features by channel, a bar a {stem(label)}",
                30.0 + 6 * len(classes),
            )
        ],
    )
