"""The command that holds backbones against each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from unidino_fast.cli.app import Json, app
from unidino_fast.terminal import tell


@app.command()
def compare(
    tables: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Tables of profiles that embed wrote; others as WEIGHTS/DATASET=FILE.",
        ),
    ],
    label: Annotated[str, typer.Option(help="Column to tell, such as MoA.")],
    method: Annotated[
        Literal["linear-probe", "nearest-neighbour"] | None,
        typer.Option(help="How it is told.", show_default="both"),
    ] = None,
    bootstrap: Annotated[
        int, typer.Option(help="Resamples of the intervals; 0 for none.", min=0)
    ] = 1000,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.", min=0)] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Write the figures, a row each: .parquet or .csv.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train on one plate, test on another: a row a backbone, a column a pair of data sets.

    Example: unidino-fast compare runs/*/*/profiles.parquet --label MoA
    """
    from unidino_fast.evaluation.transfer import METHODS, read_data_sets, render, transfer_table
    from unidino_fast.tables import check_output, write_table

    if out is not None:
        check_output(out, {f"the table {text}, which is read": Path(text) for text in tables})
    found = transfer_table(
        read_data_sets(tables),
        label,
        methods=METHODS if method is None else (method,),
        bootstrap=bootstrap,
        seed=seed,
    )
    if out is not None:
        write_table(found, out, {"label": label, "seed": seed})
    tell(json.dumps({"label": label, "rows": found.to_dicts()}) if as_json else render(found))
