"""Results -> sections -> files: `report.html` of each plate, and one page over several."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import polars as pl

from unidino_fast._version import __version__
from unidino_fast.errors import OutputError
from unidino_fast.files import atomic, reason_of
from unidino_fast.names import QUALITY, REPORT, distinct_names
from unidino_fast.report.campaign import campaign_page
from unidino_fast.report.charts import absent_positions, numbers
from unidino_fast.report.gather import as_object, find_plates, read_json, read_results
from unidino_fast.report.importance import importance_section
from unidino_fast.report.labels import find_labels, shown, stem
from unidino_fast.report.page import render_page
from unidino_fast.report.pictures import Pictures, take_pictures
from unidino_fast.report.plate_maps import plate_section
from unidino_fast.report.position import position_section
from unidino_fast.report.projections import projection_section
from unidino_fast.report.replicates import replicate_section
from unidino_fast.report.similarity import similarity_section
from unidino_fast.report.summary import (
    provenance_section,
    verdict_section,
    warning_section,
    warnings_of,
)
from unidino_fast.report.unusual import unusual_section

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from unidino_fast.report.gather import PlateResults
    from unidino_fast.report.labels import Labels
    from unidino_fast.report.section import Section


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions:
    """What a report is to show.

    Attributes:
        compound: column of what replicates share; found by its name by default.
        moa: column of mechanisms; found by its name by default.
        controls: query for negative controls; found by usual names by default.
        plates: where plates lie now, for those that are not where they were embedded.
        densmap: a densMAP beside the UMAP.
        pictures: pictures of the fields.
    """

    compound: str | None = None
    moa: str | None = None
    controls: str | None = None
    plates: tuple[str, ...] = ()
    densmap: bool = False
    pictures: bool = True


_Part = Callable[["PlateResults", "Labels", ReportOptions], "Section | None"]

PARTS: tuple[_Part, ...] = (
    lambda results, labels, options: plate_section(results, labels),
    lambda results, labels, options: position_section(results, labels),
    lambda results, labels, options: projection_section(results, labels, densmap=options.densmap),
    lambda results, labels, options: similarity_section(results, labels),
    lambda results, labels, options: replicate_section(results, labels),
    lambda results, labels, options: unusual_section(results, labels),
    lambda results, labels, options: importance_section(results, labels),
)
"""The sections of a plate's page between verdict and warnings; one more is one more line."""


def wells_data(
    results: PlateResults, labels: Labels, sections: Sequence[Section]
) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """A row a well, with what all sections add; and the labels: (field, name) each."""
    columns: dict[str, Sequence[Any]] = {
        "w": results.names,
        "r": [position.row_letters for position in results.positions],
        "c": [position.column for position in results.positions],
        "q": _flags(results.profiles),
    }
    named = []
    for index, column in enumerate(labels.columns):
        values = results.profiles[column]
        numeric = values.dtype.is_numeric()
        names = {} if numeric else distinct_names(map(str, values.drop_nulls()), shown)
        columns[f"m{index}"] = (
            numbers(values)
            if numeric
            else [None if value is None else names[str(value)] for value in values]
        )
        named.append((f"m{index}", stem(column)))
    for section in sections:
        columns.update(section.columns)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return rows, named


def _flags(profiles: pl.DataFrame) -> list[str]:
    if "Metadata_QC_Flags" not in profiles.columns:
        return [""] * len(profiles)
    flags = profiles["Metadata_QC_Flags"].cast(pl.String).fill_null("")
    return [shown(text.replace(";", ", "), 300) for text in flags]


@dataclass(frozen=True, slots=True)
class PlatePage:
    """A plate's page, and what a page over several plates says of it.

    Attributes:
        results: of the plate.
        labels: of its wells.
        verdict: the section at the top.
        html: the page.
    """

    results: PlateResults
    labels: Labels
    verdict: Section
    html: str


def plate_page(folder: Path, options: ReportOptions, campaign: str | None = None) -> PlatePage:
    """The page of one plate.

    Args:
        folder: of its results.
        options: what to show.
        campaign: relative link to the page over several plates.

    Raises:
        TableError: its tables cannot be read, or lack a column that the options name.
        UsageError: the query for controls is none.
    """
    results = read_results(folder)
    labels = find_labels(
        results.profiles, compound=options.compound, moa=options.moa, controls=options.controls
    )
    sections = [part(results, labels, options) for part in PARTS]
    there = [section for section in sections if section is not None]
    pictures = take_pictures(results, options.plates) if options.pictures else Pictures(None)
    warnings = [*warnings_of(results, there), *pictures.warnings]
    findings = [finding for section in there for finding in section.findings]
    verdict = verdict_section(results, findings, warnings, pictures.reason)
    page = [verdict, *there, warning_section(warnings), provenance_section(results)]
    rows, named = wells_data(results, labels, page)
    reference = "controls" if labels.controls is not None else "the plate's median"
    data = {
        "data": {"wells": rows, "absent": absent_positions(results.positions)},
        "labels": named,
        "facts": [
            ("d", f"Distance to {reference}", "robust SD per feature"),
            ("a", "Whitened distance to controls", "SD"),
            ("ap", "p of this distance", ""),
            ("aq", "q of this distance", ""),
            ("t", "Tiles per channel", ""),
        ],
        "pictures": pictures.document,
        "no_pictures": pictures.reason or "Pictures were left out of this report.",
    }
    html = render_page(
        "page.html",
        page,
        data,
        name=results.name,
        title=f"{shown(results.name)}: plate report",
        lead=_lead(results),
        campaign=campaign,
        version=__version__,
    )
    return PlatePage(results, labels, verdict, html)


def _lead(results: PlateResults) -> str:
    model = as_object(results.provenance.get("model"))
    parts = [
        "1 well" if len(results.names) == 1 else f"{len(results.names)} wells",
        f"channels {', '.join(map(shown, results.channels))}",
        f"weights {shown(model['weights'])}" if model.get("weights") else "",
        f"embedded {shown(results.run['finished'])[:10]}" if results.run.get("finished") else "",
    ]
    return "; ".join(part for part in parts if part)


def write_reports(folder: Path, out: Path | None, options: ReportOptions) -> list[Path]:
    """Writes a page a plate, and one over all where there are several.

    Args:
        folder: what `embed --out` was given, or one plate in it.
        out: the file of the page; of several plates that over all, with theirs beside it. By
            default `report.html` in each plate's folder, and in `folder`.
        options: what to show.

    Returns:
        The files, the one to open first in front.

    Raises:
        OutputError: there are no results, or a file cannot be written.
        TableError: a plate's tables cannot be read.
    """
    places = find_plates(folder)
    if len(places) == 1:
        path = out or places[0] / REPORT
        _write(path, plate_page(places[0], options).html)
        return [path]
    first = out or folder / REPORT
    quality = read_json(folder / QUALITY)[0]
    pages, paths = [], []
    for place in places:
        path = place / REPORT if out is None else out.with_name(f"{out.stem}-{place.name}.html")
        page = plate_page(place, options, _link(first, path))
        _write(path, page.html)
        pages.append(page)
        paths.append(path)
    links = [_link(path, first) for path in paths]
    _write(first, campaign_page(pages, links, quality))
    return [first, *paths]


def _link(to: Path, of: Path) -> str:
    """Relative link from one file to another."""
    return quote(os.path.relpath(to, of.parent).replace(os.sep, "/"))


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{path.parent} cannot be made ({reason_of(error)}): choose another --out"
        ) from error
    with atomic(path) as temporary:  # a lone surrogate of a file name has no UTF-8
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
