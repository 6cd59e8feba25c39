"""The command that finds what is unlike the controls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from unidino_fast.cli.app import Features, Json, app
from unidino_fast.names import short_line
from unidino_fast.terminal import say, tell

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl

    from unidino_fast.novelty import Unusual

_MOST_SHOWN = 10
_MOST_WELLS = 12
_LONGEST = 60
"""Characters of a name."""


@app.command()
def unusual(
    profiles: Annotated[
        Path, typer.Argument(help="Table of wells, fields or profiles, .parquet or .csv.")
    ],
    samples: Annotated[
        str, typer.Option(help="The controls, such as 'Metadata_Compound == \"DMSO\"'.")
    ],
    label: Annotated[
        str | None, typer.Option(help="Column of known labels, such as MoA; empty where unknown.")
    ] = None,
    treatment: Annotated[
        list[str] | None,
        typer.Option(help="Column that names a treatment besides --label; again for several."),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            help="Columns whose groups have controls of their own, with commas; all for none.",
            show_default="Plate, where there is one",
        ),
    ] = None,
    measure: Annotated[
        Literal["mahalanobis", "knn"],
        typer.Option(help="Which distance decides; both are written."),
    ] = "mahalanobis",
    tail: Annotated[
        Literal["empirical", "lognormal"],
        typer.Option(
            help="P-values: counted among controls that were left out, or of a lognormal through"
            " their distances, for fewer than about 20 controls."
        ),
    ] = "empirical",
    fdr: Annotated[float, typer.Option(help="False discovery rate of what is unusual.")] = 0.05,
    k: Annotated[
        int | None, typer.Option("--k", help="Nearest controls, of knn.", show_default="5")
    ] = None,
    variance: Annotated[
        float, typer.Option(help="Share of the variance that the components hold.")
    ] = 0.95,
    smallest: Annotated[int, typer.Option(help="Wells that make a cluster.")] = 4,
    explained: Annotated[
        float,
        typer.Option(
            help="A cluster is explained where more than this share of it has one --label."
        ),
    ] = 0.5,
    nearest: Annotated[int, typer.Option(help="Known treatments to name for each cluster.")] = 3,
    features: Features = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Table to write, a row a well or field: .parquet or .csv."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Find wells and fields unlike the controls, and new phenotypes among them.

    Example: unidino-fast unusual results/plate/wells.parquet --samples 'Metadata_Compound ==
    "DMSO"' --label MoA --treatment Compound

    Distances to the controls become p-values by controls that were left out, and are corrected for
    a false discovery rate. Unusual wells are clustered; a cluster that no known label explains is a
    candidate for a new phenotype.
    """
    from unidino_fast.console import log_to_console
    from unidino_fast.novelty import find_unusual
    from unidino_fast.tables import check_output, write_table

    if out is not None:
        check_output(out, {"the table that is read": profiles})
    log_to_console()
    found = find_unusual(
        profiles,
        samples,
        label=label,
        treatment=treatment or (),
        by=() if by == "all" else None if by is None else [n.strip() for n in by.split(",")],
        measure=measure,
        tail=tail,
        fdr=fdr,
        k=k,
        variance=variance,
        smallest=smallest,
        explained=explained,
        n_nearest=nearest,
        features=features or (),
    )
    for line in found.warnings:
        say(f"warning: {line}")
    if out is not None:
        write_table(found.rows, out, {"input": profiles.name, **found.options})
    if as_json:
        tell(json.dumps(found.to_dict(), allow_nan=False, default=str))
        return
    for line in _lines(found):
        tell(line)
    if out is not None:
        tell(f"{out}: {len(found.rows)} rows")


def _lines(found: Unusual) -> Iterator[str]:
    options, wells = found.options, found.wells
    measure, rate = options["measure"], options["fdr"]
    if len(found.rows) != len(wells):
        judged = found.rows.filter(~found.rows["control"])
        yield f"{_share(judged)} fields are unusual at a false discovery rate of {rate:g}"
    judged = wells.filter(~wells["control"])
    yield (
        f"{_share(judged)} wells are unusual at a false discovery rate of {rate:g}: {measure}"
        f" distance to {found.n_controls} controls, {found.n_components} components"
    )
    middle = wells.filter(wells["control"])[measure].median()
    furthest = judged.sort(measure, descending=True, maintain_order=True).head(_MOST_SHOWN)
    yield f"furthest (a control: {middle:.1f}):"
    for row in furthest.to_dicts():
        numbers = f"{row[measure]:>7.1f}  p {row[f'{measure}_p']:.3g}  q {row[f'{measure}_q']:.3g}"
        yield f"{numbers}  {_about(row)}"
    n_left = int(judged["unusual"].sum()) - int(judged["cluster"].is_not_null().sum())
    yield f"{len(found.clusters)} clusters of unusual wells; {n_left} wells are in none"
    for row in found.clusters.to_dicts():
        yield from _cluster_lines(found, row)


def _share(judged: pl.DataFrame) -> str:
    return f"{int(judged['unusual'].sum())} of {len(judged)}"


def _cluster_lines(found: Unusual, row: dict[str, Any]) -> Iterator[str]:
    label = row["label"]
    of_label = "" if label is None else f", {row['share']:.0%} {short_line(label, _LONGEST)}"
    state = "explained" if row["explained"] else "candidate"
    yield f"cluster {row['cluster']}: {state}, {row['n_wells']} wells{of_label}"
    if row["explained"]:
        return
    members = found.wells[row["rows"]].to_dicts()
    more = f" and {len(members) - _MOST_WELLS} more" if len(members) > _MOST_WELLS else ""
    yield f"    wells: {'; '.join(_about(member) for member in members[:_MOST_WELLS])}{more}"
    nearest = found.nearest.filter(found.nearest["cluster"] == row["cluster"])
    if len(nearest):
        yield f"    nearest: {', '.join(_neighbours(nearest, found.options['treatment']))}"


def _neighbours(nearest: pl.DataFrame, treatment: list[str]) -> Iterator[str]:
    for row in nearest.to_dicts():
        name = " ".join(short_line(row[column], _LONGEST) for column in treatment)
        yield f"{name} ({row['similarity']:.2f})"


def _about(row: dict[str, Any]) -> str:
    """Where a row is and what is known of it."""
    names = ("Plate", "Well", "Site", "Time", "Compound", "Concentration", "MoA")
    values = [row.get(f"Metadata_{name}") for name in names]
    known = [short_line(value, _LONGEST) for value in values if value is not None]
    return " ".join(known) or "row"
