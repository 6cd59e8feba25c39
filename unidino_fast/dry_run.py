"""What `unidino-fast embed --dry-run` finds: what is to be done, what is done already, or why not.

Nothing is written. Weights are loaded only where a folder holds results, which are judged by them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unidino_fast.output import OutputFolder, folder_name
from unidino_fast.planning import plan_plate
from unidino_fast.terminal import say

if TYPE_CHECKING:
    from collections.abc import Collection

    from unidino_fast.config import EmbedOptions
    from unidino_fast.embed_request import EmbedRequest
    from unidino_fast.engines import Embedder
    from unidino_fast.plate_model import Plate


class DryRun:
    """Looks at the plates of one request."""

    def __init__(self, request: EmbedRequest) -> None:
        self.request = request
        self._model: Embedder | None = None

    def look(self, plate: Plate) -> dict[str, Any]:
        """What would be embedded of a plate, of its shard if it is one.

        Raises:
            UnidinoError: what `embed` would raise before it reads a pixel.
        """
        request, folder = self.request, OutputFolder(self.request.out, plate.name, {})
        options = request.options
        finished: set[str] = set()
        if folder.manifest.exists() and not request.overwrite:
            if request.scheduler is None:
                model = self._opened()
                options = request.options_for(model.backbone)
                finished = self._finished(plate, model, options)
            else:
                say(f"note: {folder.path} holds results, which are judged when workers are there")
        return self._facts(plate, options, finished)

    def _opened(self) -> Embedder:
        """The backbone, for all plates; its engine is not built."""
        if self._model is None:
            self._model = self.request.spec().build()
        return self._model

    def _finished(self, plate: Plate, model: Embedder, options: EmbedOptions) -> set[str]:
        from unidino_fast.pipeline import finished_wells

        request = self.request
        return finished_wells(
            plate,
            model,
            request.out,
            options,
            platemap=request.platemap,
            shard=request.shard,
            verify=request.verify,
            qc=request.qc,
        )

    def _facts(
        self, plate: Plate, options: EmbedOptions, finished: Collection[str]
    ) -> dict[str, Any]:
        plan = plan_plate(plate, options, patch=16)
        tasks = plan.wells if self.request.shard is None else self.request.shard.of(plan.wells)
        left = [task for task in tasks if task.name not in finished]
        return {
            "plate": plate.name,
            "n_wells": len(tasks),
            "n_fields": sum(len(task.fields) for task in tasks),
            "n_tiles": sum(task.n_tiles for task in tasks),
            "n_resumed": len(tasks) - len(left),
            "n_fields_left": sum(len(task.fields) for task in left),
            "n_tiles_left": sum(task.n_tiles for task in left),
            "channels": list(plan.channels),
            "folder": str(self.request.out / folder_name(plate.name)),
        }


def plans_as_object(plans: list[dict[str, Any]]) -> dict[str, Any]:
    """Totals over all plates, and each plate's own; a single plate's stand in the place of them."""
    if len(plans) == 1:
        return {**plans[0], "plates": plans}
    sums = [name for name in plans[0] if name.startswith("n_")]
    return {**{name: sum(plan[name] for plan in plans) for name in sums}, "plates": plans}


def plan_as_text(facts: dict[str, Any]) -> str:
    """A line of what was found of a plate."""
    n_left, n_wells = facts["n_wells"] - facts["n_resumed"], facts["n_wells"]
    if not n_left:
        return f"{facts['plate']}: all {n_wells} wells are done already, in {facts['folder']}"
    done = f"{facts['n_resumed']} of {n_wells} wells are done already; " if n_left < n_wells else ""
    return (
        f"{facts['plate']}: {done}would embed {facts['n_tiles_left']} tiles (at most) of"
        f" {facts['n_fields_left']} fields in {n_left} wells, channels"
        f" {', '.join(facts['channels'])}, into {facts['folder']}"
    )
