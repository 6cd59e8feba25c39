"""The command that draws figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unidino_fast.cli.app import Features, app
from unidino_fast.terminal import tell


@app.command()
def figures(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="umap, similarity, importance, st-curves; or what the paper shows of a dataset:"
            " bbbc021, insect, cell-health.",
        ),
    ],
    table: Annotated[
        Path,
        typer.Argument(
            help="Table of profiles, .parquet or .csv; for curves also what evaluate --out wrote."
        ),
    ],
    out: Annotated[Path, typer.Option(help="File to write: .png, .svg or .pdf.")],
    label: Annotated[
        str | None,
        typer.Option(help="Column of colours (or, of importance, classes), such as MoA."),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            help="similarity: columns whose rows are averaged, with commas between; st-curves: the"
            " cell line.",
            show_default="Compound",
        ),
    ] = None,
    level: Annotated[
        str | None,
        typer.Option(
            help="Average rows first: treatment, or columns such as Compound,Plate.",
            show_default="rows as they are",
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(help="Rows that take part, such as 'Metadata_Compound != \"DMSO\"'."),
    ] = None,
    neighbours: Annotated[
        int | None, typer.Option(help="umap: neighbours of a point.", show_default="15")
    ] = None,
    min_dist: Annotated[
        float | None,
        typer.Option(help="umap: least distance of points, 0 to 1.", show_default="0.1"),
    ] = None,
    densmap: Annotated[
        bool, typer.Option("--densmap", help="umap: densMAP, which keeps densities.")
    ] = False,
    channels: Annotated[
        str | None,
        typer.Option(
            help="importance: parts of the features' names that are channels, with commas between.",
            show_default="names begin with their channel",
        ),
    ] = None,
    readout: Annotated[
        list[str] | None, typer.Option(help="st-curves of profiles: columns, such as 'cc_*'.")
    ] = None,
    join: Annotated[
        list[Path] | None,
        typer.Option(help="A dataset's: table of labels to join; again for several."),
    ] = None,
    normalize: Annotated[
        str | None, typer.Option(help="A dataset's: normalise first, such as mad_robustize.")
    ] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(help="A dataset's: select features: variance, correlation, na, blocklist."),
    ] = None,
    samples: Annotated[
        str | None, typer.Option(help="A dataset's: rows that --normalize learns from.")
    ] = None,
    features: Features = None,
    seed: Annotated[
        int | None, typer.Option(help="Of projections and forests.", min=0, show_default="0")
    ] = None,
) -> None:
    """Draw a figure for print: 180 mm wide, 300 dots an inch, legible in any colour vision.

    Example: unidino-fast figures umap results/plate/profiles.parquet --label MoA --out umap.pdf

    The paper's of a dataset: unidino-fast figures bbbc021 profiles.parquet --out bbbc021.pdf
    """
    from unidino_fast.console import file_progress, log_to_console
    from unidino_fast.figures import FigureOptions, write_figure

    options = FigureOptions(
        label=label,
        by=_names(by),
        level=_names(level),
        where=tuple(where or ()),
        features=tuple(features or ()),
        neighbours=neighbours,
        min_dist=min_dist,
        densmap=densmap or None,
        channels=_names(channels),
        readouts=tuple(readout or ()),
        joins=tuple(join or ()),
        normalize=normalize,
        select=tuple(select or ()),
        samples=samples,
        seed=seed,
    )
    log_to_console()
    with file_progress("drawing") as on_step:
        write_figure(kind, table, out, options, on_step)
    tell(f"{out}: {kind} of {table.name}")


def _names(text: str | None) -> tuple[str, ...]:
    return () if text is None else tuple(name.strip() for name in text.split(","))
