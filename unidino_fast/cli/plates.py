"""Commands that read plates: simulate, describe, convert, embed, merge."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from unidino_fast.cli.app import Json, OnError, Weights, app
from unidino_fast.names import QUALITY
from unidino_fast.terminal import interruptible, say_left_out, say_some, tell

if TYPE_CHECKING:
    from collections.abc import Callable


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the plate and its results.")] = Path(
        "unidino_demo"
    ),
    weights: Weights = "default",
    seed: Annotated[int, typer.Option(help="Another seed simulates another plate.")] = 0,
) -> None:
    """Simulate a small plate, embed, evaluate and show it (2 minutes on 2 cores)."""
    from unidino_fast.demo import run_demo

    with interruptible(f"run it again to start {out} over"):
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
    tell(json.dumps(facts) if as_json else render(facts))
    if validate:
        if not as_json:
            tell(f"{'validator':<12} {facts['invalid'] or 'no fault found'}")
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

    from unidino_fast.console import file_progress
    from unidino_fast.convert import convert_plate

    if pattern is not None and layout == "auto":
        layout = "regex"
    with interruptible(how_it_ended(out)), file_progress("converting") as progress:
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
    say_some("warning", summary.warnings)
    if as_json:
        tell(json.dumps(asdict(summary), default=str))
        return
    size = " x ".join(str(edge) for edge in summary.shape)
    tell(
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
        Literal["dtype", "percentile", "none"] | None,
        typer.Option(
            help="Scale by the dtype's maximum, by 0.1-99.9 percentiles, or not at all.",
            show_default="as the weights were trained if their file says it, else dtype",
        ),
    ] = None,
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
        Literal["auto", "eager", "compile", "fused", "onnx", "tensorrt"],
        typer.Option(help="How the network is run; auto goes by device and size of the job."),
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16", "fp8"],
        typer.Option(
            help="auto is bf16 on CUDA and fp32 on the CPU; fp8 (float8 linear layers) is for GPUs"
            " from Ada and Hopper on."
        ),
    ] = "auto",
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Tiles handed to the engine at once; results do not depend on it.",
            show_default="64 on the CPU, 512 on CUDA",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes of this machine to share the work, one a GPU where it has several.",
            show_default="this process alone",
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(help="dask scheduler whose workers do the work, such as tcp://host:8786."),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(help="I/N: every N-th well only, for job arrays; then `merge`."),
    ] = None,
    metadata: Annotated[
        Path | None, typer.Option(help="Platemap (CSV or Parquet) to join by well and plate.")
    ] = None,
    on_error: OnError = "fail",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start over where OUT holds results.")
    ] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Compare the pixels of finished wells, not their files' times."
        ),
    ] = False,
    no_qc: Annotated[
        bool, typer.Option("--no-qc", help="Do not measure the quality of the pixels.")
    ] = False,
    qc_config: Annotated[
        Path | None,
        typer.Option(
            help="TOML file with limits of quality control; see docs/qc.md.",
            show_default="those of the package",
        ),
    ] = None,
    z: Annotated[str, typer.Option(help="max, mean, or the number of one plane.")] = "max",
    acquisition: Annotated[
        int | None, typer.Option(help="Only this acquisition.", show_default="all")
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Make report.html of what OUT holds afterwards.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and stop.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Embed plates: fields, wells and profiles as Parquet, and what is wrong with them.

    Pixels are judged while they are read (focus, saturation, background, empty squares, light):
    columns Metadata_QC_..., qc.json and warnings say which wells and what of the plate is unsound.

    Running the same command again goes on where it stopped. Example:
    unidino-fast embed plate.zarr --out results --weights unidino.pth --metadata platemap.csv
    """
    from unidino_fast.config import embed_options
    from unidino_fast.embed_command import how_to_go_on, run_embed
    from unidino_fast.embed_request import EmbedRequest
    from unidino_fast.shards import Shard

    options = embed_options(
        intensity=intensity or "dtype",
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
        workers=workers,
        scheduler=scheduler,
        shard=None if shard is None else Shard.parse(shard),
        verify=verify,
        no_qc=no_qc,
        qc_config=qc_config,
        report=report,
        intensity=intensity,
    )
    with interruptible(partial(how_to_go_on, out, overwrite=overwrite)):
        code = run_embed(request, dry_run=dry_run, as_json=as_json)
    if code:
        raise typer.Exit(code)


def how_it_ended(out: Path) -> Callable[[], str]:
    """How things stand with a plate in the end: what stood there before is no new one."""

    def found() -> int | None:
        return out.stat().st_ino if out.exists() else None

    before = found()
    return lambda: (
        f"{out} is not written; run it again to start over"
        if found() in (None, before)
        else f"{out} is written, whole"
    )


@app.command()
def merge(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders of plates, OUT/PLATE, whose shards are done.")
    ],
    metadata: Annotated[
        Path | None, typer.Option(help="The platemap that the shards were embedded with.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make the tables of plates that were embedded with --shard.

    Refuses a plate that lacks a shard, or a well that one has done. Exits with 3
    where shards left wells out. Example: unidino-fast merge results/plate1
    """
    from unidino_fast.platemap import Platemap, read_platemap
    from unidino_fast.shards import merge as run

    platemap = None if metadata is None else Platemap(metadata.name, read_platemap(metadata))
    summaries = []
    for folder in folders:
        summary = run(folder, platemap)
        summaries.append(summary)
        if as_json:
            continue
        place = f"{summary['plate']}: " if len(folders) > 1 else ""
        say_some("warning", [f"{place}{warning}" for warning in summary["warnings"]])
        say_left_out(summary["left_out"], place)
        tell(
            f"{summary['plate']}: {summary['n_wells']} wells of {summary['n_shards']} shards\n"
            f"{folder}/: profiles.parquet, wells.parquet, fields.parquet, manifest.json"
            + (f", {QUALITY}" if (folder / QUALITY).exists() else "")
        )
    if as_json:
        tell(json.dumps(summary if len(folders) == 1 else {"plates": summaries}))
    if any(summary["left_out"] for summary in summaries):
        raise typer.Exit(3)
