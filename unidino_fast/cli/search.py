"""The command that finds similar profiles."""

from __future__ import annotations

import json
import math
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unidino_fast.cli.app import Features, Json, app
from unidino_fast.names import short_line
from unidino_fast.terminal import tell

if TYPE_CHECKING:
    from collections.abc import Iterator

_SHOWN = ("Plate", "Well", "Compound", "Concentration", "MoA")
_LONGEST = 60
"""Characters of a name."""


@app.command()
def search(
    profiles: Annotated[Path, typer.Argument(help="Table of profiles, .parquet or .csv.")],
    query: Annotated[
        str | None,
        typer.Option(help="Rows to search for, such as 'Metadata_Compound == \"taxol\"'."),
    ] = None,
    query_table: Annotated[
        Path | None,
        typer.Option(help="Table that the queries are in.", show_default="the profiles"),
    ] = None,
    k: Annotated[int, typer.Option("--k", help="Profiles to find for each query.")] = 20,
    not_same: Annotated[
        list[str] | None,
        typer.Option(
            help="Column that a find may not share; again for several. Null is not found."
        ),
    ] = None,
    consensus: Annotated[
        bool, typer.Option("--consensus", help="Search once, for the mean of the queries.")
    ] = False,
    index: Annotated[
        Path | None,
        typer.Option(help=".npy file that makes repeated searches fast; made if need be."),
    ] = None,
    features: Features = None,
    out: Annotated[
        Path | None, typer.Option(help="Table to write, .parquet or .csv.", show_default="none")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find the most similar profiles, exactly, among millions.

    Example: unidino-fast search profiles.parquet --query 'Metadata_Compound == "taxol"'
    --not-same Compound --k 20
    """
    from unidino_fast.console import log_to_console
    from unidino_fast.evaluation import search as run
    from unidino_fast.tables import check_output, write_table

    if out is not None:
        check_output(out, {"the table that is read": profiles, "the query table": query_table})
    log_to_console()

    options: dict[str, Any] = {"k": k, "not_same": not_same or [], "consensus": consensus}
    found = run(
        profiles, query, query_table=query_table, index=index, features=features or (), **options
    )
    if out is not None:
        asked = {"query": query, "query_table": None if query_table is None else str(query_table)}
        write_table(found, out, {"profiles": str(profiles), **asked, **options})
    if as_json:
        rows = [{name: _strict(value) for name, value in row.items()} for row in found.to_dicts()]
        document = {**options, "n_found": len(rows), "neighbours": rows}
        tell(json.dumps(document, default=str, allow_nan=False))
        return
    for line in _lines(found.to_dicts(), options["not_same"]):
        tell(line)
    if out is not None:
        tell(f"{out}: {len(found)} rows")


def _lines(found: list[dict[str, Any]], not_same: list[str]) -> Iterator[str]:
    """The finds of each query under its name."""
    names = dict.fromkeys([*_SHOWN, *(name.removeprefix("Metadata_") for name in not_same)])
    for query, rows in groupby(found, key=lambda row: row["query"]):
        finds = list(rows)
        about = _about(finds[0], "Query_", names)
        yield f"query {query}{': ' if about else ''}{about}"
        for row in finds:
            about = _about(row, "Metadata_", names)
            yield f"{row['rank']:>6}  {row['similarity']:.4f}  row {row['row']}  {about}".rstrip()
    if not found:
        yield "nothing found: --not-same leaves no row"


def _strict(value: Any) -> Any:
    """A cell as JSON has it: null for NaN and infinity, wherever in it."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        return [_strict(part) for part in value]
    if isinstance(value, dict):
        return {name: _strict(part) for name, part in value.items()}
    return value


def _about(row: dict[str, Any], prefix: str, names: dict[str, None]) -> str:
    """What is known of a row, of the columns that people look for."""
    known = [
        short_line(row[prefix + name], _LONGEST)
        for name in names
        if row.get(prefix + name) is not None
    ]
    return ", ".join(known)
