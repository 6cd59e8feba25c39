"""Values of a column as kinds with a colour and a second mark, or as amounts. N rows, K kinds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from unidino_fast.figures.style import (
    HATCHES,
    MARKERS,
    MISSING,
    MOST_KINDS,
    OKABE_ITO,
    OTHERS,
    PALE,
    shown,
)
from unidino_fast.names import distinct_names

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

_FEW_VALUES = 12
"""Numbers with no more values than this, such as doses, are kinds."""


@dataclass(frozen=True)
class Kinds:
    """Rows by kind.

    Attributes:
        names: of the kinds (K,), sorted; what is rare, then what is missing, last.
        codes: kind of each row (N,).
        colours: (K,).
        markers: (K,).
        hatches: (K,).
    """

    names: tuple[str, ...]
    codes: NDArray[np.int64]
    colours: tuple[str, ...]
    markers: tuple[str, ...]
    hatches: tuple[str, ...]


def is_amount(values: pl.Series) -> bool:
    """Whether a column is drawn as an amount: numbers of many values."""
    return bool(values.dtype.is_numeric() and values.drop_nulls().n_unique() > _FEW_VALUES)


def kinds_of(values: pl.Series) -> Kinds:
    """Kinds of a column; numbers are steps of viridis.

    Beyond 40 kinds the commonest 39 keep a mark of their own.
    """
    known = values.fill_nan(None) if values.dtype.is_float() else values
    counts = Counter(known.drop_nulls().to_list())
    common = sorted(counts, key=lambda value: (-counts[value], _order(value)))
    if len(common) > MOST_KINDS:
        common = common[: MOST_KINDS - 1]
    ordered = sorted(common, key=_order)
    short = distinct_names(ordered, shown)
    place = {value: index for index, value in enumerate(ordered)}
    n_known = len(ordered)
    codes = np.array(
        [n_known + 1 if value is None else place.get(value, n_known) for value in known],
        dtype=np.int64,
    )
    names = [*(short[value] for value in ordered), OTHERS, MISSING]
    colours = [OKABE_ITO[i % len(OKABE_ITO)] for i in range(n_known)] + [PALE, PALE]
    markers = [MARKERS[i // len(OKABE_ITO)] for i in range(n_known)] + ["o", "X"]
    hatches = [HATCHES[i // len(OKABE_ITO)] for i in range(n_known)] + ["", HATCHES[1]]
    if values.dtype.is_numeric() and n_known <= _FEW_VALUES:
        colours[:n_known], markers[:n_known], hatches[:n_known] = _steps(n_known)
    present = np.unique(codes)
    return Kinds(
        names=tuple(names[i] for i in present),
        codes=np.searchsorted(present, codes),
        colours=tuple(colours[i] for i in present),
        markers=tuple(markers[i] for i in present),
        hatches=tuple(hatches[i] for i in present),
    )


def _steps(n: int) -> tuple[list[str], list[str], list[str]]:
    """Colours, markers and hatches of n steps of an amount; the palest yellow is left out."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    colours = [to_hex(colour) for colour in colormaps["viridis"](np.linspace(0, 0.95, n))]
    return colours, ["o"] * n, [""] * n


def _order(value: object) -> tuple[bool, float, str]:
    """Numbers as numbers, before text."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return (not is_number, float(value) if isinstance(value, int | float) else 0.0, str(value))
