"""Section: all profiles in the plane, by PCA, UMAP and, if asked for, densMAP.

N wells, F features. McInnes et al. 2018 (UMAP), Narayan et al. 2021 (densMAP), through umap-learn.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from unidino_fast.figures.planes import draw_plane
from unidino_fast.figures.style import shown as in_font
from unidino_fast.names import distinct_names
from unidino_fast.report.charts import MISSING, MOST_KINDS, OTHERS, amounts, kinds, numbers
from unidino_fast.report.labels import shown, stem
from unidino_fast.report.section import Chart, Choice, Option, Section
from unidino_fast.report.stills import Still, still

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl
    from numpy.typing import NDArray

    from unidino_fast.report.gather import PlateResults
    from unidino_fast.report.labels import Labels

    Values = NDArray[np.float64]
    Patch = list[tuple[list[str | int], Any]]

SEED = 0
_NEIGHBOURS = 15
_FEWEST = 8
"""Wells below which neighbours say nothing."""
_FEW_VALUES = 12
"""Numbers with no more values than this, such as doses, are shown as steps."""
_CHART = "projection"


def projection_section(results: PlateResults, labels: Labels, *, densmap: bool) -> Section:
    """Wells in the plane, coloured by what is chosen."""
    columns: dict[str, Sequence[Any]] = {}
    warnings = []
    ways = []
    stills: list[Still] = []
    scores, shares = principal_components(results.filled, 2)
    columns["pc1"], columns["pc2"] = numbers(scores[:, 0]), numbers(scores[:, 1])
    if len(scores) >= _FEWEST:
        for key, name in (("u", "UMAP"), *((("v", "densMAP"),) if densmap else ())):
            plane = neighbour_plane(results.filled, scores, densmap=key == "v")
            columns[f"{key}1"], columns[f"{key}2"] = numbers(plane[:, 0]), numbers(plane[:, 1])
            titles = [f"{name} 1 (no unit)", f"{name} 2 (no unit)"]
            ways.append(Option(name, {_CHART: _axes(key, titles)}))
            stills.append(_still(results, labels, plane, name))
    else:
        warnings.append(f"UMAP needs {_FEWEST} wells or more: {len(scores)} are shown by PCA alone")
    if not stills:
        stills.append(_still(results, labels, scores, "PCA"))
    titles = [f"PC {i + 1} ({share:.0%} of variance)" for i, share in enumerate(shares)]
    ways.append(Option("PCA", {_CHART: _axes("pc", titles)}))
    colours, painted = _colours(results, labels)
    columns.update(painted)
    return Section(
        key="projection",
        title="Profiles in the plane",
        values={"n_wells": len(scores), "n_features": len(results.features), "seed": SEED},
        charts=[
            Chart(
                _CHART,
                _spec(),
                "Each point is a well's profile; points near each other have similar profiles",
            )
        ],
        choices=[Choice("way", "Projection", ways), Choice("colour", "Colour", colours)],
        columns=columns,
        stills=stills,
        warnings=warnings,
    )


def _still(results: PlateResults, labels: Labels, plane: Values, way: str) -> Still:
    column = labels.moa or labels.compound
    colour = None if column is None else results.profiles[column]
    title = "" if column is None else stem(column)
    return still(
        lambda figure: draw_plane(figure, plane, colour, in_font(title), way),
        f"{way} of the wells' profiles{f', coloured by {title}' if title else ''}",
        110.0,
    )


def principal_components(values: Values, count: int) -> tuple[Values, list[float]]:
    """Scores (N, count) and shares of variance; each component's largest weight is positive."""
    centred = values - values.mean(axis=0)
    left, singular, right = np.linalg.svd(centred, full_matrices=False)
    total = float(np.square(singular).sum()) or 1.0
    scores = np.zeros((len(values), count))
    shares = [0.0] * count
    for place in range(min(count, len(singular))):
        sign = 1.0 if right[place, np.abs(right[place]).argmax()] >= 0 else -1.0
        scores[:, place] = sign * left[:, place] * singular[place]
        shares[place] = float(singular[place] ** 2) / total
    return scores, shares


def neighbour_plane(values: Values, start: Values, *, densmap: bool) -> Values:
    """UMAP or densMAP (N, 2) by cosine distance, from the principal components on; seeded."""
    import umap

    spread = np.abs(start).max() or 1.0
    jitter = np.random.default_rng(SEED).normal(scale=1e-4, size=start.shape)  # none coincide
    model = umap.UMAP(
        n_neighbors=min(_NEIGHBOURS, len(values) - 1),
        metric="cosine",
        init=(start / spread * 10 + jitter).astype(np.float32),
        random_state=SEED,
        n_jobs=1,
        densmap=densmap,
    )
    rows = values.astype(np.float32)
    rows[~rows.any(axis=1)] = 1e-6  # a row of zeros has no direction
    plane: Values = np.asarray(model.fit_transform(rows), dtype=np.float64)
    return plane


def _spec() -> dict[str, Any]:
    mark = {
        "type": "point",
        "filled": True,
        "size": 64,
        "opacity": 0.9,
        "stroke": "currentColor",
        "strokeWidth": 0.6,
        "strokeOpacity": 0.5,
        "tooltip": {"content": "data"},
        "cursor": "pointer",
    }
    return {
        "width": "container",
        "height": 420,
        "data": {"name": "wells"},
        "mark": mark,
        "encoding": {},
    }


def _axes(key: str, titles: Sequence[str]) -> Patch:
    scale = {"zero": False, "nice": True, "padding": 12}
    return [
        (
            ["encoding", axis],
            {"field": f"{key}{i}", "type": "quantitative", "title": title, "scale": scale},
        )
        for i, axis, title in ((1, "x", titles[0]), (2, "y", titles[1]))
    ]


def _colours(
    results: PlateResults, labels: Labels
) -> tuple[list[Option], dict[str, Sequence[Any]]]:
    """What the points can be coloured by, most telling first, and the data for it."""
    first = [name for name in (labels.moa, labels.compound) if name is not None]
    options: list[Option] = []
    painted: dict[str, Sequence[Any]] = {}
    for column in [*first, *(name for name in labels.columns if name not in first)]:
        field = f"k{len(painted)}"
        patch, values = colouring(results.profiles[column], field, stem(column))
        painted[field] = values
        options.append(Option(stem(column), {_CHART: patch}))
    plain = [
        ("Plate row", "r", kinds("r", sorted(set(_rows(results)), key=_row_order), "plate row")),
        ("Plate column", "c", {"color": {"field": "c", **amounts("plate column")}}),
        (
            "Distance to controls" if labels.controls is not None else "Distance to median",
            "d",
            {"color": {"field": "d", **amounts("distance, robust SD per feature", low=0)}},
        ),
    ]
    options += [
        Option(label, {_CHART: _encodings(channels, field, label)})
        for label, field, channels in plain
    ]
    return options, painted


def colouring(values: pl.Series, field: str, title: str) -> tuple[Patch, Sequence[Any]]:
    """What colours points by a column, and the column as data."""
    if values.dtype.is_numeric() and values.drop_nulls().n_unique() > _FEW_VALUES:
        patch = _encodings({"color": {"field": field, **amounts(title)}}, field, title)
        return patch, numbers(values)
    if values.dtype.is_numeric():
        steps = sorted(values.drop_nulls().drop_nans().unique().to_list())
        scale = {"domain": numbers(steps), "scheme": "viridis"}
        color = {
            "field": field,
            "type": "ordinal",
            "title": title,
            "scale": scale,
            "legend": {"orient": "bottom"},
        }
        return _encodings({"color": color}, field, title), numbers(values)
    texts = ["" if value is None else str(value) for value in values]
    names = distinct_names(texts, shown)
    named = [names[text] if text else MISSING for text in texts]
    common = [name for name, _ in Counter(named).most_common() if name != MISSING]
    if len(common) > MOST_KINDS:
        kept = set(common[: MOST_KINDS - 1])
        named = [name if name in kept or name == MISSING else OTHERS for name in named]
        common = [*common[: MOST_KINDS - 1], OTHERS]
    if MISSING in named:
        common.append(MISSING)
    return _encodings(kinds(field, common, title), field, title), named


def _encodings(channels: dict[str, Any], field: str, title: str) -> Patch:
    """Sets colour and shape; shape is none where kinds are not shown by it."""
    return [
        (["encoding", "color"], channels["color"]),
        (["encoding", "shape"], channels.get("shape")),
        (["usermeta", "tips"], [[field, title, ""]]),
    ]


def _rows(results: PlateResults) -> list[str]:
    return [position.row_letters for position in results.positions]


def _row_order(letters: str) -> tuple[int, str]:
    return len(letters), letters
