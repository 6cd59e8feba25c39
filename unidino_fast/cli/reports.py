"""The command that makes pages to look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from unidino_fast.cli.app import Json, app
from unidino_fast.terminal import interruptible, tell


@app.command()
def report(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="What embed --out was given, or one plate in it.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="File of the page; of several plates that over all, with theirs beside it.",
            show_default="report.html in DIR and in each plate's folder",
        ),
    ] = None,
    compound: Annotated[
        str | None,
        typer.Option(
            help="Column that replicates share, such as Compound.", show_default="by its name"
        ),
    ] = None,
    moa: Annotated[
        str | None,
        typer.Option(help="Column of mechanisms, such as MoA.", show_default="by its name"),
    ] = None,
    controls: Annotated[
        str | None,
        typer.Option(
            help="Negative controls, such as 'Metadata_Compound == \"DMSO\"'.",
            show_default="by usual names",
        ),
    ] = None,
    plate: Annotated[
        list[str] | None,
        typer.Option(
            help="Where a plate lies now, again for several.",
            show_default="where it was embedded",
        ),
    ] = None,
    densmap: Annotated[
        bool, typer.Option("--densmap", help="densMAP, too, beside UMAP and PCA.")
    ] = False,
    no_pictures: Annotated[
        bool, typer.Option("--no-pictures", help="Leave the pictures of the fields out.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make one HTML page a plate: is it sound, and what did the embedding see?

    The file holds all it shows: it opens from disk and connects to nothing. Example:
    unidino-fast report results
    """
    from unidino_fast.report import ReportOptions, write_reports

    options = ReportOptions(
        compound=compound,
        moa=moa,
        controls=controls,
        plates=tuple(plate or ()),
        densmap=densmap,
        pictures=not no_pictures,
    )
    with interruptible("run it again to have all pages"):
        paths = write_reports(folder, out, options)
    if as_json:
        tell(json.dumps({"report": str(paths[0]), "pages": [str(path) for path in paths]}))
    else:
        tell("\n".join(str(path) for path in paths))
