"""Commands that ask what profiles are worth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from unidino_fast.cli.app import Json, app
from unidino_fast.terminal import tell


@app.command()
def evaluate(
    profiles: Annotated[Path, typer.Argument(help="Table of profiles, .parquet or .csv.")],
    label: Annotated[
        str | None, typer.Option(help="Column that a neighbour should share, such as MoA.")
    ] = None,
    not_same: Annotated[
        list[str] | None,
        typer.Option(help="Column that a neighbour may not share; give it again for several."),
    ] = None,
    preset: Annotated[
        Literal["NSC", "NSCB", "NSPW", "NSB", "NSS", "NSCP"] | None,
        typer.Option(help="Label and exclusions of the paper's metrics by name."),
    ] = None,
    rule: Annotated[
        Literal["strict", "seed"],
        typer.Option(help="strict is the paper's rule, seed that of its released code."),
    ] = "strict",
    as_json: Json = False,
) -> None:
    """Nearest-neighbour accuracy of labelled profiles.

    Does the most similar profile carry the same label? Example: unidino-fast evaluate
    profiles.parquet --label MoA --not-same Compound
    """
    from unidino_fast.evaluation import evaluate as run
    from unidino_fast.tables import read_table

    result = run(read_table(profiles), label, not_same or (), preset=preset, rule=rule)
    if as_json:
        tell(json.dumps(result.to_dict()))
    else:
        tell(result.summary())
