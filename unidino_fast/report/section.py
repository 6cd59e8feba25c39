"""What a section of the page is made of, and the choices that its charts offer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from unidino_fast.report.stills import Still

Spec = dict[str, Any]
"""A Vega-Lite chart: fields and expressions are ours, foreign text is data in it, never code."""


@dataclass(frozen=True, slots=True)
class Option:
    """One entry of a choice, and what it changes in the charts of its section.

    Attributes:
        label: as shown.
        patches: chart -> path in its specification -> new value.
    """

    label: str
    patches: Mapping[str, Sequence[tuple[Sequence[str | int], Any]]]


@dataclass(frozen=True, slots=True)
class Choice:
    """A list to choose from, above the charts of a section."""

    key: str
    label: str
    options: Sequence[Option]


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart and how it fits its place.

    Attributes:
        key: name of the element that it is drawn into.
        spec: Vega-Lite.
        alt: what a reader who cannot see it should know.
        steps: (columns, rows) of a chart of cells, whose size follows from its place's width.
    """

    key: str
    spec: Spec
    alt: str
    steps: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the verdict at the top of the page.

    Attributes:
        label: what was asked.
        value: the answer, short.
        detail: what it means.
        state: `good`, `look` where a person should look, or `none` where nothing is judged.
        target: key of the section that says more.
    """

    label: str
    value: str
    detail: str
    state: str
    target: str


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page.

    Attributes:
        key: its name in links, and of its template, `templates/KEY.html`.
        title: heading.
        values: what the template shows.
        charts: in it.
        choices: above them.
        columns: what it adds to the data of the wells: field -> a value a well.
        data: further named data of its charts.
        stills: pictures of its charts, for readers without scripts.
        findings: its lines of the verdict.
        warnings: what a person should know, a line each.
    """

    key: str
    title: str
    values: Mapping[str, Any] = field(default_factory=dict)
    charts: Sequence[Chart] = ()
    choices: Sequence[Choice] = ()
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    data: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    stills: Sequence[Still] = ()
    findings: Sequence[Finding] = ()
    warnings: Sequence[str] = ()
