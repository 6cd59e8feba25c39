"""A look at each dataset before training: what is too small, too dark or unreadable is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from unidino_fast.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unidino_fast.training.sources import Source

_LOOKS = 8
_DARK = 0.05
"""Brightest intensities below this are lost in shifts of up to 0.3."""


def survey(sources: Sequence[Source], *, size: int) -> list[str]:
    """Reads some planes of each dataset; gives warnings, a line each.

    Args:
        sources: datasets.
        size: edge of the largest views, in pixels.

    Raises:
        TrainingError: a plane cannot be read, holds NaN or floating-point pixels beyond 0 and 1
            with intensity `dtype`, or all that were read hold one value alone.
    """
    warnings = []
    for source in sources:
        if source.n_small:
            warnings.append(
                f"dataset {source.name}: {source.n_small} of {source.n_small + len(source)} images"
                f" are smaller than {size} x {size} px and left out"
            )
        brightest = _brightest(source)
        if max(brightest) == 0:
            raise TrainingError(
                f"dataset {source.name} is too dark: {len(brightest)} of its images, such as"
                f" {source.describe(0)}, hold no signal: take it out or correct its path"
            )
        typical = float(np.median(brightest))
        if typical < _DARK:
            warnings.append(
                f"dataset {source.name} is dark: its brightest pixels reach {typical:.2%} of the"
                ' range: set intensity = "percentile" for it'
            )
    return warnings


def _brightest(source: Source) -> list[float]:
    """The 99.9 percentile of some planes, scaled as in training; 0 where there is one value."""
    found = []
    for index in np.unique(np.linspace(0, len(source) - 1, _LOOKS).astype(int)).tolist():
        plane = source.plane(index)
        if not np.isfinite(plane).all():
            raise TrainingError(
                f"dataset {source.name}: {source.describe(index)} holds NaN or infinite pixels:"
                " fill them before training"
            )
        if np.ptp(plane) == 0:
            found.append(0.0)
            continue
        low, span = source.bounds(index)
        lowest, highest = float(plane.min()), float(plane.max())
        if (
            plane.dtype.kind == "f"
            and (low, span) == (0.0, 1.0)
            and not 0 <= lowest <= highest <= 1
        ):
            raise TrainingError(
                f"dataset {source.name}: floating-point pixels of {source.describe(index)} run from"
                f" {lowest:g} to {highest:g}, but intensity dtype takes them as 0 to 1: set"
                ' intensity = "percentile" for it'
            )
        found.append(min(max((float(np.percentile(plane, 99.9)) - low) / span, 0.0), 1.0))
    return found
