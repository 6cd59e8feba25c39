"""OPEN FIRST: the way of a plate, plan -> read -> preprocess -> embed -> write.

`planning` says which wells and fields there are; `embedding` reads them ahead (`reading`), cuts and
scales tiles (`preprocess`) and turns them into features (`engines`); `output` keeps each finished
well; `profiles` makes wells and profiles of fields.
"""

from __future__ import annotations

import datetime
import platform
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from unidino_fast.clock import StageClock, peak_memory_mb
from unidino_fast.config import EmbedOptions, embed_options
from unidino_fast.embedding import embed_wells, sample_patches
from unidino_fast.engines.selfcheck import SelfCheck, self_check
from unidino_fast.errors import PixelError, UsageError
from unidino_fast.output import OutputFolder, pixel_stamp
from unidino_fast.planning import Plan, WellTask, plan_plate
from unidino_fast.platemap import Platemap, join_platemap
from unidino_fast.profiles import aggregate, describe_neutralised, normalize_with_report
from unidino_fast.provenance import provenance_of
from unidino_fast.reading import stored_chunks
from unidino_fast.results import WellResult, fields_frame

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from unidino_fast.choices import Intensity, OnError
    from unidino_fast.engines import Embedder
    from unidino_fast.plate_model import Plate


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a run did.

    Attributes:
        plate: plate name.
        folder: where its results lie.
        n_wells: wells in the tables; `n_resumed` of them were finished by a former run.
        n_tiles: tiles embedded, over all channels; `n_tiles_dropped` were empty.
        n_features: features a well.
        left_out: reason for each well that could not be embedded (`on_error="skip"` only).
        seconds: by stage, and `total`. Reading runs ahead: `read` is the time spent waiting for it.
        tiles_per_second: tiles embedded by this run over its total time.
        peak_memory_mb: largest resident memory of the process.
    """

    plate: str
    folder: str
    n_wells: int
    n_resumed: int
    n_fields: int
    n_tiles: int
    n_tiles_dropped: int
    n_features: int
    left_out: dict[str, str]
    warnings: tuple[str, ...]
    seconds: dict[str, float]
    tiles_per_second: float
    peak_memory_mb: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def embed_plate(
    plate: Plate,
    model: Embedder,
    *,
    intensity: Intensity = "dtype",
    stride: int | None = None,
    keep_empty: bool = False,
    channels: Sequence[str] | None = None,
    z: Literal["max", "mean"] | int = "max",
    on_well: Callable[[WellTask], None] | None = None,
) -> pl.DataFrame:
    """Embeds a plate in memory.

    Args:
        plate: from `open_plate`.
        model: from `load_backbone`; its tile size is used.
        intensity: `dtype`, `percentile` or `none`; see `EmbedOptions`.
        stride: step between tiles in pixels; the tile edge by default.
        keep_empty: embed tiles without signal too.
        channels: labels to embed, in this order; all by default.
        z: `max` or `mean` projection, or the index of one plane.
        on_well: called after each well.

    Returns:
        The columns of `fields.parquet`: one row a field, `<channel>_<index>` features.

    Raises:
        UsageError: an option does not fit the plate.
        PixelError: a chunk cannot be read, or pixels cannot be embedded.
    """
    options = embed_options(
        intensity=intensity,
        tile=model.tile,
        stride=stride,
        keep_empty=keep_empty,
        channels=None if channels is None else tuple(channels),
        z=z,
    )
    model.check_single_channel()
    plan = plan_plate(plate, options, patch=model.backbone.patch_size)
    model = model.for_job(plan.n_tiles)
    _check_engine(plan.wells, plate, model, options)
    results = []
    with closing(embed_wells(plan.wells, plate, model, options, StageClock())) as wells:
        for task, result in wells:
            if isinstance(result, PixelError):
                raise result
            results.append(result)
            if on_well is not None:
                on_well(task)
    return _fields_of(results, plate, plan, model)


def embed_to_folder(
    plate: Plate,
    model: Embedder,
    out: str | os.PathLike[str],
    options: EmbedOptions,
    *,
    platemap: Platemap | None = None,
    on_error: OnError = "fail",
    overwrite: bool = False,
    on_start: Callable[[Plan, int], None] | None = None,
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
        on_start: called once with the plan and the number of wells finished before.
        on_well: called after each well.

    Raises:
        UsageError: an option does not fit the plate.
        TableError: the platemap does not fit the plate.
        PixelError: a chunk cannot be read, or pixels cannot be embedded; with `skip`, only where no
            well could be embedded.
        OutputError: the folder cannot be written or holds results of another kind.
    """
    start = time.perf_counter()
    plan, model, folder = _prepare(plate, model, Path(out), options, platemap)
    folder.open(overwrite=overwrite)
    run = _Run(plate, plan, model, options, folder)
    try:
        run.resume()
        if on_start is not None:
            on_start(plan, len(run.results))
        run.embed(on_error, on_well or (lambda task: None))
        warnings = run.write_tables(platemap)
    except BaseException:
        folder.discard_if_empty()
        raise
    summary = run.summary(warnings, time.perf_counter() - start)
    folder.finish(
        {
            "status": "done, wells left out" if summary.left_out else "done",
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "host": platform.node(),
            "location": plate.location,
            "batch_size": model.batch_size,
            "self_check": None if run.check is None else run.check.to_dict(),
            **summary.to_dict(),
        }
    )
    return summary


def check_embedding(
    plate: Plate,
    model: Embedder,
    out: str | os.PathLike[str],
    options: EmbedOptions,
    *,
    platemap: Platemap | None = None,
    overwrite: bool = False,
) -> None:
    """Raises what `embed_to_folder` would raise before it reads a pixel; writes nothing."""
    *_, folder = _prepare(plate, model, Path(out), options, platemap)
    folder.check(overwrite=overwrite)


def _prepare(
    plate: Plate, model: Embedder, out: Path, options: EmbedOptions, platemap: Platemap | None
) -> tuple[Plan, Embedder, OutputFolder]:
    """The plan, the model with its engine, and the folder, which is not touched yet."""
    model.check_single_channel()
    _refuse_inside(out, plate)
    plan = plan_plate(plate, options, patch=model.backbone.patch_size)
    model = model.for_job(plan.n_tiles)
    if platemap is not None:  # complain before hours of work, not after them
        join_platemap(_wells_of(plan, plate), platemap.table, name=platemap.name)
    resolved = options.model_copy(update={"channels": plan.channels})
    folder = OutputFolder(out, plate.name, provenance_of(plate, model, resolved, platemap))
    return plan, model, folder


class _Run:
    """One plate on its way into one folder."""

    def __init__(
        self,
        plate: Plate,
        plan: Plan,
        model: Embedder,
        options: EmbedOptions,
        folder: OutputFolder,
    ) -> None:
        self.plate, self.plan, self.model = plate, plan, model
        self.options, self.folder = options, folder
        self.clock = StageClock()
        self.results: dict[str, WellResult] = {}
        self.left_out = dict(_split_fault(fault) for fault in plate.skipped)
        self.stamps: dict[str, str | None] = {}
        self.n_resumed = 0
        self.n_new_tiles = 0
        self.check: SelfCheck | None = None

    def resume(self) -> None:
        """Takes over the wells that a former run finished."""
        for task in self.plan.wells:
            stamp = self.stamps[task.name] = pixel_stamp(self.plate.storage, task)
            found = self.folder.read_part(task, stamp)
            if found is not None:
                self.results[task.name] = found
        self.n_resumed = len(self.results)

    def embed(self, on_error: OnError, on_well: Callable[[WellTask], None]) -> None:
        """Embeds the other wells and writes each as it is finished."""
        pending = [task for task in self.plan.wells if task.name not in self.results]
        if not self.model.is_reference:
            with self.clock.stage("check"):
                self.check = _check_engine(pending, self.plate, self.model, self.options)
        stream = embed_wells(pending, self.plate, self.model, self.options, self.clock)
        with closing(stream) as wells:
            for task, result in wells:
                if isinstance(result, WellResult):
                    with self.clock.stage("write"):
                        self.folder.write_part(result, self.stamps[task.name])
                    self.results[task.name] = result
                    self.n_new_tiles += sum(f.n_tiles * len(f.labels) for f in result.fields)
                elif on_error == "fail":
                    raise result
                else:
                    self.left_out[task.name] = str(result)
                on_well(task)
        if not self.results:
            reason = next(iter(self.left_out.values()), "the plan is empty")
            raise PixelError(f"no well could be embedded: {reason}")

    def write_tables(self, platemap: Platemap | None) -> list[str]:
        """Writes fields, wells and profiles; returns what a person should know about them."""
        warnings: list[str] = []
        _, n_absent, n_chunks = stored_chunks(self.plate)
        if n_absent:
            warnings.append(
                f"{n_absent} of {n_chunks} chunks are absent and read as the fill value:"
                " is the copy of the plate complete?"
            )
        with self.clock.stage("write"):
            fields = _fields_of(self._ordered(), self.plate, self.plan, self.model)
            if platemap is not None:
                fields, notes = join_platemap(fields, platemap.table, name=platemap.name)
                warnings += notes
            wells = aggregate(fields)
            profiles, neutralised = normalize_with_report(wells)
            warnings += [describe_neutralised(group) for group in neutralised]
            self.folder.write_table("fields.parquet", fields)
            self.folder.write_table("wells.parquet", wells)
            self.folder.write_table("profiles.parquet", profiles)
        return warnings

    def summary(self, warnings: list[str], total: float) -> RunSummary:
        """What this run did in `total` seconds."""
        ordered = self._ordered()
        fields = [field for well in ordered for field in well.fields]
        return RunSummary(
            plate=self.plate.name,
            folder=str(self.folder.path),
            n_wells=len(ordered),
            n_resumed=self.n_resumed,
            n_fields=len(fields),
            n_tiles=sum(field.n_tiles * len(field.labels) for field in fields),
            n_tiles_dropped=sum(field.n_tiles_dropped * len(field.labels) for field in fields),
            n_features=len(self.plan.channels) * self.model.dim,
            left_out=self.left_out,
            warnings=(*self.plate.missing, *self.plate.warnings, *warnings),
            seconds={k: round(v, 3) for k, v in {**self.clock.seconds, "total": total}.items()},
            tiles_per_second=round(self.n_new_tiles / total, 2),
            peak_memory_mb=peak_memory_mb(),
        )

    def _ordered(self) -> list[WellResult]:
        """Results in plate order."""
        return [self.results[t.name] for t in self.plan.wells if t.name in self.results]


def _check_engine(
    tasks: Sequence[WellTask], plate: Plate, model: Embedder, options: EmbedOptions
) -> SelfCheck | None:
    """Holds an engine against the reference, before its first well."""
    if model.is_reference:
        return None
    return self_check(model, sample_patches(tasks, plate, model, options))


def _split_fault(fault: str) -> tuple[str, str]:
    """`well A02` and why, of the line that opening the plate gave."""
    what, _, why = fault.partition(": ")
    return what.removeprefix("well "), why or fault


def _refuse_inside(out: Path, plate: Plate) -> None:
    """Results do not belong into the plate that they describe."""
    if not plate.storage.is_remote and out.resolve().is_relative_to(Path(plate.location).resolve()):
        raise UsageError(f"--out {out} lies in the plate {plate.location}: choose another place")


def _fields_of(
    results: Sequence[WellResult], plate: Plate, plan: Plan, model: Embedder
) -> pl.DataFrame:
    return fields_frame(
        results,
        plate=plate.name,
        channels=plan.channels,
        dim=model.dim,
        has_time=plan.has_time,
    )


def _wells_of(plan: Plan, plate: Plate) -> pl.DataFrame:
    names = [task.name for task in plan.wells]
    return pl.DataFrame({"Metadata_Plate": [plate.name] * len(names), "Metadata_Well": names})
