"""Results -> sections -> files: `report.html` of each plate, and one page over several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from unidino_fast._version import __version__
from unidino_fast.files import atomic
from unidino_fast.report.charts import absent_positions, numbers
from unidino_fast.report.gather import find_plates, read_results
from unidino_fast.report.labels import distinct_names, find_labels, shown, stem
from unidino_fast.report.page import render_page
from unidino_fast.report.plate_maps import plate_section
from unidino_fast.report.projections import projection_section

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


def plate_sections(
    results: PlateResults, labels: Labels, options: ReportOptions
) -> list[Section]:
    """The sections of a plate's page, in their order. One more section is one more line here."""
    return [
        plate_section(results, labels),
        projection_section(results, labels, densmap=options.densmap),
    ]


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
        names = {} if numeric else distinct_names(map(str, values.drop_nulls()))
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


def write_reports(folder: Path, out: Path | None, options: ReportOptions) -> list[Path]:
    """Writes the pages; returns their paths."""
    written = []
    for place in find_plates(folder):
        results = read_results(place)
        labels = find_labels(
            results.profiles, compound=options.compound, moa=options.moa, controls=options.controls
        )
        sections = plate_sections(results, labels, options)
        rows, named = wells_data(results, labels, sections)
        data = {
            "data": {"wells": rows, "absent": absent_positions(results.positions)},
            "labels": named,
            "facts": [],
            "pictures": None,
            "no_pictures": "",
        }
        text = render_page(
            "page.html", sections, data, name=results.name, title=results.name, lead="",
            campaign=None, version=__version__,
        )
        path = out or place / "report.html"
        with atomic(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        written.append(path)
    return written
