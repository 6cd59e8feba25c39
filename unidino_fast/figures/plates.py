"""Plate maps for print: a cell a well, in the colour of an amount. N wells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from unidino_fast.figures.style import shown
from unidino_fast.names import row_letters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from unidino_fast.names import WellName

    Values = NDArray[np.float64]

ACROSS = 3
"""Maps beside each other."""
_MOST_LABELS = 12


def plate_grid(positions: Sequence[WellName], values: Values) -> tuple[Values, int, int]:
    """Values (N,) as a plate (rows, columns), NaN where no well is; first row (0), column (1)."""
    rows = np.array([position.row for position in positions])
    columns = np.array([position.column for position in positions])
    grid = np.full((int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1), np.nan)
    grid[rows - rows.min(), columns - columns.min()] = values
    return grid, int(rows.min()), int(columns.min())


def draw_plate_maps(
    figure: Any, positions: Sequence[WellName], maps: Sequence[tuple[str, Values, str]]
) -> list[Any]:
    """A map each of (title, values (N,), unit), three in a row; returns their axes."""
    down = -(-len(maps) // ACROSS)
    places = figure.subplots(down, ACROSS, squeeze=False).ravel()
    for axes, (title, values, unit) in zip(places, maps, strict=False):
        grid, first_row, first_column = plate_grid(positions, values)
        axes.set_facecolor("#EEEEEE")
        image = axes.imshow(grid, cmap="viridis", interpolation="nearest")
        across = np.arange(0, grid.shape[1], -(-grid.shape[1] // _MOST_LABELS))
        below = np.arange(0, grid.shape[0], -(-grid.shape[0] // _MOST_LABELS))
        axes.set_xticks(across, [str(first_column + place) for place in across])
        axes.set_yticks(below, [row_letters(first_row + int(place)) for place in below])
        axes.set(title=shown(title), xlabel="plate column", ylabel="plate row")
        axes.tick_params(length=0)
        figure.colorbar(image, ax=axes, location="bottom", label=unit, shrink=0.8, aspect=28)
    for axes in places[len(maps) :]:
        axes.set_visible(False)
    return list(places[: len(maps)])
