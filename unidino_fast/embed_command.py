"""What `unidino-fast embed` does: plates one after another, progress, summary, exit code."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from unidino_fast.console import WellProgress, log_to_console
from unidino_fast.dry_run import DryRun, plan_as_text, plans_as_object
from unidino_fast.embed_summary import as_object, as_text
from unidino_fast.errors import UnidinoError, UsageError
from unidino_fast.names import folder_name
from unidino_fast.terminal import say, say_left_out, say_some, tell

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from unidino_fast.choices import OnError
    from unidino_fast.cluster.session import Session
    from unidino_fast.config import EmbedOptions
    from unidino_fast.embed_request import EmbedRequest
    from unidino_fast.engines import Embedder
    from unidino_fast.plate_model import Plate
    from unidino_fast.qc import Campaign
    from unidino_fast.run_summary import RunSummary

LEFT_OUT = 3


def run_embed(request: EmbedRequest, *, dry_run: bool, as_json: bool) -> int:
    """Embeds the plates of a request; returns the exit code.

    Raises:
        UnidinoError: a plate failed and `on_error` is `fail`, or no plate could be embedded.
    """
    log_to_console()
    _ = request.platemap, request.qc  # faulty files are said before anything else
    failed = _Failed(request.on_error, len(request.plates))
    opened: list[tuple[str, Plate]] = []
    for location in request.plates:
        with failed.noting(location):
            opened.append((location, request.open(location)))
    _refuse_shared_folders([plate for _, plate in opened])
    if dry_run:
        return _say_plans(opened, request, failed, as_json=as_json)
    done: list[RunSummary] = []
    if opened:
        with request.opened() as (model, workers):
            run = _Embedding(request, request.options_for(model.backbone), model, workers)
            fit = []
            for location, plate in opened:  # all of them before hours of work on the first
                with failed.noting(location):
                    run.check(plate)
                    fit.append((location, plate))
            for location, plate in fit:
                with failed.noting(location):
                    done.append(run.embed(plate))
                    if not as_json:  # now, and not with the last: a later one may end the run
                        tell(as_text(done[-1], request.shard))
    failed.raise_if_all(done)
    plates = _compared(request)
    if as_json:
        compared = {} if plates is None else {"qc": plates.to_dict()}
        tell(json.dumps({**as_object(done, failed.reasons, request.shard), **compared}))
    if request.report:
        _report(request)
    return LEFT_OUT if failed.reasons or any(summary.left_out for summary in done) else 0


def _compared(request: EmbedRequest) -> Campaign | None:
    """The plates that the output folder holds against each other; says what is unlike."""
    from unidino_fast.qc import compare_folder

    if request.shard is not None or request.qc is False:
        return None
    found = compare_folder(request.out, None if request.qc is True else request.qc)
    if found is not None:
        say_some("warning", found.warnings)
    return found


def _report(request: EmbedRequest) -> None:
    """Makes the pages of all plates in the output folder, and says where."""
    from unidino_fast.report import ReportOptions, write_reports

    say("making the report")
    first, *_ = write_reports(request.out, None, ReportOptions(plates=tuple(request.plates)))
    say(f"report: {first}")


def how_to_go_on(out: Path, *, overwrite: bool) -> str:
    """How things stand when a run into `out` was interrupted."""
    if any(out.glob("*/parts/*.parquet")):
        how = "again" if not overwrite else "again without --overwrite, which starts over,"
        return f"{out} keeps the finished wells; run it {how} to go on"
    return "no well was finished yet; run it again to start over"


def _say_plans(
    opened: list[tuple[str, Plate]], request: EmbedRequest, failed: _Failed, *, as_json: bool
) -> int:
    looking, plans = DryRun(request), []
    for location, plate in opened:
        with failed.noting(location):
            plans.append(looking.look(plate))
    failed.raise_if_all(plans)
    if as_json:
        tell(json.dumps(plans_as_object(plans, failed.reasons)))
    else:
        for facts in plans:
            tell(plan_as_text(facts))
    return LEFT_OUT if failed.reasons or any(facts["left_out"] for facts in plans) else 0


class _Failed:
    """Plates that cannot be embedded: the end of the run, or a line under `skip`."""

    def __init__(self, on_error: OnError, n_plates: int) -> None:
        self.on_error, self.n_plates = on_error, n_plates
        self.reasons: dict[str, str] = {}
        self.last: UnidinoError | None = None

    @contextmanager
    def noting(self, location: str) -> Iterator[None]:
        """Takes note of a plate's error, where such plates are to be left out."""
        try:
            yield
        except UnidinoError as error:
            reason = str(error)
            is_named = re.search(rf"(?<!\S){re.escape(location)}(?![^\s:])", reason) is not None
            named = reason if is_named else f"{location}: {reason}"
            if self.n_plates > 1:  # each of them may have such a well
                error.args = (named,)
            is_usage = error.exit_code == UsageError.exit_code
            if self.on_error == "fail" or is_usage or self.n_plates == 1:
                raise
            self.reasons[location] = reason
            self.last = error
            say(f"left out: {named}")

    def raise_if_all(self, done: Sequence[object]) -> None:
        """Raises the last error where nothing was done."""
        if self.last is not None and not done:
            raise self.last


class _Embedding:
    """Embeds plates of one request with one warm backbone."""

    def __init__(
        self,
        request: EmbedRequest,
        options: EmbedOptions,
        model: Embedder,
        workers: Session | None,
    ) -> None:
        self.request, self.options, self.model, self.workers = request, options, model, workers

    def check(self, plate: Plate) -> None:
        """Raises what is wrong with a plate, before any work."""
        from unidino_fast.pipeline import prepare_run

        prepare_run(
            plate,
            self.model,
            self.request.out,
            self.options,
            platemap=self.request.platemap,
            overwrite=self.request.overwrite,
            workers=self.workers,
            shard=self.request.shard,
            qc=self.request.qc,
        )

    def embed(self, plate: Plate) -> RunSummary:
        """Embeds a plate; shows progress and what a person should know."""
        from unidino_fast.pipeline import embed_to_folder

        request = self.request
        place = f"{plate.name}: " if len(request.plates) > 1 else ""
        with WellProgress(place) as progress:
            summary = embed_to_folder(
                plate,
                self.model,
                request.out,
                self.options,
                platemap=request.platemap,
                on_error=request.on_error,
                overwrite=request.overwrite,
                workers=self.workers,
                shard=request.shard,
                verify=request.verify,
                qc=request.qc,
                on_start=progress.start,
                on_well=progress.well,
            )
        say_some("warning", [f"{place}{warning}" for warning in summary.warnings])
        say_left_out(summary.left_out, place)
        return summary


def _refuse_shared_folders(plates: list[Plate]) -> None:
    """Two plates of one name would write to one folder."""
    taken: dict[str, Plate] = {}
    for plate in plates:
        other = taken.setdefault(folder_name(plate.name), plate)
        if other is not plate:
            raise UsageError(
                f"plates {other.location} and {plate.location} are both named {plate.name}:"
                " embed them into different --out folders"
            )
