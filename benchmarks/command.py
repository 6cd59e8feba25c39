"""What `unidino-fast bench` does: measures, says what it found, keeps rows and a picture."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Literal, cast

import torch

from unidino_fast.backbones import open_backbone
from unidino_fast.benchmarks.bandwidth import bench_kernels, kernel_effort
from unidino_fast.benchmarks.environment import describe_environment
from unidino_fast.benchmarks.model import ModelJob, bench_model, model_effort
from unidino_fast.benchmarks.plot import plot_rows
from unidino_fast.benchmarks.rows import LINES, TABLE, append_rows, check_folder, render
from unidino_fast.engines.choose import ENGINES, choose_device, choose_precision, lacks_fp8
from unidino_fast.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from unidino_fast.benchmarks.rows import Row
    from unidino_fast.choices import EngineName, Precision

_BATCHES = {"cpu": (16, 64), "cuda": (64, 512, 1024)}
_QUICK_BATCHES = {"cpu": (8,), "cuda": (512,)}
_PRECISIONS: dict[str, tuple[Precision, ...]] = {
    "cpu": ("fp32",),
    "cuda": ("bf16", "fp16", "fp8", "fp32"),
}
_ENGINES: dict[str, tuple[EngineName, ...]] = {
    "cpu": ("eager", "compile", "onnx"),
    "cuda": ("fused", "eager", "compile", "onnx", "tensorrt"),
}


def run_bench(
    what: Literal["model", "kernels", "io"],
    *,
    weights: str = "random:0",
    engines: Sequence[str] = (),
    precisions: Sequence[str] = (),
    batch_sizes: Sequence[int] = (),
    device: str = "auto",
    quick: bool = False,
    out: Path | None = None,
    as_json: bool = False,
) -> list[Row]:
    """Runs a benchmark and prints it.

    Args:
        what: `model` (tiles a second of engines and competitors), `kernels` (bytes a second) or
            `io` (pixels a second from stored chunks).
        weights: backbone for `model`.
        engines: of ours, for `model`; all that this device has by default.
        precisions: for `model`; those that are usual on the device by default.
        batch_sizes: for `model`; two or three by default.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        quick: few rounds, one precision, one batch size.
        out: folder that rows and a picture are added to; nothing is kept by default.
        as_json: one JSON object on standard output instead of the table.

    Returns:
        The rows.

    Raises:
        UsageError: an option that is not available here.
        OutputError: `out` cannot be written.
    """
    place = choose_device(device)
    if what != "model" and (engines or precisions or batch_sizes):
        raise UsageError("engines, precisions and batch sizes belong to bench model")
    rows: list[Row] = []
    with redirect_stdout(sys.stderr):  # exporters and compilers print
        if what == "kernels":
            stream = _kernel_rows(place, quick=quick)
        elif what == "io":
            stream = _io_rows(quick=quick)
        else:
            job = _model_job(weights, engines, precisions, batch_sizes, place, quick=quick)
            stream = bench_model(job, describe_environment(place), say)
        if out is not None:
            check_folder(out)
        for row in stream:
            rows.append(row)
            if out is not None:
                append_rows([row], out)
    picture = None if out is None else draw(rows, out / f"{what}.png")
    if as_json:
        files = [] if out is None else [str(out / TABLE), str(out / LINES)]
        if picture is not None:
            files.append(str(picture))
        found = {"benchmark": what, "rows": [row.to_dict() for row in rows], "files": files}
        print(json.dumps(found))
    else:
        print(render(rows))
        if out is not None:
            print(f"\nrows and picture are in {out}")
    return rows


def draw(rows: Sequence[Row], path: Path) -> Path | None:
    """Draws rows; where that is not possible here, says why and gives None."""
    try:
        plot_rows(rows, path)
    except UsageError as error:
        say(f"note: {error}")
        return None
    return path


def say(text: str) -> None:
    """One line on standard error, where standard output is for results."""
    print(text, file=sys.stderr, flush=True)


def _kernel_rows(device: torch.device, *, quick: bool) -> Iterator[Row]:
    if device.type != "cuda":
        say("note: no CUDA device: measured are the references and what runs on the CPU instead")
    effort = kernel_effort(device, quick=quick)
    return bench_kernels(device, describe_environment(device), say, effort=effort)


def _io_rows(*, quick: bool) -> Iterator[Row]:
    # zarr and all that are not there on a bare GPU machine
    from unidino_fast.benchmarks.reading import bench_io, io_effort

    environment = describe_environment(torch.device("cpu"))
    return bench_io(environment, say, effort=io_effort(quick=quick), n_fields=3 if quick else 24)


def _model_job(
    weights: str,
    engines: Sequence[str],
    precisions: Sequence[str],
    batch_sizes: Sequence[int],
    device: torch.device,
    *,
    quick: bool,
) -> ModelJob:
    for engine in engines:
        if engine not in ENGINES or engine == "auto":
            names = ", ".join(name for name in ENGINES if name != "auto")
            raise UsageError(f"engine {engine!r} cannot be measured: use {names}")
    for batch in batch_sizes:
        if batch < 1:
            raise UsageError(f"batch size {batch} is too small: use 1 or more")
    lack = lacks_fp8(device)
    usual = tuple(one for one in _PRECISIONS[device.type] if one != "fp8" or not lack)
    chosen = tuple(choose_precision(name, device) for name in precisions)
    batches = _QUICK_BATCHES if quick else _BATCHES
    return ModelJob(
        backbone=open_backbone(weights),
        device=device,
        engines=cast("tuple[EngineName, ...]", tuple(engines)) or _ENGINES[device.type],
        precisions=chosen or (usual[:1] if quick else usual),
        batches=tuple(batch_sizes) or batches[device.type],
        effort=model_effort(device, quick=quick),
    )
