"""The command line: one thin function a command; what they need is imported when they run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from unidino_fast.errors import UnidinoError
from unidino_fast.names import one_line

app = typer.Typer(
    name="unidino-fast",
    help="Fluorescence-microscopy plates in, normalised well profiles out."
    " Start with: unidino-fast demo",
    no_args_is_help=True,
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
OnError = Annotated[
    Literal["fail", "skip"],
    typer.Option(help="skip leaves out what cannot be read, names it and exits with 3."),
]


def _print_version(asked: bool) -> None:
    if asked:
        from unidino_fast._version import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
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
    """`main` takes --traceback off the arguments, so that it may stand anywhere."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the plate and its results.")] = Path(
        "unidino_demo"
    ),
    weights: Weights = "default",
    seed: Annotated[int, typer.Option(help="Another seed simulates another plate.")] = 0,
) -> None:
    """Simulate a small plate, embed and evaluate it (2 minutes)."""
    from unidino_fast.demo import run_demo

    run_demo(out, weights=weights, seed=seed)


@app.command()
def info(
    plate: Annotated[str, typer.Argument(help="OME-Zarr plate: folder, .zip/.ozx or URL.")],
    as_json: Json = False,
    validate: Annotated[
        bool, typer.Option("--validate", help="Run ome-zarr-models, the strict validator, too.")
    ] = False,
) -> None:
    """Say what a plate holds and whether it is sound."""
    from unidino_fast.info import describe, render
    from unidino_fast.info import validate as find_fault
    from unidino_fast.plate import open_plate

    opened = open_plate(plate, on_error="skip")
    facts = describe(opened)
    if validate:
        facts["invalid"] = find_fault(opened)
    typer.echo(json.dumps(facts) if as_json else render(facts))
    if validate:
        if not as_json:
            typer.echo(f"{'validator':<12} {facts['invalid'] or 'no fault found'}")
        if facts["invalid"]:
            raise typer.Exit(1)


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="Folder of images, or a load_data.csv.")],
    out: Annotated[Path, typer.Option(help="The plate to write, such as plate.zarr.")],
    layout: Annotated[
        Literal["auto", "opera", "imagexpress", "cpg", "regex"],
        typer.Option(help="How the files are named; auto finds out."),
    ] = "auto",
    pattern: Annotated[
        str | None,
        typer.Option(
            help="Regular expression with the groups well (or row and column), site, channel,"
            " and optionally plate, z, time."
        ),
    ] = None,
    metadata: Annotated[
        str | None, typer.Option(help="CSV that lists the images (load_data.csv, BBBC021).")
    ] = None,
    ngff: Annotated[Literal["0.4", "0.5"], typer.Option(help="OME-NGFF version.")] = "0.4",
    plate: Annotated[
        str | None, typer.Option(help="Which plate, where the source holds several.")
    ] = None,
    levels: Annotated[int, typer.Option(help="Resolution levels; 1 is no pyramid.")] = 1,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing plate.")
    ] = False,
    as_json: Json = False,
) -> None:
    r"""Make an OME-Zarr plate of microscope images.

    Harmony/Opera, ImageXpress and Cell Painting Gallery files are recognised by themselves; for
    others give a pattern: --pattern '(?P<well>[A-P]\d\d)_s(?P<site>\d)_(?P<channel>\w+)'.
    """
    from dataclasses import asdict

    from unidino_fast.console import file_progress, say
    from unidino_fast.convert import convert_plate

    if pattern is not None and layout == "auto":
        layout = "regex"
    with file_progress("converting") as progress:
        summary = convert_plate(
            source,
            out,
            layout=layout,
            pattern=pattern,
            metadata=metadata,
            ngff=ngff,
            plate=plate,
            levels=levels,
            overwrite=overwrite,
            progress=progress,
        )
    for warning in summary.warnings:
        say(f"warning: {warning}")
    if as_json:
        typer.echo(json.dumps(asdict(summary), default=str))
        return
    size = " x ".join(str(edge) for edge in summary.shape)
    typer.echo(
        f"{summary.path}: {summary.n_wells} wells, {summary.n_fields} fields,"
        f" {len(summary.channels)} channels ({', '.join(summary.channels)}), {size} px"
        f" {summary.dtype}, from {summary.n_files} files ({summary.skipped} others skipped)"
    )


@app.command()
def embed(
    plates: Annotated[list[str], typer.Argument(help="OME-Zarr plates: folders, zips or URLs.")],
    out: Annotated[Path, typer.Option(help="Results go to OUT/<plate>/.")],
    weights: Weights = "default",
    intensity: Annotated[
        Literal["dtype", "percentile", "none"],
        typer.Option(help="Scale by the dtype's maximum, by 0.1-99.9 percentiles, or not at all."),
    ] = "dtype",
    tile: Annotated[int, typer.Option(help="Tile edge in pixels.")] = 224,
    stride: Annotated[
        int | None, typer.Option(help="Step between tiles in pixels.", show_default="the tile edge")
    ] = None,
    keep_empty: Annotated[
        bool, typer.Option("--keep-empty", help="Embed tiles without signal too.")
    ] = False,
    channels: Annotated[
        str | None, typer.Option(help="Channels to embed, such as DNA,ER.", show_default="all")
    ] = None,
    engine: Annotated[
        Literal["auto", "eager", "compile", "onnx", "tensorrt"],
        typer.Option(help="How the network is run; auto goes by device and size of the job."),
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        typer.Option(help="auto is bf16 on CUDA and fp32 on the CPU."),
    ] = "auto",
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Tiles a step of the network.", show_default="16 on the CPU, 256 on CUDA"
        ),
    ] = None,
    metadata: Annotated[
        Path | None, typer.Option(help="Platemap (CSV or Parquet) to join by well and plate.")
    ] = None,
    on_error: OnError = "fail",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start over where OUT holds results.")
    ] = False,
    z: Annotated[str, typer.Option(help="max, mean, or the number of one plane.")] = "max",
    acquisition: Annotated[
        int | None, typer.Option(help="Only this acquisition.", show_default="all")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and stop.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Embed plates: fields, wells and profiles as Parquet.

    Running the same command again goes on where it stopped. Example:
    unidino-fast embed plate.zarr --out results --weights unidino.pth --metadata platemap.csv
    """
    from unidino_fast.config import embed_options
    from unidino_fast.embed_command import EmbedRequest, run_embed

    options = embed_options(
        intensity=intensity,
        tile=tile,
        stride=stride,
        keep_empty=keep_empty,
        channels=None if channels is None else tuple(c.strip() for c in channels.split(",")),
        z=int(z) if z.isascii() and z.isdigit() else z,
        acquisition=acquisition,
    )
    request = EmbedRequest(
        plates=plates,
        out=out,
        options=options,
        weights=weights,
        engine=engine,
        device=device,
        precision=precision,
        batch_size=batch_size,
        metadata=metadata,
        on_error=on_error,
        overwrite=overwrite,
    )
    code = run_embed(request, dry_run=dry_run, as_json=as_json)
    if code:
        raise typer.Exit(code)


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
    from unidino_fast.console import say
    from unidino_fast.profiles import describe_neutralised, normalize_with_report
    from unidino_fast.tables import read_table, write_table

    table = read_table(wells)
    profiles, neutralised = normalize_with_report(table, method, by=by, samples=samples)
    for group in neutralised:
        say(f"warning: {describe_neutralised(group)}")
    recipe = {"method": method, "by": by, "samples": samples, "input": wells.name}
    write_table(profiles, out, recipe)
    typer.echo(f"{out}: {profiles.height} rows, {method} by {by}")


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
        typer.echo(json.dumps(result.to_dict()))
    else:
        typer.echo(result.summary())


@app.command()
def export(
    weights: Annotated[str, typer.Argument(help="Backbone, as --weights of embed takes it.")],
    to: Annotated[Literal["onnx", "tensorrt"], typer.Option(help="What to write.")],
    out: Annotated[Path, typer.Option(help="The file; its manifest is FILE.json.")],
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        typer.Option(help="auto is fp32 for ONNX and bf16 for TensorRT."),
    ] = "auto",
    tile: Annotated[
        int | None, typer.Option(help="Tile edge in pixels.", show_default="the weights' own")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Largest batch of a TensorRT engine.", show_default="256")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a backbone for other runtimes."""
    from unidino_fast.export import export_backbone

    manifest = export_backbone(
        weights, out, to=to, precision=precision, tile=tile, batch_size=batch_size
    )
    typer.echo(json.dumps(manifest) if as_json else f"{out}: {to} of {weights}, {out}.json")


@app.command()
def bench(
    what: Annotated[Literal["model", "kernels", "io"], typer.Argument(help="What to measure.")],
    weights: Annotated[str, typer.Option(help="Backbone of bench model.")] = "random:0",
    engine: Annotated[
        list[str] | None,
        typer.Option(help="Engine to measure; give it again for several.", show_default="all here"),
    ] = None,
    precision: Annotated[
        list[str] | None, typer.Option(help="Precision; again for several.", show_default="usual")
    ] = None,
    batch_size: Annotated[
        list[int] | None,
        typer.Option(help="Tiles a step; again for several.", show_default="usual"),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    quick: Annotated[bool, typer.Option("--quick", help="A minute or two.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for rows and a picture.", show_default="none")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure speed against the usual ways, in one run."""
    from unidino_fast.benchmarks.command import run_bench

    run_bench(
        what,
        weights=weights,
        engines=engine or (),
        precisions=precision or (),
        batch_sizes=batch_size or (),
        device=device,
        quick=quick,
        out=out,
        as_json=as_json,
    )


def main() -> None:
    """Entry point: errors of ours become one line and an exit code."""
    arguments = sys.argv[1:]
    show_traceback = "--traceback" in arguments
    arguments = [argument for argument in arguments if argument != "--traceback"]
    try:
        app(args=arguments, prog_name="unidino-fast")
    except UnidinoError as error:
        if show_traceback:
            raise
        print(f"unidino-fast: {one_line(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # `unidino-fast info ... | head`
        sys.stderr.close()
        sys.exit(1)
