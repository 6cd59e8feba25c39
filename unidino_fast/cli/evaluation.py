"""Commands that ask what profiles are worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from unidino_fast.cli.app import Features, Json, app
from unidino_fast.terminal import tell


@app.command()
def evaluate(
    profiles: Annotated[Path, typer.Argument(help="Table of profiles, .parquet, .csv or .csv.gz.")],
    metric: Annotated[
        Literal[
            "nearest-neighbour",
            "map",
            "replicating",
            "matching",
            "batch",
            "cell-health",
            "channels",
            "linear-probe",
        ],
        typer.Option(help="What to measure."),
    ] = "nearest-neighbour",
    label: Annotated[
        str | None, typer.Option(help="Column that a match should share, such as MoA.")
    ] = None,
    not_same: Annotated[
        list[str] | None,
        typer.Option(help="Column that a match may not share; give it again for several."),
    ] = None,
    preset: Annotated[
        Literal["NSC", "NSCB", "NSPW", "NSB", "NSS", "NSCP"] | None,
        typer.Option(help="Label and exclusions of the paper's metrics by name."),
    ] = None,
    rule: Annotated[
        Literal["strict", "seed", "paper", "released"] | None,
        typer.Option(
            help="strict (the paper) or seed (its released code); cell-health: paper or released.",
            show_default="the paper's",
        ),
    ] = None,
    level: Annotated[
        str | None,
        typer.Option(
            help="Average rows first: treatment, or columns such as Compound,Plate.",
            show_default="well",
        ),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            help="Columns of replicates, compounds, batches or cell lines; linear-probe: the column"
            " whose values are held out in turn, the plate by default."
        ),
    ] = None,
    readout: Annotated[
        list[str] | None, typer.Option(help="cell-health: columns to predict, such as 'cc_*'.")
    ] = None,
    bootstrap: Annotated[
        int | None, typer.Option(help="Resamples of the intervals; 0 for none.", min=0)
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Instead of a metric: paper-bbbc021, paper-jump-target2, paper-insect,"
            " paper-cell-health, or a TOML file."
        ),
    ] = None,
    join: Annotated[
        list[Path] | None, typer.Option(help="Recipe: table of labels to join; again for several.")
    ] = None,
    normalize: Annotated[
        str | None, typer.Option(help="Recipe: normalise first, such as mad_robustize.")
    ] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(help="Recipe: select features: variance, correlation, na, blocklist."),
    ] = None,
    samples: Annotated[
        str | None, typer.Option(help="Recipe: rows that --normalize learns from.")
    ] = None,
    features: Features = None,
    where: Annotated[
        list[str] | None,
        typer.Option(help="Rows that take part, such as 'Metadata_Compound != \"DMSO\"'."),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(help="gaussian or shuffled: the same for features that know nothing."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Write the rows: .parquet, .csv or .json.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask what labelled profiles are worth.

    Does the most similar profile carry the same label? unidino-fast evaluate profiles.parquet
    --label MoA --not-same Compound

    A row of the paper's table: unidino-fast evaluate profiles.parquet --recipe paper-bbbc021
    """
    from unidino_fast.console import file_progress, log_to_console
    from unidino_fast.evaluate_command import EvaluateOptions, evaluate_table
    from unidino_fast.evaluate_command import as_json as json_of
    from unidino_fast.evaluation.questions import Question

    question = Question(
        metric=metric,
        label=label,
        not_same=tuple(not_same or ()),
        preset=preset,
        rule=rule,
        level=tuple(map(str.strip, level.split(","))) if level and "," in level else level,
        by=tuple(name.strip() for names in by or () for name in names.split(",")),
        readouts=tuple(readout or ()),
        bootstrap=bootstrap,
    )
    options = EvaluateOptions(
        recipe=recipe,
        joins=tuple(join or ()),
        normalize=normalize,
        select=tuple(select or ()),
        samples=samples,
        features=tuple(features or ()),
        where=tuple(where or ()),
        baselines=tuple(baseline or ()),
        out=out,
        seed=seed,
    )
    log_to_console()
    with file_progress("evaluating") as on_step:
        found = evaluate_table(profiles, question, options, on_step)
    tell(json_of(found.document) if as_json else found.text)
