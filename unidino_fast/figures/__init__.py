"""Figures for print: projections, similarity maps, channel importance, curves of Cell Health.

`make` turns a table into a figure, `recipes` bundles what the paper shows of a dataset, `style`
holds colours, sizes and how text and files are written; the kinds of drawing have a file each.
"""

from __future__ import annotations

from unidino_fast.figures.make import FigureOptions, draw_figure, write_figure
from unidino_fast.figures.recipes import KINDS

__all__ = ["KINDS", "FigureOptions", "draw_figure", "write_figure"]
