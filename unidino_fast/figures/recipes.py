"""Which figures there are, what each takes, and what the paper shows of which dataset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from unidino_fast.errors import UsageError
from unidino_fast.names import one_line

Panel = Literal["umap", "similarity", "importance", "st-curves"]


@dataclass(frozen=True, slots=True)
class Page:
    """What the paper shows of one dataset (Morelli et al. 2025).

    Attributes:
        protocol: name of the evaluation's recipe that prepares the table.
        panels: from above; none for curves of Cell Health alone.
        level: columns that rows are averaged by for the projection; none for wells.
        neighbours: of UMAP.
        min_dist: of UMAP.
        densmap: whether it keeps densities.
        channels: parts of CellProfiler's names of features, for tables of those.
    """

    protocol: str
    panels: tuple[Panel, ...]
    level: tuple[str, ...] = ()
    neighbours: int = 15
    min_dist: float = 0.1
    densmap: bool = False
    channels: tuple[str, ...] = ()


PAGES = {
    "bbbc021": Page(
        "paper-bbbc021",
        ("umap", "similarity", "importance"),
        level=("Metadata_Compound", "Metadata_Concentration", "Metadata_Batch"),
        densmap=True,
        channels=("CorrDAPI", "CorrTub", "CorrActin"),
    ),
    "insect": Page(
        "paper-insect", ("umap", "similarity", "importance"), neighbours=20, min_dist=0.8
    ),
    "cell-health": Page("paper-cell-health", ("st-curves",)),
}
KINDS = ("umap", "similarity", "importance", "st-curves", *PAGES)

_COMMON = {"features", "where", "seed"}
_OF_PAGES = _COMMON | {"joins", "normalize", "select", "samples", "channels"}
TAKES: dict[str, set[str]] = {
    "umap": _COMMON | {"label", "level", "neighbours", "min_dist", "densmap"},
    "similarity": _COMMON - {"seed"} | {"label", "by"},
    "importance": _COMMON | {"label", "level", "channels"},
    "st-curves": _COMMON | {"by", "readouts"},
    **dict.fromkeys(PAGES, _OF_PAGES),
}


def known_kind(kind: str) -> str:
    """A kind of figure by its name; `paper-` before a dataset may stand there.

    Raises:
        UsageError: there is no such figure.
    """
    short = kind.removeprefix("paper-") if kind.removeprefix("paper-") in PAGES else kind
    if short not in KINDS:
        raise UsageError(f"figure {one_line(kind)!r} is unknown: use {', '.join(KINDS)}")
    return short
