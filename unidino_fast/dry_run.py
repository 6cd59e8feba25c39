"""What `unidino-fast embed --dry-run` finds: what is to be done, what is done already, or why not.

Nothing is written. All that `embed` would refuse before it reads a pixel is refused here too, but
for a folder that another run is writing to: that is said, and its wells are counted as they stand.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from unidino_fast.absences import said_of_listed
from unidino_fast.names import counted, folder_name, left_out_for
from unidino_fast.output import OutputFolder
from unidino_fast.planning import plan_plate
from unidino_fast.terminal import say, say_left_out, say_some

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unidino_fast.config import EmbedOptions
    from unidino_fast.embed_request import EmbedRequest
    from unidino_fast.engines import Embedder
    from unidino_fast.engines.spec import ModelSpec
    from unidino_fast.planning import WellTask
    from unidino_fast.plate_model import Plate


class DryRun:
    """Looks at the plates of one request; the weights are loaded once, no engine is built."""

    def __init__(self, request: EmbedRequest) -> None:
        self.request = request

    @cached_property
    def _spec(self) -> ModelSpec:
        return self.request.spec()

    @cached_property
    def _model(self) -> Embedder:
        return self._spec.build()

    @cached_property
    def _options(self) -> EmbedOptions:
        return self.request.options_for(self._spec.backbone)

    def look(self, plate: Plate) -> dict[str, Any]:
        """What would be embedded of a plate, of its shard if it is one.

        Raises:
            UnidinoError: what `embed` would raise before it reads a pixel.
        """
        request = self.request
        plan = plan_plate(plate, self._options, patch=self._spec.backbone.patch_size)
        tasks = plan.wells if request.shard is None else request.shard.of(plan.wells)
        finished = self._finished(plate)
        left = None if finished is None else [task for task in tasks if task.name not in finished]
        place = f"{plate.name}: " if len(request.plates) > 1 else ""
        warnings = (*plate.missing, *plate.warnings, *(said_of_listed(plate) or ()))
        say_some("warning", [f"{place}{warning}" for warning in warnings])
        left_out = dict(map(left_out_for, plate.skipped))
        say_left_out(left_out, place)
        return {
            "plate": plate.name,
            **_counts(tasks, ""),
            "n_resumed": None if left is None else len(tasks) - len(left),
            **_counts(left, "_left"),
            "channels": list(plan.channels),
            "folder": str(request.out / folder_name(plate.name)),
            "left_out": left_out,
        }

    def _finished(self, plate: Plate) -> set[str] | None:
        """Names of the wells that are done; None where only workers that are there could tell."""
        from unidino_fast.pipeline import prepare_run

        request = self.request
        if request.scheduler is not None:
            folder = OutputFolder(request.out, plate.name, {})
            if request.overwrite or not folder.manifest.exists():
                return set()
            say(f"note: {folder.path} holds results, which are judged when workers are there")
            return None
        run = prepare_run(
            plate,
            self._model,
            request.out,
            self._options,
            platemap=request.platemap,
            overwrite=request.overwrite,
            shard=request.shard,
            qc=request.qc,
        )
        holder = run.folder.held_by(None if request.shard is None else request.shard.name)
        if holder is not None:
            say(f"note: {run.folder.path} was taken by {holder}: while that runs, embed refuses it")
        if request.overwrite:
            return set()
        run.find_finished(verify=request.verify)
        return set(run.results)


def _counts(tasks: Sequence[WellTask] | None, suffix: str) -> dict[str, int | None]:
    return {
        f"n_wells{suffix}": None if tasks is None else len(tasks),
        f"n_fields{suffix}": None if tasks is None else sum(len(task.fields) for task in tasks),
        f"n_tiles{suffix}": None if tasks is None else sum(task.n_tiles for task in tasks),
    }


def plans_as_object(plans: list[dict[str, Any]], failed: dict[str, str]) -> dict[str, Any]:
    """Totals over all plates, and each plate's own; a single plate's stand in the place of them."""
    said = {
        "left_out": {plan["plate"]: plan["left_out"] for plan in plans if plan["left_out"]},
        "failed": failed,
        "plates": plans,
    }
    if len(plans) == 1:
        return {**plans[0], **said}
    sums = {name: [plan[name] for plan in plans] for name in plans[0] if name.startswith("n_")}
    return {**{n: None if None in v else sum(v) for n, v in sums.items()}, **said}


def plan_as_text(facts: dict[str, Any]) -> str:
    """A line of what was found of a plate."""
    n_wells, n_resumed = facts["n_wells"], facts["n_resumed"]
    if n_resumed == n_wells:
        return f"{facts['plate']}: all {n_wells} wells are done already, in {facts['folder']}"
    done = f"{n_resumed} of {n_wells} wells are done already; " if n_resumed else ""
    suffix = "" if n_resumed is None else "_left"
    fields, wells = (counted(facts[f"n_{what}s{suffix}"], what) for what in ("field", "well"))
    return (
        f"{facts['plate']}: {done}would embed {facts[f'n_tiles{suffix}']} tiles (at most) of"
        f" {fields} in {wells}, channels {', '.join(facts['channels'])}, into {facts['folder']}"
    )
