"""Everything a run needs before its first step: data, method, optimiser, what a former run left."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from unidino_fast._version import __version__
from unidino_fast.backbones.saving import save_backbone
from unidino_fast.errors import UsageError
from unidino_fast.provenance import device_name, software_versions
from unidino_fast.training.checkpoint import Checkpoints, Progress
from unidino_fast.training.data import Mixture, ViewDataset, open_batches
from unidino_fast.training.dino import Dino
from unidino_fast.training.ibot import Ibot
from unidino_fast.training.initial import begin_with, open_initial
from unidino_fast.training.labels import replicates
from unidino_fast.training.lora import Lora
from unidino_fast.training.mae import Mae
from unidino_fast.training.networks import as_backbone, compiled, recompute, vit_shape
from unidino_fast.training.optim import build_optimizer
from unidino_fast.training.probe import Probe
from unidino_fast.training.schedules import Clock
from unidino_fast.training.sharding import Whole, shard
from unidino_fast.training.simclr import Simclr
from unidino_fast.training.sources import open_source
from unidino_fast.training.supcon import Supcon
from unidino_fast.training.survey import survey
from unidino_fast.training.watch import Watch
from unidino_fast.training.wells import labelled_sources, refuse_leaks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torch import nn

    from unidino_fast.backbones import Backbone
    from unidino_fast.training.checkpoint import Stateful
    from unidino_fast.training.config import TrainConfig
    from unidino_fast.training.data import Batch, Order
    from unidino_fast.training.method import Method
    from unidino_fast.training.processes import Processes
    from unidino_fast.training.sources import Source


Maker = Callable[["TrainConfig", Clock, "Processes"], "Method"]

METHODS: dict[str, Maker] = {
    "dino": Dino,
    "ibot": Ibot,
    "mae": Mae,
    "simclr": Simclr,
    "supcon": Supcon,
}


@dataclass
class Run:
    """A run of one process, ready for its next step.

    Attributes:
        network: `method.trained`, compiled and wrapped as the machine wants it.
        parts: what a checkpoint keeps.
        batches: from the next step on.
        progress: steps done.
        initial: weights that the run began with, if it was not from scratch.
        probe: in the first process, if there is one.
    """

    config: TrainConfig
    processes: Processes
    clock: Clock
    sources: Sequence[Source]
    method: Method
    network: nn.Module
    optimizer: torch.optim.Optimizer
    watch: Watch
    parts: dict[str, Stateful]
    checkpoints: Checkpoints
    batches: Iterator[Batch]
    progress: Progress
    initial: Backbone | None = None
    probe: Probe | None = None


def prepare(
    config: TrainConfig, out: Path, processes: Processes, warn: Callable[[str], None]
) -> Run:
    """Opens and checks the data, builds the networks, goes on from the newest checkpoint.

    Raises:
        UsageError: batch, epoch and processes do not fit each other, or `init` the model.
        WeightsError: `init` cannot be loaded.
        TrainingError: a dataset cannot be trained on, or the probe's plate not be used.
        OutputError: the folder holds another run.
    """
    size = config.views.global_size
    cache = config.machine.cache_mb * 1_000_000
    share = cache // max(len(config.data), 1)
    held_out = config.lora.hold_out if config.method == "lora" else ()
    refuse_leaks(config.data, held_out)
    learnt = [one for one in config.data if one.name not in held_out]
    sources = [open_source(one, smallest=size, cache_bytes=share) for one in learnt]
    for line in survey(sources, size=size) if processes.is_first else []:
        warn(line)
    sizes = {source.name: len(source) for source in sources}
    labelled = labelled_sources(learnt, sources, config.lora) if config.method == "lora" else None
    if labelled is not None:
        sources = labelled.sources
        sizes = {source.name: len(source) for source in sources}
    order, decided = _order(config, sources, warn if processes.is_first else _silent)
    torch.manual_seed(config.seed)
    length = config.optim.images_per_epoch or order.epoch_length
    clock = _clock(config, length, processes)
    method: Method
    if labelled is not None:
        method = Lora(config, clock, processes.device, labelled)
        decided["labels"] = labelled.digest
    else:
        method = METHODS[config.method](config, clock, processes)
    initial = open_initial(config)
    decides = {**config.what_decides(), "images": sizes, **decided}
    if initial is not None:
        begin_with(method, initial)
        decides["init"] = initial.digest
    if processes.shards:
        shard(method.networks, processes)
    if config.machine.recompute:
        recompute(method.trained)
    optimizer = build_optimizer(method.trained, processes.device)
    checkpoints = Checkpoints(out, decides, config.machine.keep)
    watch = Watch(config.method)
    parts: dict[str, Stateful] = {"method": method, "optimizer": optimizer, "watch": watch}
    if processes.shards:
        parts = {name: Whole(part) for name, part in parts.items()}
    progress = checkpoints.load(parts, processes.device)
    network = compiled(method.trained) if config.machine.compile else method.trained
    dataset = ViewDataset(sources, method.groups, config, order)
    return Run(
        config=config,
        processes=processes,
        clock=clock,
        sources=sources,
        method=method,
        network=processes.wrapped(network),
        optimizer=optimizer,
        watch=watch,
        parts=parts,
        checkpoints=checkpoints,
        batches=open_batches(dataset, config, clock, processes, progress.step),
        progress=progress,
        initial=initial,
        probe=Probe(config.probe, processes.device, config.intensity or "dtype")
        if config.probe is not None and processes.is_first
        else None,
    )


def exported(run: Run) -> Backbone:
    """A copy of the network to embed with, as it is now; where it is sharded, all call this."""
    config = run.config
    backbone = as_backbone(run.method.exported(), vit_shape(config), config.name, config.licence)
    return replace(backbone, intensity=config.intensity)


def export(run: Run, path: Path) -> None:
    """Writes the network to embed with as the package's own weights file."""
    if not (run.processes.is_first or run.processes.shards):
        return
    config = run.config
    backbone = exported(run)
    provenance: dict[str, Any] = {
        "unidino_fast": __version__,
        "config": json.dumps(config.what_decides(), sort_keys=True),
        "images": json.dumps({source.name: len(source) for source in run.sources}),
        "steps": f"{run.progress.step} of {run.clock.total}",
        "device": device_name(run.processes.device),
        "software": json.dumps(software_versions()),
    }
    if run.initial is not None:
        provenance["init"] = f"{run.initial.name} {run.initial.digest}"
    if run.processes.is_first:
        save_backbone(backbone, path, provenance)


def save(run: Run, *, best: bool) -> None:
    """Writes a checkpoint; where weights are sharded, all processes bring their share."""
    if run.processes.is_first:
        run.checkpoints.save(run.progress, run.parts, best=best)
    elif run.processes.shards:
        for part in run.parts.values():
            part.state_dict()


def _order(
    config: TrainConfig, sources: Sequence[Source], warn: Callable[[str], None]
) -> tuple[Order, dict[str, str]]:
    """Which image is the next; and what of it decides what is learnt, beside the settings."""
    if config.method != "supcon":
        sizes = tuple(len(source) for source in sources)
        # of fine-tuning, sources are parts of datasets, which weigh the same
        weights = tuple(one.weight for one in config.data) if config.method != "lora" else None
        return Mixture(sizes, config.seed, weights), {}
    order, labels, complaints = replicates(config.data, sources, config.supcon, config.seed)
    for line in complaints:
        warn(line)
    return order, {"labels": labels}


def _silent(_: str) -> None:
    pass


def _clock(config: TrainConfig, length: int, processes: Processes) -> Clock:
    optim, parts = config.optim, config.machine.accumulate * processes.count
    if optim.batch % parts:
        raise UsageError(
            f"optim.batch {optim.batch} is no multiple of machine.accumulate"
            f" {config.machine.accumulate} times {processes.count} processes: change one of them"
        )
    if length < optim.batch:
        raise UsageError(
            f"an epoch of {length} images is shorter than optim.batch {optim.batch}: lower the"
            " batch, or raise optim.images_per_epoch, which shows images several times"
        )
    return Clock(steps_per_epoch=length // optim.batch, epochs=optim.epochs)
