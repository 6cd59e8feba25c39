"""The page over several plates: what each plate's verdict is, and how much plates differ.

N wells, F features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from unidino_fast._version import __version__
from unidino_fast.errors import TableError, UsageError, first_line
from unidino_fast.evaluation import batch_effects
from unidino_fast.names import distinct_names
from unidino_fast.report.charts import kinds, numbers
from unidino_fast.report.gather import as_lines
from unidino_fast.report.labels import shown
from unidino_fast.report.page import render_page
from unidino_fast.report.projections import principal_components
from unidino_fast.report.section import Chart, Section

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Protocol

    import numpy as np
    from numpy.typing import NDArray

    from unidino_fast.report.gather import PlateResults
    from unidino_fast.report.labels import Labels

    class Page(Protocol):
        """A plate's page, as `build` makes it."""

        @property
        def results(self) -> PlateResults: ...  # noqa: D102
        @property
        def labels(self) -> Labels: ...  # noqa: D102
        @property
        def verdict(self) -> Section: ...  # noqa: D102


_MOST_KINDS = 40


def campaign_page(
    pages: Sequence[Page], links: Sequence[str], quality: Mapping[str, Any] | None = None
) -> str:
    """The page.

    Args:
        pages: of the plates.
        links: relative, one a page.
        quality: `qc.json` over all plates, where there is one.
    """
    names = distinct_names((page.results.folder.name for page in pages), shown)
    warnings = as_lines((quality or {}).get("warnings"))
    sections = [_plates(pages, links), _batches(pages, list(names.values()))]
    if warnings:
        sections.append(Section("warnings", "Warnings", {"lines": warnings, "n_more": 0}))
    return render_page(
        "page.html",
        sections,
        {"data": {}, "labels": [], "facts": [], "pictures": None, "no_pictures": ""},
        name=f"{len(pages)} plates",
        title="Report over plates",
        lead=f"{sum(len(page.results.names) for page in pages)} wells",
        campaign=None,
        version=__version__,
    )


def _plates(pages: Sequence[Page], links: Sequence[str]) -> Section:
    """A row a plate, a column a line of the verdicts."""
    asked = dict.fromkeys(f.label for page in pages for f in page.verdict.values["findings"])
    rows = []
    for page, link in zip(pages, links, strict=True):
        by_label = {finding.label: finding for finding in page.verdict.values["findings"]}
        rows.append(
            {
                "name": page.results.name,
                "link": link,
                "cells": [by_label.get(label) for label in asked],
                "n_look": len(page.verdict.values["to_look"]),
            }
        )
    return Section("plates", "Plates", {"asked": list(asked), "rows": rows})


def _batches(pages: Sequence[Page], names: Sequence[str]) -> Section:
    """How well a plate is told from a profile, before and after normalisation."""
    shared = set(pages[0].results.features).intersection(*(p.results.features for p in pages))
    features = [name for name in pages[0].results.features if name in shared]
    if not features:
        note = "the plates share no feature, so that they cannot be compared"
        return Section("batches", "Plates compared", {"note": note, "scores": [], "maps": []})
    label = _shared_label(pages)
    tables = {
        when: pl.concat(
            [
                _rows(getattr(page.results, kind), features, name, label)
                for page, name in zip(pages, names, strict=True)
            ]
        )
        for when, kind in (("before", "wells"), ("after", "profiles"))
    }
    scores, note = [], ""
    try:
        found = {
            when: batch_effects(table, "Metadata_Plate", label).scores()
            for when, table in tables.items()
        }
        scores = [
            {
                "name": title,
                "before": found["before"][key],
                "after": found["after"][key],
            }
            for key, title in _SCORES.items()
            if key in found["before"] and key in found["after"]
        ]
    except (TableError, UsageError) as error:
        note = f"batch effects were not computed: {shown(first_line(error), 240)}"
    charts: list[Chart] = []
    data: dict[str, list[Any]] = {}
    for when, table in tables.items():
        charts.append(_plane(when, table, features, data))
    return Section(
        "batches",
        "Plates compared",
        {
            "note": note,
            "scores": scores,
            "maps": [chart.key for chart in charts],
            "label": "" if label is None else label.removeprefix("Metadata_"),
            "n_features": len(features),
        },
        charts=charts,
        data=data,
    )


_SCORES = {
    "batch_neighbour_accuracy": "Nearest profile is of the same plate",
    "batch_linear_accuracy": "A linear classifier names the plate",
    "silhouette_batch": "Silhouette by plate",
    "silhouette_label": "Silhouette by label",
}


def _shared_label(pages: Sequence[Page]) -> str | None:
    """The column of compounds, where all plates have the same."""
    columns = {page.labels.compound for page in pages}
    return columns.pop() if len(columns) == 1 else None


def _rows(
    frame: pl.DataFrame, features: Sequence[str], name: str, label: str | None
) -> pl.DataFrame:
    kept = [] if label is None else [pl.col(label).cast(pl.String)]
    return frame.select(
        pl.lit(name).alias("Metadata_Plate"),
        pl.col("Metadata_Well").cast(pl.String),
        *kept,
        pl.col(features).cast(pl.Float64).fill_null(0.0).fill_nan(0.0),
    )


def _plane(when: str, table: pl.DataFrame, features: Sequence[str], data: dict[str, Any]) -> Chart:
    """All wells by PCA, in the colour of their plate."""
    values: NDArray[np.float64] = table.select(features).to_numpy()
    scores, shares = principal_components(values, 2)
    plates = table["Metadata_Plate"].to_list()
    names = list(dict.fromkeys(plates))
    key = f"plates-{when}"
    data[key] = [
        {"name": well, "plate": plate, "x": x, "y": y}
        for well, plate, x, y in zip(
            table["Metadata_Well"],
            plates,
            numbers(scores[:, 0]),
            numbers(scores[:, 1]),
            strict=True,
        )
    ]
    spec = {
        "title": f"PCA {when} normalisation",
        "width": "container",
        "height": 320,
        "data": {"name": key},
        "usermeta": {"tips": [["plate", "Plate", ""]]},
        "mark": {
            "type": "point",
            "filled": True,
            "size": 30,
            "opacity": 0.75,
            "tooltip": {"content": "data"},
        },
        "encoding": {
            "x": {"field": "x", "type": "quantitative", "title": f"PC 1 ({shares[0]:.0%})"},
            "y": {"field": "y", "type": "quantitative", "title": f"PC 2 ({shares[1]:.0%})"},
            **(kinds("plate", names, "plate") if len(names) <= _MOST_KINDS else {}),
        },
    }
    return Chart(key, spec, f"Principal components of all wells {when} normalisation, by plate")
