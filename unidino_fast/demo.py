"""`unidino-fast demo`: a simulated plate from pixels to retrieval accuracies and a report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from unidino_fast.config import EmbedOptions
from unidino_fast.console import WellProgress, log_to_console
from unidino_fast.engines import load_backbone
from unidino_fast.errors import OutputError
from unidino_fast.evaluation import evaluate
from unidino_fast.files import reason_of
from unidino_fast.pipeline import embed_to_folder
from unidino_fast.plate import open_plate
from unidino_fast.platemap import Platemap, read_platemap
from unidino_fast.report import ReportOptions, write_reports
from unidino_fast.simulate import CONTROL, simulate_plate
from unidino_fast.tables import atomic_table
from unidino_fast.terminal import say, say_some, tell

if TYPE_CHECKING:
    from pathlib import Path


def run_demo(out: Path, *, weights: str, seed: int) -> None:
    """Simulates, embeds, profiles, evaluates and reports; prints numbers and where the files are.

    Raises:
        OutputError: the folder cannot be written.
    """
    log_to_console()
    plate_path, platemap_path = out / "plate.zarr", out / "platemap.csv"
    marker = out / ".unidino_fast_demo"
    if out.is_dir() and any(out.iterdir()) and not marker.exists():
        raise OutputError(f"{out} holds files that no demo wrote: choose another --out")
    model = load_backbone(weights)  # a fault in them is said before anything is written
    for note in model.backbone.notes:
        say(f"note: {note}")
    say("simulating a plate: 48 wells, 6 mechanisms x 2 compounds x 3 replicates, 12 DMSO wells")
    try:
        out.mkdir(parents=True, exist_ok=True)
        marker.touch()
        platemap = simulate_plate(plate_path, seed=seed, overwrite=True)
        with atomic_table(platemap_path) as temporary:
            platemap.write_csv(temporary)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"{out} cannot be written ({reason_of(error)}): choose another --out"
        ) from error
    with WellProgress() as progress:
        summary = embed_to_folder(
            open_plate(plate_path),
            model,
            out / "results",
            EmbedOptions(tile=model.tile, intensity="percentile"),
            platemap=Platemap(platemap_path.name, read_platemap(platemap_path)),
            overwrite=True,
            on_start=progress.start,
            on_well=progress.well,
        )
    say_some("warning", summary.warnings)
    tell(
        f"embedded   {summary.n_wells} wells, {summary.n_tiles} tiles in"
        f" {summary.seconds['total']:.0f} s ({summary.tiles_per_second:.1f} tiles/s)"
        f" -> {summary.n_wells} x {summary.n_features} features"
    )
    _print_retrieval(pl.read_parquet(f"{summary.folder}/profiles.parquet"))
    say("making the report")
    page, *_ = write_reports(out / "results", None, ReportOptions())
    tell(
        f"report     {page}  open it in a browser\n"
        f"files      {plate_path}  the plate (try: unidino-fast info {plate_path})\n"
        f"           {platemap_path}  what is in each well\n"
        f"           {summary.folder}/profiles.parquet  beside wells and fields"
    )


def _print_retrieval(profiles: pl.DataFrame) -> None:
    """Accuracies of the two questions that a screen asks first."""
    treated = profiles.filter(pl.col("Metadata_Compound") != CONTROL)
    replicates = evaluate(treated, label="Metadata_Compound", not_same=["Metadata_Well"])
    mechanisms = evaluate(treated, preset="NSC")
    for name, result in (
        ("replicates: nearest profile is of the same compound (another well)", replicates),
        ("mechanisms: nearest profile of another compound has the same MoA", mechanisms),
    ):
        tell(
            f"{name}: {result.accuracy:.3f}, by chance {result.chance:.3f}"
            f" ({result.n_queries} wells)"
        )
