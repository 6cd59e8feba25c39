"""One plate on its way into one folder: resumed, embedded here or by workers, summed up."""

from __future__ import annotations

from collections import deque
from contextlib import closing
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from unidino_fast.absences import said_of_absent
from unidino_fast.assembly import Layout, write_tables
from unidino_fast.clock import StageClock, peak_memory_mb
from unidino_fast.embedding import embed_wells, sample_patches
from unidino_fast.engines.selfcheck import SelfCheck, self_check
from unidino_fast.errors import OutputError, PixelError
from unidino_fast.names import left_out_for
from unidino_fast.noted_fields import read_fields
from unidino_fast.parts import anew, part_path
from unidino_fast.qc.measures import measured
from unidino_fast.reading import Absent
from unidino_fast.results import WellResult
from unidino_fast.run_summary import RunSummary
from unidino_fast.stamps import absent_chunks, stamp_as_read, stamps_before
from unidino_fast.write_behind import written_behind

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from unidino_fast.choices import OnError
    from unidino_fast.cluster.job import Written
    from unidino_fast.cluster.session import Session
    from unidino_fast.config import EmbedOptions
    from unidino_fast.engines import Embedder
    from unidino_fast.noted_fields import Read
    from unidino_fast.output import OutputFolder
    from unidino_fast.planning import FieldTask, Plan, WellTask
    from unidino_fast.plate_model import Plate
    from unidino_fast.platemap import Platemap
    from unidino_fast.qc import Thresholds
    from unidino_fast.results import FieldResult, WellRecord
    from unidino_fast.stamps import PixelStamp


_HELD_BYTES = 16 << 20
"""Features that are kept for the tables; what is beyond is read back: a millisecond a well."""


class PlateRun:
    """The wells of a plate, or of one shard of it, and their results so far.

    Args:
        plate: the plate.
        plan: of the whole plate.
        tasks: the wells to do here.
        model: the backbone with its engine; of workers, what they run.
        options: what to embed and how.
        folder: where results go.
        workers: do the work in place of this process.
        qc: limits of quality control; None for none.
    """

    def __init__(
        self,
        plate: Plate,
        plan: Plan,
        tasks: Sequence[WellTask],
        model: Embedder,
        options: EmbedOptions,
        folder: OutputFolder,
        workers: Session | None,
        qc: Thresholds | None,
    ) -> None:
        self.plate, self.tasks, self.model = plate, tasks, model
        self.options, self.folder, self.workers = options, folder, workers
        self.qc = qc
        self.layout = layout_of(plan, plate, model)
        self.n_tiles = plan.n_tiles if folder.job_tiles is None else folder.job_tiles
        self.clock = StageClock()
        self.results: dict[str, WellRecord] = {}
        self._held: dict[str, WellResult] = {}
        self._n_held = 0
        self.left_out = dict(map(left_out_for, plate.skipped))
        self.stamps: dict[str, PixelStamp | None] = {}
        self.n_resumed = 0
        self.n_measured_later = 0
        self.n_new_tiles = 0
        self.absent = Absent()
        self.absent_before: dict[str, list[str]] = {}
        self.check: SelfCheck | None = None

    def resume(self, *, verify: bool = False, on_error: OnError = "fail") -> None:
        """Takes over the wells that a former run finished.

        Where quality is asked for and a well was embedded without, its pixels are read again,
        compared and measured; the network is not needed for that.

        Args:
            verify: read their pixels again and compare them with those that were embedded.
            on_error: with `skip`, wells whose pixels cannot be read again are pending, and `embed`
                leaves them out if it cannot read them either.

        Raises:
            OutputError: pixels have changed.
            PixelError: pixels to compare cannot be read.
            PlateError: the storage does not say whether pixels have changed.
        """
        self.find_finished(verify=verify)
        lacking = [name for name, found in self.results.items() if self._lacks_measures(found)]
        again = set(self.results if verify else lacking)
        self.absent_before = {
            name: keys
            for name in self.results
            if name not in again and (keys := absent_chunks(self.stamps[name]))
        }
        if again:
            stage = "verify" if verify else "measure"
            with self.clock.stage(stage), self.plate.storage.absent_seen() as absent:
                self._read_again([task for task in self.tasks if task.name in again], on_error)
            self._note(absent)
        self.n_resumed = len(self.results)
        self.n_measured_later = sum(name in self.results for name in lacking)

    def find_finished(self, *, verify: bool) -> None:
        """Finds the wells of a former run that are to be kept; writes nothing.

        Args and errors are those of `resume`, but that no pixels are read.
        """
        kept = [task for task in self.tasks if self.folder.has_part(task)]
        finished = [] if verify else kept
        storage = self.plate.storage
        held = {t.name: self.folder.held_stamp(t) for t in finished} if storage.is_remote else None
        with storage.absent_seen() as absent:
            self.stamps = stamps_before(storage, kept, finished, self.options, held)
        self._note(absent)
        for task in kept:
            found = self.folder.read_part(task, self.stamps[task.name], any_stamp=verify)
            if found is not None:
                self.results[task.name] = found.record()

    def _stamp(self, task: WellTask) -> None:
        """Looks at the files of a well that is to be read next.

        To do so for all wells before the first would take a millisecond each, with nothing read.
        """
        self.stamps |= stamps_before(self.plate.storage, [task], [], self.options)

    def _lacks_measures(self, found: WellRecord) -> bool:
        return self.qc is not None and any(field.quality is None for field in found.fields)

    def _read_again(self, tasks: Sequence[WellTask], on_error: OnError) -> None:
        """Compares pixels; what is proven to be the same gets the stamp of today's files.

        Its quality is measured on the way, where that is asked for.
        """
        measures = self.qc is not None
        stream = read_fields(tasks, self.plate.storage, self.options, measures=measures)
        with closing(stream) as read:
            for task in tasks:
                found = self.folder.read_whole_part(task.well.position)
                fields = islice(read, len(task.fields))
                try:
                    compared = self._compared_well(task, found, fields)
                except PixelError as error:
                    if on_error == "fail":
                        raise _may_be_skipped(error) from error
                    del self.results[task.name]
                    deque(fields, maxlen=0)  # lets go of what the well has left
                    continue
                self.results[task.name] = compared.record()
                self._write(task, compared)

    def _compared_well(
        self, task: WellTask, found: WellResult, fields: Iterator[Read]
    ) -> WellResult:
        compared = [
            self._compared(task, field_task, field, now)
            for field_task, field, now in zip(task.fields, found.fields, fields, strict=True)
        ]
        return WellResult(found.position, tuple(compared))

    def _compared(
        self, task: WellTask, field_task: FieldTask, field: FieldResult, now: Read
    ) -> FieldResult:
        if isinstance(now, PixelError):
            raise now
        _, noted = now
        if noted.checksum != field.checksum:
            path = part_path(self.folder.parts, task.well.position)
            raise OutputError(
                f"the pixels of field {task.name}/{field.site} differ from those that {path} was"
                f" made of: {anew(self.folder.remedy)}"
            )
        seen = noted.seen_of(field_task, self.options)
        return field if seen is None else replace(field, quality=measured(seen))

    @property
    def pending(self) -> list[WellTask]:
        """The wells that are still to be done."""
        return [task for task in self.tasks if task.name not in self.results]

    def embed(self, on_error: OnError, on_well: Callable[[WellTask], None]) -> None:
        """Embeds the other wells and keeps each as it is finished.

        Raises:
            PixelError: a well cannot be read or embedded; with `skip`, only where none can.
        """
        pending = self.pending
        stream: Generator[tuple[WellTask, WellResult | Written | PixelError], None, None]
        if self.workers is None:
            stream = self._embedded_here(pending)
        else:
            stream = self._by_workers(pending, self.workers)
        kept = written_behind(stream, self._write, self.clock)
        with self.plate.storage.absent_seen() as absent, closing(kept) as wells:
            for task, result in wells:
                if isinstance(result, WellResult):
                    self._keep(task, result)
                elif not isinstance(result, PixelError):
                    self._keep(task, self._part_of(task))
                elif on_error == "fail":
                    raise _may_be_skipped(result) from result
                else:
                    self.left_out[task.name] = str(result)
                on_well(task)
        self._note(absent)
        if self.tasks and not self.results:
            reason = next(iter(self.left_out.values()), "the plan is empty")
            raise PixelError(f"no well could be embedded: {reason}")

    def write_tables(self, platemap: Platemap | None) -> list[str]:
        """Writes fields, wells and profiles; returns what a person should know about them."""
        with self.clock.stage("write"):
            return write_tables(
                self.folder, self.layout, self.results, platemap, self.qc, held=self._held
            )

    def engine_warning(self) -> list[str]:
        """A line where the engine's errors are large beside what it is to tell apart."""
        warning = None if self.check is None else self.check.warning
        return [] if warning is None else [warning]

    def said_of_parts(self) -> list[str]:
        """A line where wells of a former run were read again, and one of those without a use."""
        said = []
        if self.n_measured_later:
            n = self.n_measured_later
            were = "1 well was" if n == 1 else f"{n} wells were"
            said.append(f"{were} embedded without quality control and read again to be measured")
        names = self.folder.left_over()
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            said.append(
                f"{self.folder.parts} holds wells that the plate does not hold now"
                f" ({', '.join(names[:3])}{more}): they are in no table"
            )
        return said

    def absent_chunks(self) -> list[str]:
        """Lines where chunks are not there, which the format allows."""
        return said_of_absent(self.plate, self.absent, self.absent_before)

    def summary(self, warnings: Sequence[str], total: float) -> RunSummary:
        """What this run did in `total` seconds."""
        fields = [field for well in self.results.values() for field in well.fields]
        return RunSummary(
            plate=self.plate.name,
            folder=str(self.folder.path),
            n_wells=len(self.results),
            n_resumed=self.n_resumed,
            n_fields=len(fields),
            n_tiles=sum(field.n_tiles * len(field.labels) for field in fields),
            n_tiles_dropped=sum(field.n_tiles_dropped * len(field.labels) for field in fields),
            n_features=len(self.layout.channels) * self.layout.dim,
            left_out=self.left_out,
            warnings=(*self.plate.missing, *self.plate.warnings, *warnings),
            seconds={k: round(v, 3) for k, v in {**self.clock.seconds, "total": total}.items()},
            tiles_per_second=round(self.n_new_tiles / total, 2),
            peak_memory_mb=peak_memory_mb(),
        )

    def _embedded_here(
        self, pending: Sequence[WellTask]
    ) -> Generator[tuple[WellTask, WellResult | PixelError], None, None]:
        if not self.model.is_reference:
            with self.clock.stage("check"):
                self.check = check_engine(pending, self.plate, self.model, self.options)
        return embed_wells(
            pending,
            self.plate.storage,
            self.model,
            self.options,
            self.clock,
            measures=self.qc is not None,
            on_read=self._stamp,
        )

    def _by_workers(
        self, pending: Sequence[WellTask], workers: Session
    ) -> Generator[tuple[WellTask, WellResult | Written | PixelError], None, None]:
        if not pending:
            return
        for task in pending:
            self._stamp(task)
        stamps = [self.stamps[task.name] for task in pending]
        parts = self.folder.parts
        made_by = self.folder.made_by
        with workers.work_on(
            self.plate,
            self.options,
            parts,
            self.n_tiles,
            made_by,
            measures=self.qc is not None,
        ) as work:
            with self.clock.stage("check"):
                self.check = work.check(pending)
            self.folder.make_room()  # workers write there themselves
            try:
                with closing(work.embed(pending, stamps)) as wells:
                    yield from wells
            finally:
                self.absent = self.absent.with_those(work.absent)
                for stage, seconds in work.seconds.items():
                    self.clock.add(stage, seconds)

    def _write(self, task: WellTask, result: WellResult) -> None:
        before = self.stamps[task.name]
        stamp = stamp_as_read(self.plate.storage, task, self.options.z, before)
        self.folder.write_part(result, stamp)

    def _part_of(self, task: WellTask) -> WellResult:
        """What a worker has written."""
        found = self.folder.read_part(task, self.stamps[task.name])
        if found is None:
            raise OutputError(
                f"{self.folder.parts} does not hold well {task.name}, which a worker has written"
                " there: do all machines see one and the same folder?"
            )
        return found

    def _note(self, absent: set[str]) -> None:
        """Keeps in mind that chunks were looked for and are absent."""
        self.absent = self.absent.with_those(Absent.of(absent))

    def _keep(self, task: WellTask, result: WellResult) -> None:
        self.results[task.name] = result.record()
        n_bytes = sum(field.features.nbytes for field in result.fields)
        if self._n_held + n_bytes <= _HELD_BYTES:
            self._held[task.name] = result
            self._n_held += n_bytes
        self.n_new_tiles += sum(f.n_tiles * len(f.labels) for f in result.fields)


def _may_be_skipped(error: PixelError) -> PixelError:
    return PixelError(f"{error}; --on-error skip leaves such wells out")


def layout_of(plan: Plan, plate: Plate, model: Embedder) -> Layout:
    """What the tables of a plan will look like."""
    return Layout(
        plate=plate.name,
        wells=tuple(task.name for task in plan.wells),
        channels=plan.channels,
        dim=model.dim,
        has_time=plan.has_time,
    )


def check_engine(
    tasks: Sequence[WellTask], plate: Plate, model: Embedder, options: EmbedOptions
) -> SelfCheck | None:
    """Holds an engine against the reference, before its first well."""
    if model.is_reference:
        return None
    return self_check(model, sample_patches(tasks, plate.storage, model, options))
