"""Commands about training backbones."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unidino_fast.cli.app import Json, app
from unidino_fast.errors import UsageError
from unidino_fast.terminal import interruptible, say, tell

if TYPE_CHECKING:
    from unidino_fast.training.loop import StepReport

_SECONDS_BETWEEN_LINES = 5.0


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="TOML file; see configs/ and docs/training.md.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run.", show_default="runs/, then CONFIG without .toml"),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="Where a dataset of the config lies; repeat."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a backbone on plates and image folders; goes on where it stopped."""
    from unidino_fast.training.config import load_config
    from unidino_fast.training.curves import plot_curves
    from unidino_fast.training.loop import train as run_training

    settings = load_config(config, data=_named_paths(data or []))
    folder = out or Path("runs") / config.stem
    with interruptible(f"{folder} keeps its last checkpoint, the same command goes on from there"):
        summary = run_training(settings, folder, report=_Lines(), warn=_warn)
    if not summary.is_first:
        return
    curves: str | None = str(folder / "curves.png")
    try:
        plot_curves(summary.log, folder / "curves.png")
    except UsageError as error:
        say(f"warning: {error}")
        curves = None
    if as_json:
        told = {k: v for k, v in vars(summary).items() if k not in ("is_first", "held_out")}
        if summary.held_out is not None:
            told["held_out"] = summary.held_out.rows.to_dicts()
        tell(json.dumps({**told, "curves": curves}, default=str))
    else:
        if summary.held_out is not None:
            tell(summary.held_out.summary())
        tell(f"{summary.weights}: step {summary.steps} of {summary.n_steps}, for --weights")


def _named_paths(given: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    for (name, mark, path), text in zip(pairs, given, strict=True):
        if not (name and mark and path):
            raise UsageError(f"--data {text!r} is no NAME=PATH: use the name of a dataset")
    named = {name: path for name, _, path in pairs}
    if len(named) < len(pairs):
        raise UsageError("--data names a dataset twice: give each one path")
    return named


def _warn(line: str) -> None:
    say(f"warning: {line}")


class _Lines:
    """A line of progress now and then."""

    def __init__(self) -> None:
        self._said = 0.0

    def __call__(self, report: StepReport) -> None:
        now = time.monotonic()
        is_late = now - self._said >= _SECONDS_BETWEEN_LINES
        if not is_late and report.step < report.n_steps and report.probe is None:
            return
        self._said = now
        probed = "" if report.probe is None else f", probe 1-NN {report.probe:.3f}"
        say(
            f"step {report.step}/{report.n_steps} (epoch {report.epoch}/{report.n_epochs}):"
            f" loss {report.loss:.4f}{probed}, {report.images_per_s:.1f} images/s,"
            f" {_duration(report.seconds_left)} left"
        )


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    if hours >= 1.5:
        return f"{hours:.1f} h"
    return f"{minutes:.0f} min" if minutes >= 1.5 else f"{seconds:.0f} s"
