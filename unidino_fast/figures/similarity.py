"""Which groups look alike: Pearson correlation of mean profiles, clustered. G groups, F features.

Average linkage on 1 - r with the leaves in their best order, as in Morelli et al. 2025.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from unidino_fast.errors import TableError
from unidino_fast.figures.kinds import Kinds, kinds_of
from unidino_fast.figures.style import FONT, add_legend

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

FEWEST, MOST = 3, 2000
_AROUND_POINTS, _WIDEST_POINTS = 62.0, 290.0
"""What stands above and below the map, and the side that names and legend leave it at most."""
_LEAST_POINTS, _MOST_POINTS = 5.0, 7.0
_NAMES_SHARE = 0.25
"""Of the figure's width, for names; longer ones are drawn smaller, as far as they can be read."""
_MOST_IN_A_COLUMN = 24


def correlations(rows: Values) -> Values:
    """Pearson correlations (G, G); a constant row correlates 0 with all, and 1 with itself."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = np.divide(centred, length, out=np.zeros_like(centred), where=length > 0)
    found: Values = np.clip(unit @ unit.T, -1, 1)
    np.fill_diagonal(found, 1.0)
    return found


def leaf_order(correlation: Values) -> list[int]:
    """The order of rows in which similar ones are neighbours."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(correlation) < 2:
        return list(range(len(correlation)))
    distance = squareform(np.clip(1 - correlation, 0, 2), checks=False)
    tree = linkage(distance, method="average", optimal_ordering=True)
    return [int(leaf) for leaf in leaves_list(tree)]


def draw_similarity(
    figure: Any,
    means: Values,
    names: Sequence[str],
    label: pl.Series | None,
    titles: tuple[str, str],
) -> Any:
    """A map of mean profiles (G, F) in the order of their clustering; returns its axes.

    Names stand at the rows; where they would be too small to read they are left out.

    Args:
        figure: a figure or a part of one.
        means: one row a group.
        names: of the groups (G,).
        label: a kind for each group (G,), shown as a strip; None for none.
        titles: what the groups are, and what the label is.

    Raises:
        TableError: too few groups, or too many.
    """
    if not FEWEST <= len(means) <= MOST:
        raise TableError(
            f"a similarity map needs {FEWEST} to {MOST} groups, not {len(means)} by {titles[0]}:"
            " use another --by, or narrow the rows with --where"
        )
    correlation = correlations(means)
    order = leaf_order(correlation)
    axes = figure.subplots()
    image = axes.imshow(
        correlation[np.ix_(order, order)], cmap="PuOr_r", vmin=-1, vmax=1, interpolation="nearest"
    )
    axes.spines[:].set_visible(False)
    n = len(order)
    height = figure.bbox.height / figure.dpi * 72
    points = min(min(height - _AROUND_POINTS, _WIDEST_POINTS) / n * 0.95, _MOST_POINTS)
    axes.set(xticks=[], yticks=[])
    if points >= _LEAST_POINTS:
        ordered = [names[place] for place in order]
        room = _NAMES_SHARE * figure.bbox.width / figure.dpi * 72
        widest = max(_width(name, points) for name in ordered)
        points = max(min(points, points * room / max(widest, 1e-9)), _LEAST_POINTS)
        axes.set_yticks(range(n), ordered, fontsize=points)
        axes.tick_params(length=0, pad=2)
        axes.set(ylabel=titles[0])
    else:
        axes.set(ylabel=f"{n} values of {titles[0]}, in the order of the clustering")
    bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.5, pad=0.02, aspect=28)
    bar.set_label("Pearson correlation of mean profiles")
    bar.outline.set_visible(False)
    if label is not None:
        _draw_strip(figure, axes, kinds_of(label[order]), titles[1])
    return axes


def _width(name: str, points: float) -> float:
    """Of a name as it is drawn, in points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    drawn = FontProperties(family=FONT, size=points)
    return float(text_to_path.get_text_width_height_descent(name, drawn, ismath=False)[0])


def _draw_strip(figure: Any, axes: Any, kinds: Kinds, title: str) -> None:
    """Kinds of the groups, a cell each, along the upper edge."""
    from matplotlib.patches import Patch

    strip = axes.inset_axes((0, 1.012, 1, 0.025), sharex=axes)
    for place, (colour, hatch) in enumerate(zip(kinds.colours, kinds.hatches, strict=True)):
        strip.bar(np.flatnonzero(kinds.codes == place), 1, 1, color=colour, hatch=hatch)
    strip.set(ylim=(0, 1), yticks=[])
    strip.tick_params(bottom=False, labelbottom=False)
    strip.spines[:].set_visible(False)
    handles = [
        Patch(facecolor=colour, hatch=hatch)
        for colour, hatch in zip(kinds.colours, kinds.hatches, strict=True)
    ]
    columns = -(-len(kinds.names) // _MOST_IN_A_COLUMN)
    add_legend(figure, handles, kinds.names, title, loc="outside right upper", ncols=columns)
