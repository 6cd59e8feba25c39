"""Commands about backbones: export, measure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from unidino_fast.cli.app import Json, app
from unidino_fast.terminal import tell


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
    tell(json.dumps(manifest) if as_json else f"{out}: {to} of {weights}, {out}.json")


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
