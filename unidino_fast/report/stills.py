"""Figures that do not move, by matplotlib, for readers whose browser runs no scripts."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from unidino_fast.figures.style import new_figure, style

if TYPE_CHECKING:
    from collections.abc import Callable

_DOTS_PER_INCH = 120


@dataclass(frozen=True, slots=True)
class Still:
    """A picture of a chart.

    Attributes:
        alt: what a reader who cannot see it should know.
        source: PNG as a `data:` URL.
    """

    alt: str
    source: str


def still(draw: Callable[[Any], object], alt: str, height_mm: float) -> Still:
    """What `draw` draws into a figure 180 mm wide; equal figures give equal bytes."""
    held = BytesIO()
    with style():
        figure = new_figure(height_mm)
        draw(figure)
        figure.savefig(held, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})
    return Still(alt, f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}")
