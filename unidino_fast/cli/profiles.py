"""Commands that make profiles of wells."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from unidino_fast.cli.app import app
from unidino_fast.errors import UsageError
from unidino_fast.terminal import say, tell


@app.command()
def profile(
    wells: Annotated[Path, typer.Argument(help="wells.parquet, or any table of profiles.")],
    out: Annotated[Path, typer.Option(help="Table to write, .parquet or .csv.")],
    method: Annotated[
        Literal["mad_robustize", "standardize", "none", "pycytominer_mad_robustize"],
        typer.Option(help="Normalisation."),
    ] = "mad_robustize",
    samples: Annotated[
        str | None,
        typer.Option(
            help="Rows that give centre and spread, such as 'Metadata_Compound == \"DMSO\"'.",
            show_default="all",
        ),
    ] = None,
    by: Annotated[str, typer.Option(help="Column whose groups are normalised apart.")] = (
        "Metadata_Plate"
    ),
) -> None:
    """Normalise a table of wells."""
    from unidino_fast.profiles import describe_neutralised, normalize_with_report
    from unidino_fast.tables import read_table, write_table

    if out.exists() and wells.exists() and out.samefile(wells):
        raise UsageError(f"--out {out} is the table that is read: name another file")
    table = read_table(wells)
    profiles, neutralised = normalize_with_report(table, method, by=by, samples=samples)
    for group in neutralised:
        say(f"warning: {describe_neutralised(group)}")
    recipe = {"method": method, "by": by, "samples": samples, "input": wells.name}
    write_table(profiles, out, recipe)
    tell(f"{out}: {profiles.height} rows, {method} by {by}")
