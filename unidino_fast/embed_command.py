"""What `unidino-fast embed` does: plates one after another, progress, summary, exit code."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from unidino_fast.console import WellProgress, log_to_console, say
from unidino_fast.errors import UnidinoError, UsageError
from unidino_fast.output import folder_name
from unidino_fast.plate import open_plate

if TYPE_CHECKING:
    from pathlib import Path

    from unidino_fast.choices import OnError
    from unidino_fast.config import EmbedOptions
    from unidino_fast.engines import Embedder
    from unidino_fast.pipeline import RunSummary
    from unidino_fast.plate_model import Plate
    from unidino_fast.platemap import Platemap

INTERRUPTED = 130
LEFT_OUT = 3


@dataclass(frozen=True)
class EmbedRequest:
    """The options of one `embed` call."""

    plates: list[str]
    out: Path
    options: EmbedOptions
    weights: str
    engine: str
    device: str
    precision: str
    batch_size: int | None
    metadata: Path | None
    on_error: OnError
    overwrite: bool

    @cached_property
    def model(self) -> Embedder:
        """The backbone, loaded when the first plate has proved to be one."""
        from unidino_fast.engines import load_backbone

        model = load_backbone(
            self.weights,
            engine=self.engine,
            device=self.device,
            precision=self.precision,
            tile=self.options.tile,
            batch_size=self.batch_size,
        )
        for note in model.backbone.notes:
            say(f"note: {note}")
        if model.backbone.dropped:
            say(f"note: weights {model.backbone.name}: left {', '.join(model.backbone.dropped)}")
        return model

    @cached_property
    def platemap(self) -> Platemap | None:
        """The platemap, read once."""
        from unidino_fast.platemap import Platemap, read_platemap

        if self.metadata is None:
            return None
        return Platemap(self.metadata.name, read_platemap(self.metadata))

    def open(self, location: str) -> Plate:
        """One of the plates."""
        return open_plate(location, acquisition=self.options.acquisition, on_error=self.on_error)


def run_embed(request: EmbedRequest, *, dry_run: bool, as_json: bool) -> int:
    """Embeds the plates of a request; returns the exit code.

    Raises:
        UnidinoError: a plate failed and `on_error` is `fail`, or no plate could be embedded.
    """
    log_to_console()
    _ = request.platemap  # a faulty platemap is said before anything else
    done: list[RunSummary] = []
    failed: dict[str, str] = {}
    names: dict[str, str] = {}
    for location in request.plates:
        try:
            plate = request.open(location)
            _claim(names, plate)
            if dry_run:
                _print_plan(plate, request, as_json=as_json)
                continue
            done.append(_embed_one(plate, request))
        except KeyboardInterrupt:
            say(f"interrupted: {request.out} keeps the finished wells; run it again to go on")
            return INTERRUPTED
        except UnidinoError as error:
            if request.on_error == "fail" or error.exit_code == UsageError.exit_code:
                raise
            failed[location] = str(error)
            say(f"left out: {location}: {error}")
            last = error
    if failed and not done:
        raise last
    if dry_run:
        return 0
    if as_json:
        print(json.dumps(_as_object(done, failed)))
    else:
        for summary in done:
            print(_as_text(summary))
    return LEFT_OUT if failed or any(summary.left_out for summary in done) else 0


def _embed_one(plate: Plate, request: EmbedRequest) -> RunSummary:
    from unidino_fast.pipeline import embed_to_folder

    model = request.model
    with WellProgress() as progress:
        summary = embed_to_folder(
            plate,
            model,
            request.out,
            request.options,
            platemap=request.platemap,
            on_error=request.on_error,
            overwrite=request.overwrite,
            on_start=progress.start,
            on_well=progress.well,
        )
    for warning in summary.warnings:
        say(f"warning: {warning}")
    for well, reason in summary.left_out.items():
        say(f"left out: well {well}: {reason}")
    return summary


def _claim(names: dict[str, str], plate: Plate) -> None:
    """Two plates of one name would write to one folder."""
    folder = folder_name(plate.name)
    if folder in names:
        raise UsageError(
            f"plates {names[folder]} and {plate.location} are both named {plate.name}:"
            " embed them into different --out folders"
        )
    names[folder] = plate.location


def _print_plan(plate: Plate, request: EmbedRequest, *, as_json: bool) -> None:
    from unidino_fast.planning import plan_plate

    plan = plan_plate(plate, request.options, patch=16)
    facts = {
        "plate": plate.name,
        "n_wells": len(plan.wells),
        "n_fields": plan.n_fields,
        "n_tiles": plan.n_tiles,
        "channels": list(plan.channels),
        "folder": str(request.out / folder_name(plate.name)),
    }
    if as_json:
        print(json.dumps(facts))
    else:
        print(
            f"{plate.name}: would embed {plan.n_tiles} tiles (at most) of {plan.n_fields} fields in"
            f" {len(plan.wells)} wells, channels {', '.join(plan.channels)}, into {facts['folder']}"
        )


def _as_object(done: list[RunSummary], failed: dict[str, str]) -> dict[str, Any]:
    """Totals over all plates, and each plate's own summary."""
    sums = ("n_wells", "n_resumed", "n_fields", "n_tiles", "n_tiles_dropped")
    totals: dict[str, Any] = {name: sum(getattr(s, name) for s in done) for name in sums}
    stages = sorted({stage for summary in done for stage in summary.seconds})
    seconds = {stage: round(sum(s.seconds.get(stage, 0) for s in done), 3) for stage in stages}
    return {
        **totals,
        "n_features": max(summary.n_features for summary in done),
        "seconds": seconds,
        "tiles_per_second": round(
            sum(s.tiles_per_second * s.seconds["total"] for s in done) / seconds["total"], 2
        ),
        "peak_memory_mb": max(summary.peak_memory_mb for summary in done),
        "left_out": {s.plate: s.left_out for s in done if s.left_out},
        "failed": failed,
        "plates": [summary.to_dict() for summary in done],
    }


def _as_text(summary: RunSummary) -> str:
    stages = ", ".join(
        f"{stage} {seconds:.1f}" for stage, seconds in summary.seconds.items() if stage != "total"
    )
    resumed = f" ({summary.n_resumed} done before)" if summary.n_resumed else ""
    dropped = f" ({summary.n_tiles_dropped} empty ones left out)" if summary.n_tiles_dropped else ""
    return (
        f"{summary.plate}: {summary.n_wells} wells{resumed}, {summary.n_fields} fields,"
        f" {summary.n_tiles} tiles{dropped} -> {summary.n_wells} x {summary.n_features} features\n"
        f"{summary.seconds['total']:.1f} s ({stages}), {summary.tiles_per_second:.1f} tiles/s,"
        f" peak memory {summary.peak_memory_mb:.0f} MB\n"
        f"{summary.folder}/: profiles.parquet, wells.parquet, fields.parquet, manifest.json"
    )
