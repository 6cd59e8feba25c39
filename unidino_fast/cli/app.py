"""The application that the commands join, and the options that several of them take."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from unidino_fast.errors import UsageError
from unidino_fast.terminal import Commands, tell

app = typer.Typer(
    name="unidino-fast",
    cls=Commands,
    help="Fluorescence-microscopy plates in, normalised well profiles out."
    " Start with: unidino-fast demo",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Weights = Annotated[
    str,
    typer.Option(
        help="Backbone: default, a file, FILE#student, timm:NAME, hf:REPO or random[:SEED]."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
Features = Annotated[
    list[str] | None,
    typer.Option(
        help="Prefix of feature columns, again for several; all else is metadata.",
        show_default="CellProfiler's, or all without Metadata_",
    ),
]
OnError = Annotated[
    Literal["fail", "skip"],
    typer.Option(help="skip leaves out what cannot be read, names it and exits with 3."),
]


def _print_version(asked: bool) -> None:
    if asked:
        from unidino_fast._version import __version__

        tell(__version__)
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where an error came from.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:  # --traceback is taken off before: see `terminal.run`
        tell(context.get_help())
        raise typer.Exit(UsageError.exit_code)
