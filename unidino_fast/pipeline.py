"""OPEN FIRST: the way of a plate, plan -> read -> preprocess -> embed -> write.

`planning` says which wells and fields there are; `embedding` reads them ahead (`reading`), cuts
and scales tiles (`preprocess`) and turns them into features (`engines`); `plate_run` has that done
for a plate, in this process or by the workers of a `cluster`; `output` keeps each finished well;
`assembly` makes the tables of fields, wells and profiles.
"""

from __future__ import annotations

import datetime
import platform
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from unidino_fast.clock import StageClock
from unidino_fast.config import EmbedOptions, embed_options
from unidino_fast.embedding import embed_wells
from unidino_fast.engines import Embedder
from unidino_fast.errors import PixelError, UsageError
from unidino_fast.output import OutputFolder
from unidino_fast.planning import Plan, WellTask, plan_plate
from unidino_fast.plate_model import Plate
from unidino_fast.plate_run import PlateRun, check_engine, layout_of
from unidino_fast.platemap import Platemap, join_platemap
from unidino_fast.provenance import provenance_of
from unidino_fast.qc import Thresholds, check_labels, shipped_thresholds
from unidino_fast.shards import Shard, check_count, write_record

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from unidino_fast.choices import Intensity, OnError
    from unidino_fast.cluster.session import Session
    from unidino_fast.run_summary import RunSummary


def embed_plate(
    plate: Plate,
    model: Embedder,
    *,
    intensity: Intensity = "dtype",
    stride: int | None = None,
    keep_empty: bool = False,
    channels: Sequence[str] | None = None,
    z: Literal["max", "mean"] | int = "max",
    qc: bool | Thresholds = True,
    on_well: Callable[[WellTask], None] | None = None,
) -> pl.DataFrame:
    """Embeds a plate in memory.

    Args:
        plate: from `open_plate`.
        model: from `load_backbone`; its tile size is used.
        intensity: `dtype`, `percentile` or `none`; see `EmbedOptions`.
        stride: step between tiles in pixels; the tile edge by default.
        keep_empty: embed tiles without signal too.
        channels: labels to embed, all by default; features stand in the plate's order.
        z: `max` or `mean` projection, or the index of one plane.
        qc: measure the quality of the pixels (`Metadata_QC_...`), and flag wells by the limits of
            the package or by those of `qc.read_thresholds`.
        on_well: called after each well.

    Returns:
        The columns of `fields.parquet`: one row a field, `<channel>_<index>` features.

    Raises:
        UsageError: an option does not fit the plate, or an argument is of another kind.
        PixelError: a chunk cannot be read, or pixels cannot be embedded.
    """
    _check_opened(plate, model)
    options = embed_options(
        intensity=intensity,
        tile=model.tile,
        stride=stride,
        keep_empty=keep_empty,
        channels=None if channels is None else tuple(channels),
        z=z,
    )
    model.check_single_channel()
    thresholds = _limits(qc)
    plan = plan_plate(plate, options, patch=model.backbone.patch_size)
    model = model.for_job(plan.n_tiles)
    check_engine(plan.wells, plate, model, options)
    results = {}
    measures = thresholds is not None
    stream = embed_wells(plan.wells, plate.storage, model, options, StageClock(), measures=measures)
    with closing(stream) as wells:
        for task, result in wells:
            if isinstance(result, PixelError):
                raise result
            results[task.name] = result
            if on_well is not None:
                on_well(task)
    return layout_of(plan, plate, model).fields(results, thresholds)


def embed_to_folder(
    plate: Plate,
    model: Embedder,
    out: str | os.PathLike[str],
    options: EmbedOptions,
    *,
    platemap: Platemap | None = None,
    on_error: OnError = "fail",
    overwrite: bool = False,
    workers: Session | None = None,
    shard: Shard | None = None,
    verify: bool = False,
    qc: bool | Thresholds = True,
    on_start: Callable[[Sequence[WellTask], int], None] | None = None,
    on_well: Callable[[WellTask], None] | None = None,
) -> RunSummary:
    """Embeds a plate into `out/<plate>/`, going on where a former run stopped.

    Args:
        plate: from `open_plate`.
        model: from `load_backbone`, with the tile size of the options.
        out: output folder.
        options: what to embed and how.
        platemap: joined onto fields, wells and profiles.
        on_error: `skip` leaves out wells whose pixels cannot be read and names them.
        overwrite: start over where `out` holds results, which go when the first well is finished.
        workers: embed in place of this process; `model` is then what they run.
        shard: embed this share of the wells alone; `merge` makes the tables when all are done.
        verify: compare the pixels of finished wells with those that were embedded, in place of
            the sizes and times of their files.
        qc: measure the quality of the pixels and flag wells, by the limits of the package or by
            those of `qc.read_thresholds`. Wells that were finished without are read again.
        on_start: called once with the wells to do and the number of those finished before.
        on_well: called after each well.

    Raises:
        UsageError: an option does not fit the plate, or an argument is of another kind.
        TableError: the platemap does not fit the plate.
        PixelError: a chunk cannot be read, or pixels cannot be embedded; with `skip`, only where no
            well could be embedded.
        OutputError: the folder cannot be written, holds results of another kind, or is in use by
            another run.
        ClusterError: the workers are gone.
    """
    start = time.perf_counter()
    run = prepare_run(
        plate,
        model,
        out,
        options,
        platemap=platemap,
        overwrite=overwrite,
        workers=workers,
        shard=shard,
        qc=qc,
    )
    folder = run.folder
    folder.open(overwrite=overwrite, shard=None if shard is None else shard.name)
    try:
        run.resume(verify=verify, on_error=on_error)
        folder.go_on()
        if on_start is not None:
            on_start(run.pending, run.n_resumed)
        run.embed(on_error, on_well or (lambda task: None))
        warnings = run.engine_warning() + run.absent_chunks() + run.said_of_parts()
        if shard is None:
            warnings += run.write_tables(platemap)
        summary = run.summary(warnings, time.perf_counter() - start)
        document = _run_document(run, summary)
        if shard is None:
            folder.finish(document)
        else:
            write_record(folder, shard, run.layout, summary.left_out, document)
    except BaseException:
        folder.discard_if_empty()
        raise
    finally:
        folder.close()
    return summary


def _run_document(run: PlateRun, summary: RunSummary) -> dict[str, Any]:
    """What differs between equal runs; it stands in the manifest alone."""
    return {
        "status": "done, wells left out" if summary.left_out else "done",
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "location": run.plate.location,
        "batch_size": run.model.batch_size,
        "self_check": None if run.check is None else run.check.to_dict(),
        **summary.to_dict(),
    }


def prepare_run(
    plate: Plate,
    model: Embedder,
    out: str | os.PathLike[str],
    options: EmbedOptions,
    *,
    platemap: Platemap | None = None,
    overwrite: bool = False,
    workers: Session | None = None,
    shard: Shard | None = None,
    qc: bool | Thresholds = True,
) -> PlateRun:
    """The run of `embed_to_folder` before it looks at pixels; writes nothing.

    Its `find_finished` says which wells it would take over. Args and errors are those of
    `embed_to_folder`.
    """
    _check_opened(plate, model)
    if not isinstance(options, EmbedOptions):
        raise UsageError(f"the options are a {type(options).__name__}: give EmbedOptions(...)")
    model.check_single_channel()
    _refuse_inside(Path(out), plate)
    plan = plan_plate(plate, options, patch=model.backbone.patch_size)
    begun_with = None if overwrite else OutputFolder(Path(out), plate.name, {}).begun_with()
    # a plate that has grown keeps the engine that its finished wells were embedded with
    job_tiles = plan.n_tiles if begun_with is None else begun_with
    model = model.for_job(job_tiles, begun=job_tiles != plan.n_tiles)
    limits = _limits(qc)
    _check_labels(plan, plate, platemap, limits)
    resolved = options.model_copy(update={"channels": plan.channels})
    device = None if workers is None else workers.facts["device_name"]
    provenance = provenance_of(plate, model, resolved, platemap, device, limits)
    positions = [task.well.position for task in plan.wells]
    folder = OutputFolder(
        Path(out), plate.name, provenance, positions, job_tiles, sharded=shard is not None
    )
    tasks = plan.wells if shard is None else shard.of(plan.wells)
    if shard is not None:
        check_count(folder, shard)
    folder.check(overwrite=overwrite)
    return PlateRun(plate, plan, tasks, model, options, folder, workers, limits)


def _check_labels(
    plan: Plan, plate: Plate, platemap: Platemap | None, qc: Thresholds | None
) -> None:
    """Complains of labels that do not fit before hours of work, not after them."""
    wells = _wells_of(plan, plate)
    if platemap is not None:
        wells, _ = join_platemap(wells, platemap.table, name=platemap.name)
    if qc is not None:
        check_labels(wells, qc)


def _check_opened(plate: object, model: object) -> None:
    """Raises UsageError where one of them is only the name of what was meant."""
    for what, given, wanted, made_by in (
        ("plate", plate, Plate, "open_plate"),
        ("model", model, Embedder, "load_backbone"),
    ):
        if not isinstance(given, wanted):
            kind = type(given).__name__
            raise UsageError(f"the {what} is a {kind}: give what {made_by}(...) returns")


def _limits(qc: bool | Thresholds) -> Thresholds | None:
    if isinstance(qc, bool):
        return shipped_thresholds() if qc else None
    if not isinstance(qc, Thresholds):
        raise UsageError(f"qc {qc!r}: give True, False or what qc.read_thresholds(...) returns")
    return qc


def _refuse_inside(out: Path, plate: Plate) -> None:
    """Results do not belong into the plate that they describe."""
    if not plate.storage.is_remote and out.resolve().is_relative_to(Path(plate.location).resolve()):
        raise UsageError(f"--out {out} lies in the plate {plate.location}: choose another place")


def _wells_of(plan: Plan, plate: Plate) -> pl.DataFrame:
    positions = [task.well.position for task in plan.wells]
    return pl.DataFrame(
        {
            "Metadata_Plate": [plate.name] * len(positions),
            "Metadata_Well": [str(position) for position in positions],
            "Metadata_Row": [position.row_letters for position in positions],
            "Metadata_Column": [position.column for position in positions],
        }
    )
