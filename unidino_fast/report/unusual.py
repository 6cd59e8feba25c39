"""Section: wells unlike the controls, and clusters of them that may be new phenotypes.

`unidino_fast.novelty` finds them; here they become a map, cards with thumbnails and a table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from unidino_fast.errors import TableError, UsageError, first_line
from unidino_fast.novelty import Unusual, find_unusual
from unidino_fast.report.charts import (
    MISSING,
    OTHERS,
    amounts,
    kinds,
    numbers,
    plate_map,
    plate_steps,
)
from unidino_fast.report.labels import shown, stem
from unidino_fast.report.section import Chart, Choice, Finding, Option, Section
from unidino_fast.results import METADATA_PREFIX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from unidino_fast.report.gather import PlateResults
    from unidino_fast.report.labels import Labels

_KEY = "unusual"
_TITLE = "Unusual wells and candidate phenotypes"
_CONTROL = "Metadata_unidino_control"
"""Marks controls for the query; a column of this name is not shown by anything."""
_MEASURE: Final = "mahalanobis"
_RATE = 0.05
_MOST_CARDS = 12
_ALONE = "unusual, in none"
_MOST_THUMBNAILS = 4
"""Wells of a card. Their pictures are those of the page: more cost room on it, not in the file."""
_MOST_WELLS = 40
"""Rows of the table."""


def unusual_section(results: PlateResults, labels: Labels) -> Section | None:
    """What is unlike the controls; None where no controls are known."""
    if labels.controls is None:
        return None
    try:
        found = _found(results, labels)
    except (TableError, UsageError) as error:
        note = f"unusual wells were not looked for: {shown(first_line(error), 240)}"
        return Section(_KEY, _TITLE, {"note": note})
    groups, names = _groups(found)
    chart, choice = _map(results, names)
    return Section(
        key=_KEY,
        title=_TITLE,
        values={"note": "", "chart": chart.key, **_values(results, labels, found)},
        charts=[chart],
        choices=[choice],
        columns={
            "a": numbers(found.wells[_MEASURE]),
            "ap": numbers(found.wells[f"{_MEASURE}_p"]),
            "aq": numbers(found.wells[f"{_MEASURE}_q"]),
            "ac": groups,
        },
        findings=[_finding(found, labels)],
    )


def _values(results: PlateResults, labels: Labels, found: Unusual) -> dict[str, Any]:
    """What the template shows."""
    judged = found.wells.filter(~pl.col("control"))
    n_unusual = int(judged["unusual"].sum())
    clusters = sorted(found.clusters.to_dicts(), key=lambda row: bool(row["explained"]))
    return {
        "n_unusual": n_unusual,
        "n_judged": len(judged),
        "n_controls": found.n_controls,
        "rate": _RATE,
        "counted": found.options["tail"] == "empirical",
        "least_p": found.least_p,
        "label": None if labels.moa is None else stem(labels.moa),
        "controls_are": labels.controls_are,
        "cards": [_card(results, labels, found, row) for row in clusters[:_MOST_CARDS]],
        "n_more_cards": max(0, len(clusters) - _MOST_CARDS),
        "n_alone": n_unusual - int(judged["cluster"].is_not_null().sum()),
        "rows": _rows(found, labels),
    }


def _map(results: PlateResults, groups: Sequence[str]) -> tuple[Chart, Choice]:
    """The plate by distance or by cluster."""
    colours = {
        "Distance to the controls": {
            "field": "a",
            **amounts("distance, standard deviations", low=0),
        },
        "Clusters of unusual wells": kinds("ac", groups, "cluster")["color"],
    }
    [first, *_] = colours
    tips = [
        ["a", "Distance to the controls", "SD, whitened"],
        *(["ap", "p", ""], ["aq", "q", ""], ["ac", "Cluster", ""]),
    ]
    chart = Chart(
        "map-unusual",
        plate_map(results.positions, first, colours[first], tips=tips),
        "Plate map of each well's distance to the controls in their own spread",
        plate_steps(results.positions),
    )
    options = [
        Option(
            label,
            {chart.key: [(["layer", 1, "encoding", "color"], color), (["title"], label)]},
        )
        for label, color in colours.items()
    ]
    return chart, Choice(_KEY, "Map", options)


def _found(results: PlateResults, labels: Labels) -> Unusual:
    """By p-values that are counted; where controls are too few for any, by lognormal ones."""
    marks = pl.Series(_CONTROL, np.asarray(labels.controls, dtype=np.int64))
    kept = dict.fromkeys(
        ["Metadata_Well", *labels.replicates, *([labels.moa] if labels.moa else [])]
    )
    features = pl.DataFrame(
        results.filled.astype(np.float32), schema=results.features, orient="row"
    )
    frame = results.profiles.select(list(kept)).with_columns(marks).hstack(features)

    def find(tail: Any) -> Unusual:
        return find_unusual(
            frame,
            f"{_CONTROL} == 1",
            label=labels.moa,
            treatment=labels.replicates,
            by=(),
            measure=_MEASURE,
            tail=tail,
            fdr=_RATE,
        )

    found = find("empirical")
    return find("lognormal") if found.warnings else found


def _groups(found: Unusual) -> tuple[list[str], list[str]]:
    """Each well's cluster (N,), and their names, largest first; wells like controls have none.

    Numbers are those of `find_unusual`, so that page, command line and table can be held together.
    """
    columns = found.wells.select("unusual", "cluster").iter_rows()
    groups = [
        _ALONE if unusual and cluster is None
        else MISSING if cluster is None
        else f"cluster {cluster}" if cluster < _MOST_CARDS
        else OTHERS
        for unusual, cluster in columns
    ]  # fmt: skip
    in_order = [f"cluster {place}" for place in range(_MOST_CARDS)]
    return groups, [name for name in (*in_order, OTHERS, _ALONE, MISSING) if name in groups]


def _finding(found: Unusual, labels: Labels) -> Finding:
    judged = found.wells.filter(~pl.col("control"))
    n_candidates = len(found.candidates)
    are = "cluster" if n_candidates == 1 else "clusters"
    by = "" if labels.moa is None else f" that no {stem(labels.moa)} explains"
    return Finding(
        "Unlike the controls",
        f"{int(judged['unusual'].sum())} of {len(judged)} wells",
        f"at a false discovery rate of {_RATE:.0%}; {n_candidates} {are}{by}",
        "none",
        _KEY,
    )


def _card(
    results: PlateResults, labels: Labels, found: Unusual, row: dict[str, Any]
) -> dict[str, Any]:
    """A cluster, its nearest known treatments, and wells to look at."""
    members = np.array(row["rows"], dtype=np.int64)
    nearest = found.nearest.filter(pl.col("cluster") == row["cluster"])
    wells = found.wells[members.tolist()]
    typical = members[_typical(results.filled, members)][:_MOST_THUMBNAILS]
    names = found.wells["Metadata_Well"]
    return {
        "number": row["cluster"],
        "explained": bool(row["explained"]),
        "label": None if row["label"] is None else shown(row["label"]),
        "share": row["share"],
        "distance": row["distance"],
        "cohesion": row["cohesion"],
        "p": wells[f"{_MEASURE}_p"].max(),
        "wells": [
            {"name": shown(well["Metadata_Well"]), "holds": _words(well, labels.replicates)}
            for well in wells.to_dicts()
        ],
        "thumbnails": [shown(names[int(place)]) for place in typical],
        "control": shown(names[_middle_control(found)]),
        "nearest": [
            {
                "holds": _words(near, found.options["treatment"]),
                "similarity": near["similarity"],
                "n": near["n_wells"],
            }
            for near in nearest.to_dicts()
        ],
    }


def _typical(values: NDArray[np.float64], members: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places of the members, those first whose profiles are most like their mean, by cosine."""
    rows = values[members]
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    units = rows / np.where(length > 0, length, 1.0)
    order: NDArray[np.int64] = np.argsort(-(units @ units.mean(axis=0)), kind="stable")
    return order


def _middle_control(found: Unusual) -> int:
    """Row of the control of middling distance, to compare pictures with."""
    of_controls = np.flatnonzero(found.wells["control"].to_numpy())
    order = np.argsort(found.wells[_MEASURE].to_numpy()[of_controls], kind="stable")
    return int(of_controls[order[len(order) // 2]])


def _rows(found: Unusual, labels: Labels) -> list[dict[str, Any]]:
    """The wells that are farthest out, unusual or not."""
    judged = found.wells.filter(~pl.col("control"))
    order = judged.sort(
        f"{_MEASURE}_p", _MEASURE, descending=[False, True], maintain_order=True
    ).head(_MOST_WELLS)
    return [
        {
            "well": shown(row["Metadata_Well"]),
            "holds": _words(row, [*labels.replicates, *([labels.moa] if labels.moa else [])]),
            "distance": row[_MEASURE],
            "p": row[f"{_MEASURE}_p"],
            "q": row[f"{_MEASURE}_q"],
            "unusual": row["unusual"],
            "cluster": row["cluster"],
        }
        for row in order.to_dicts()
    ]


def _words(row: dict[str, Any], columns: Sequence[str]) -> list[str]:
    """What stands in a well; a number says what it is of.

    Apart, because the page isolates each: text from right to left would turn what is beside it.
    """
    known = [(name, row[name]) for name in columns if row[name] is not None]
    return [
        shown(value if isinstance(value, str) else f"{name.removeprefix(METADATA_PREFIX)} {value}")
        for name, value in known
    ] or ["–"]
