"""Profiles in the plane by UMAP or densMAP, coloured by a column. N rows, F features.

McInnes et al. 2018 (UMAP), Narayan et al. 2021 (densMAP), through umap-learn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from unidino_fast.errors import TableError, UsageError
from unidino_fast.figures.kinds import is_amount, kinds_of
from unidino_fast.figures.style import PALE, add_legend

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

FEWEST = 8
"""Rows below which neighbours say nothing."""
_MOST_IN_A_COLUMN = 26


def umap_plane(
    values: Values,
    *,
    neighbours: int = 15,
    min_dist: float = 0.1,
    densmap: bool = False,
    seed: int = 0,
) -> Values:
    """Places (N, 2) by cosine distance; the same on one machine for one seed.

    Where there are fewer rows than neighbours and one, all others are neighbours.

    Raises:
        UsageError: a number out of range.
        TableError: too few rows.
    """
    if neighbours < 2:
        raise UsageError(f"neighbours {neighbours} is too small: use 2 or more")
    if not 0 <= min_dist <= 1:
        raise UsageError(f"min-dist {min_dist} is out of range: use a number from 0 to 1")
    if len(values) < FEWEST:
        raise TableError(f"UMAP needs {FEWEST} rows or more, not {len(values)}: average less")
    import umap

    rows = np.asarray(values, dtype=np.float32)
    rows = np.where(rows.any(axis=1, keepdims=True), rows, 1e-6)  # of zeros no direction is known
    model = umap.UMAP(
        n_neighbors=min(neighbours, len(rows) - 1),
        min_dist=min_dist,
        metric="cosine",
        random_state=seed,
        n_jobs=1,
        densmap=densmap,
        init="pca",
    )
    return np.asarray(model.fit_transform(rows), dtype=np.float64)


def _norm(amounts: Values) -> str:
    """How amounts become colours: by their logarithm where they span two powers of ten."""
    return "log" if amounts.min() > 0 and amounts.max() >= 100 * amounts.min() else "linear"


def draw_plane(figure: Any, plane: Values, colour: pl.Series | None, title: str, way: str) -> Any:
    """Points of a plane (N, 2) in the colours of a column; returns the axes.

    Args:
        figure: a figure or a part of one.
        plane: places.
        colour: values (N,); None for points of one colour.
        title: what the colour is.
        way: `UMAP` or `densMAP`.
    """
    axes = figure.subplots()
    size = float(np.clip(4000 / max(len(plane), 1), 6, 36))
    edge = {"linewidths": 0.3, "edgecolors": "white", "s": size}
    if colour is None:
        axes.scatter(plane[:, 0], plane[:, 1], c=PALE, **edge)
    elif is_amount(colour):
        amounts = colour.cast(float).to_numpy().astype(np.float64)
        known = np.isfinite(amounts)
        axes.scatter(plane[~known, 0], plane[~known, 1], c=PALE, marker="X", **edge)
        norm = _norm(amounts[known])
        points = axes.scatter(
            plane[known, 0], plane[known, 1], c=amounts[known], cmap="viridis", norm=norm, **edge
        )
        bar = figure.colorbar(points, ax=axes, label=title, shrink=0.6, pad=0.02, format="{x:g}")
        bar.ax.minorticks_off()
    else:
        kinds = kinds_of(colour)
        # what has no name lies below what has one
        for place in reversed(range(len(kinds.names))):
            own = kinds.codes == place
            axes.scatter(
                plane[own, 0],
                plane[own, 1],
                c=kinds.colours[place],
                marker=kinds.markers[place],
                **edge,
            )
        handles = list(reversed(axes.collections))
        columns = -(-len(kinds.names) // _MOST_IN_A_COLUMN)
        add_legend(
            figure, handles, kinds.names, title, loc="outside right upper", ncols=columns,
            markerscale=float(np.sqrt(24 / size)), handletextpad=0.2,
        )  # fmt: skip
    axes.set(xlabel=f"{way} 1 (no unit)", ylabel=f"{way} 2 (no unit)", xticks=[], yticks=[])
    axes.set_box_aspect(1)
    return axes
