"""Commands that make profiles of wells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from unidino_fast.cli.app import Features, Json, app
from unidino_fast.errors import UsageError
from unidino_fast.terminal import say, tell

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

    from unidino_fast.profiles import Recipe, Report

_MOST_LINES = 5


@app.command()
def profile(
    wells: Annotated[Path, typer.Argument(help="wells.parquet, or any table of profiles.")],
    out: Annotated[Path, typer.Option(help="Table to write: .parquet, .csv or .h5ad (AnnData).")],
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Normalisation: mad_robustize, standardize, spherize, spherize_zca, spherize_pca,"
            " spherize_pca_cor, tvn, tvn_efaar, l2, pca, harmony, none, pycytominer_mad_robustize;"
            " give it again for several, in order.",
            show_default="mad_robustize",
        ),
    ] = None,
    samples: Annotated[
        list[str] | None,
        typer.Option(
            help="Rows to learn from, such as 'Metadata_Compound == \"DMSO\"': for all methods, or"
            " once for each.",
            show_default="all",
        ),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            help="Column (Plate or Metadata_Plate), or columns with commas, whose groups are"
            " normalised apart (tvn, harmony: the batches), or all for all rows together: for all"
            " methods, or once for each.",
            show_default="Metadata_Plate, or all where features are mixed",
        ),
    ] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(
            help="Feature selection after that: variance, low_variance, correlation, na, blocklist,"
            " outliers; give it again for several, in order."
        ),
    ] = None,
    consensus: Annotated[
        str | None,
        typer.Option(help="Column, or columns with commas, whose rows become one profile."),
    ] = None,
    statistic: Annotated[
        Literal["mean", "median", "modz"] | None,
        typer.Option(help="Of the consensus.", show_default="modz"),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="TOML file with all of these as steps, or spherize-then-mad."),
    ] = None,
    drop_qc: Annotated[
        bool,
        typer.Option(
            "--drop-qc", help="Leave out wells that quality control flagged, before all else."
        ),
    ] = False,
    features: Features = None,
    as_json: Json = False,
) -> None:
    """Normalise a table of wells, select features, join replicates.

    Example: unidino-fast profile wells.parquet --out profiles.parquet --method tvn
    --samples 'Metadata_Compound == "DMSO"'
    """
    from unidino_fast.anndata_file import SUFFIX, load_h5py
    from unidino_fast.profiles.recipe import read_recipe
    from unidino_fast.tables import OUTPUT_SUFFIXES, check_output

    check_output(out, {"the table that is read": wells}, (*OUTPUT_SUFFIXES, SUFFIX))
    if out.suffix.lower() == SUFFIX:
        load_h5py()  # whether it is there, before the work
    typed = {
        "--method": method, "--samples": samples, "--by": by, "--select": select,
        "--consensus": consensus, "--statistic": statistic,
    }  # fmt: skip
    if recipe is None:
        steps = _typed_recipe(
            method or ["mad_robustize"], samples, by, select, consensus, statistic
        )
    else:
        for name, value in typed.items():
            if value is not None:
                raise UsageError(f"--recipe and {name} exclude each other: write it in the recipe")
        steps = read_recipe(recipe)
    summary = _run(wells, out, steps, features or (), drop_qc=drop_qc, as_json=as_json)
    if as_json:
        tell(json.dumps(summary))


def _typed_recipe(
    methods: Sequence[str],
    samples: Sequence[str] | None,
    by: Sequence[str] | None,
    select: Sequence[str] | None,
    consensus: str | None,
    statistic: str | None,
) -> Recipe:
    """The recipe that options make.

    Samples and groups that are given once go to every method that knows them.
    """
    from unidino_fast.profiles.normalize import ALL, Normalisation
    from unidino_fast.profiles.recipe import Consensus, Recipe, Selection, Step

    if statistic is not None and consensus is None:
        raise UsageError("--statistic is that of a consensus: add --consensus, or leave it out")
    steps: list[Step] = []
    for name, query, groups in zip(
        methods,
        _for_each(samples, len(methods), "--samples"),
        _for_each(by, len(methods), "--by"),
        strict=True,
    ):
        knows = Normalisation.knows(name)
        takes_by = groups is not None and (knows.groups or len(by or ()) == len(methods))
        takes_query = query not in (None, ALL) and (
            knows.samples or len(samples or ()) == len(methods)
        )
        columns = _columns(groups) if takes_by and groups is not None else None
        steps.append(Normalisation.of(name, columns, query if takes_query else None))
    if select:
        steps.append(Selection.of(select))
    if consensus is not None:
        steps.append(Consensus.of(_columns(consensus), statistic=statistic or "modz"))
    return Recipe(tuple(steps))


def _for_each(values: Sequence[str] | None, n_methods: int, option: str) -> Sequence[str | None]:
    """One value for each method, of one for all or of as many as there are."""
    if not values or len(values) == 1:
        return [values[0] if values else None] * n_methods
    if len(values) != n_methods:
        raise UsageError(
            f"{option} is given {len(values)} times for {n_methods} methods: give it once, or once"
            " for each"
        )
    return values


def _columns(text: str) -> list[str]:
    """Names with commas between; a name that holds a comma can stand in a recipe."""
    return [name.strip() for name in text.split(",")]


def _run(
    wells: Path,
    out: Path,
    recipe: Recipe,
    features: Sequence[str],
    *,
    drop_qc: bool,
    as_json: bool,
) -> dict[str, Any]:
    """Runs a recipe and says what happened; returns the same for programs."""
    from unidino_fast._version import __version__
    from unidino_fast.anndata_file import SUFFIX, write_h5ad
    from unidino_fast.evaluation.cellprofiler import read_profiles
    from unidino_fast.names import counted
    from unidino_fast.profiles.quality import left_out, unflagged
    from unidino_fast.profiles.recipe import run_recipe
    from unidino_fast.profiles.streaming import stream_recipe, streams
    from unidino_fast.results import feature_columns
    from unidino_fast.tables import provenance_in, write_table

    steps = recipe.describe()
    provenance: dict[str, Any] = {
        "unidino_fast": __version__,
        "recipe": steps,
        "input": wells.name,
    }
    if made_by := provenance_in(wells):
        provenance["source"] = made_by
    is_streamed = not features and streams(wells, out, recipe) and not _of_cellprofiler(wells)
    table = None if is_streamed else read_profiles(wells, features)
    gone = None
    if drop_qc:
        gone = left_out(_told(wells) if table is None else table)
        provenance["drop_qc"] = gone.describe()
    if table is None:
        written, report = stream_recipe(wells, out, recipe, provenance, drop_flagged=drop_qc)
        n_rows, n_features = written.n_rows, written.n_features
    else:
        _check_not_empty(table, wells)
        profiles, report = run_recipe(unflagged(table) if drop_qc else table, recipe)
        write = write_h5ad if out.suffix.lower() == SUFFIX else write_table
        write(profiles, out, provenance)
        n_rows, n_features = profiles.height, len(feature_columns(profiles))
    lines = report.lines()
    for line in lines[:_MOST_LINES]:
        say(f"warning: {line}")
    if len(lines) > _MOST_LINES:
        say(f"warning: and {len(lines) - _MOST_LINES} more (--json lists all)")
    if not as_json:
        shape = f"{counted(n_rows, 'row')}, {counted(n_features, 'feature')}"
        tell(f"{out}: {shape}, {recipe.summary()}")
        for line in _dropped_lines(report) + ([] if gone is None else [gone.line()]):
            tell(line)
    return {
        "out": str(out),
        "n_rows": n_rows,
        "n_features": n_features,
        "recipe": steps,
        "streamed": is_streamed,
        **({} if gone is None else {"drop_qc": gone.describe()}),
        "neutralised": {group.group: list(group.features) for group in report.neutralised},
        "dropped": {drop.operation: list(drop.features) for drop in report.dropped},
        "notes": report.notes,
    }


def _check_not_empty(table: pl.DataFrame, wells: Path) -> None:
    """Stops at a table that would become one of nothing, which nobody means."""
    from unidino_fast.errors import TableError
    from unidino_fast.results import METADATA_PREFIX, feature_columns

    if table.is_empty():
        raise TableError(f"{wells} has no rows: give a table with wells")
    if not feature_columns(table):
        raise TableError(
            f"{wells} has no features, as all of its columns begin with {METADATA_PREFIX}: give the"
            " wells.parquet that embed wrote"
        )


def _told(wells: Path) -> pl.DataFrame:
    """What a Parquet file says of its rows' quality, without its features."""
    import polars as pl

    from unidino_fast.profiles.quality import TOLD_BY

    frame = pl.scan_parquet(wells)
    names = [name for name in TOLD_BY if name in frame.collect_schema().names()]
    return frame.select(names).collect()


def _of_cellprofiler(wells: Path) -> bool:
    """Whether a Parquet file's features are told by CellProfiler's names, not by ours."""
    import pyarrow.parquet as pq

    from unidino_fast.evaluation.cellprofiler import known_features

    return known_features(pq.read_schema(wells).names) is not None


def _dropped_lines(report: Report) -> list[str]:
    if not report.dropped:
        return []
    counted = ", ".join(f"{len(drop.features)} by {drop.operation}" for drop in report.dropped)
    return [f"dropped features: {counted}"]
