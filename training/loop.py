"""A training run, whole: open this file first.

`train` prepares (data, networks, what a former run left), then does step after step, and leaves a
checkpoint, the curves and the weights. What is learnt from a batch is the method's affair (`dino`).
"""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from unidino_fast.errors import TrainingError, UnidinoError
from unidino_fast.lock import FolderLock
from unidino_fast.tables import make_folder
from unidino_fast.training import probe as probing
from unidino_fast.training.data import one_line_for_killed_workers
from unidino_fast.training.heldout import HeldOutReport, held_out_report, write_report
from unidino_fast.training.interruption import Interruption
from unidino_fast.training.lora import Lora
from unidino_fast.training.optim import clip_gradients, set_rates
from unidino_fast.training.prepare import Run, export, exported, prepare, save
from unidino_fast.training.processes import joined
from unidino_fast.training.schedules import learning_rate, weight_decay
from unidino_fast.training.watch import Log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from unidino_fast.training.config import TrainConfig
    from unidino_fast.training.config_labels import ProbeConfig
    from unidino_fast.training.processes import Processes

WEIGHTS = "teacher.safetensors"
_LEFT_BEHIND = (
    ".log.csv.*.tmp",
    f".{WEIGHTS}.*.partial",
    "checkpoints/.step-*.pt.*.tmp",
    "checkpoints/.best.pt.*.tmp",
)
"""What a run that is killed while it writes leaves of a file; a checkpoint is large."""
_COLUMNS = ("loss", "lr", "weight_decay", "grad_norm", "images_per_s")
_SIGNS = ("feature_rank", "teacher_entropy", "teacher_spread")
_CALMER = "lower optim.lr, raise optim.warmup_epochs or set optim.clip_norm = 3"
_PROBED = probing.COLUMNS[0]
_STEPS = 7_368_787  # keeps the generators of steps apart from those of samples


@dataclass(frozen=True)
class StepReport:
    """How a run stands after a step; steps and epochs are counted from 1 here."""

    step: int
    n_steps: int
    epoch: int
    n_epochs: int
    loss: float
    images_per_s: float
    seconds_left: float
    probe: float | None = None
    """Accuracy of the probe, after the steps that it is measured at."""


@dataclass(frozen=True)
class Summary:
    """What a run has done.

    Attributes:
        first_step: where this call began.
        loss: of the last step; None where there was none left to do.
        is_first: whether this is the process that wrote the files.
        held_out: what fine-tuning has brought, once it is finished.
    """

    steps: int
    n_steps: int
    first_step: int
    loss: float | None
    images_per_s: float
    weights: Path
    log: Path
    is_first: bool
    held_out: HeldOutReport | None = None


def train(
    config: TrainConfig,
    out: Path,
    *,
    report: Callable[[StepReport], None] = lambda report: None,
    warn: Callable[[str], None] = lambda line: None,
    stop_after: int | None = None,
) -> Summary:
    """Trains, from the newest checkpoint in `out` if there is one.

    Args:
        config: with the paths of its data.
        out: folder for `checkpoints/`, `log.csv` and the weights.
        report: called after each step, in the first process.
        warn: called with a line where something looks wrong, in the first process.
        stop_after: steps to do in this call; to the end by default.

    Raises:
        UsageError, OutputError, TrainingError: see `prepare`; or a loss is not finite any more.
        KeyboardInterrupt: after a Ctrl-C, once the step is finished and a checkpoint written.
    """
    with ExitStack() as stack:
        processes = stack.enter_context(joined(config.machine.device, config.machine.parallel))
        if processes.is_first:
            stack.enter_context(_sole(out))
        processes.barrier()
        run = prepare(config, out, processes, warn)
        stop = stack.enter_context(Interruption())
        last = run.clock.total
        if stop_after is not None:
            last = min(last, run.progress.step + stop_after)
        with one_line_for_killed_workers():
            summary = _steps(run, out, last, stop, report, warn)
        stop.act()
        if summary.is_first and isinstance(run.method, Lora) and summary.steps == summary.n_steps:
            summary = replace(summary, held_out=_asked(run, run.method, out))
        return summary


def _asked(run: Run, method: Lora, out: Path) -> HeldOutReport:
    """Labels of held-out wells, by the weights that the run began with and ends with."""
    if run.initial is None:
        raise TrainingError("fine-tuning began with no weights: set init")
    device = run.processes.device
    report = held_out_report(run.config, method, run.initial, exported(run), device)
    write_report(report, out)
    return report


def _steps(
    run: Run,
    out: Path,
    last: int,
    stop: Interruption,
    report: Callable[[StepReport], None],
    warn: Callable[[str], None],
) -> Summary:
    """Steps up to `last`, or until a signal; then a checkpoint and the weights."""
    progress, clock, machine = run.progress, run.clock, run.config.machine
    first, began = progress.step, time.monotonic()
    saved = began
    loss, rate = None, 0.0
    is_first = run.processes.is_first
    with ExitStack() as stack:
        log = stack.enter_context(_log(run, out)) if is_first else None
        stopping = False
        while progress.step < last and not stopping:
            step = progress.step
            try:
                values, stopping = do_step(run, step, stop)
            except UnidinoError:
                # the step has changed no weights; shares of them need all processes to be saved
                if step > first and not run.processes.shards:
                    save(run, best=False)
                raise
            loss = values["loss"]
            rate = (step + 1 - first) * run.config.optim.batch / (time.monotonic() - began)
            values["images_per_s"] = rate
            if is_first and (step % machine.log_steps == 0 or step + 1 == clock.total):
                signs = run.watch.measure() | run.method.signs()
                values |= signs
                for line in run.watch.judge(signs) if clock.epoch(step) > 0 else []:
                    warn(f"step {step + 1}: {line}")
            is_best = progress.add(loss, ends_epoch=(step + 1) % clock.steps_per_epoch == 0)
            if run.config.probe is not None:
                values |= _probed(run, run.config.probe, step)
                is_best = progress.rate(values.get(_PROBED, -np.inf))
            if log is not None:
                log.write(step, values)
                report(_report(run, loss, rate, values.get(_PROBED)))
            is_due = is_best or time.monotonic() - saved > 60 * machine.checkpoint_minutes
            if run.processes.shards:
                is_due = run.processes.agreed(told=is_due)
            if is_due:
                save(run, best=is_best)
                saved = time.monotonic()
        save(run, best=False)
        export(run, out / WEIGHTS)
    return Summary(
        steps=progress.step,
        n_steps=clock.total,
        first_step=first,
        loss=loss,
        images_per_s=rate,
        weights=out / WEIGHTS,
        log=out / "log.csv",
        is_first=is_first,
    )


def do_step(run: Run, step: int, stop: Interruption) -> tuple[dict[str, float], bool]:
    """One step of the optimiser; gives what to log, and whether any process was told to stop."""
    config, processes, method = run.config, run.processes, run.method
    rates = (
        learning_rate(step, run.clock, config.optim),
        weight_decay(step, run.clock, config.optim),
    )
    set_rates(run.optimizer, *rates)
    run.optimizer.zero_grad(set_to_none=True)
    n_parts = config.machine.accumulate
    news = torch.zeros(2 + len(run.sources), device=processes.device)  # loss, stop, bad images
    outcomes, images = [], []
    for part in range(n_parts):
        batch = next(run.batches)
        _seed(config.seed, step, part, processes.rank)
        with _averaging(run, is_last=part + 1 == n_parts):
            with _precision(config, processes):
                outcome = method.losses(run.network, batch, step)
            (outcome.losses.mean() / n_parts).backward()  # type: ignore[no-untyped-call]
        losses = outcome.losses.detach()
        outcomes.append(replace(outcome, losses=losses))
        news[0] += losses.mean() / n_parts
        bad = ~losses.isfinite()
        news[2:] += torch.bincount(batch.dataset[bad], minlength=len(run.sources))
        images.append(torch.stack([batch.dataset, batch.plane, bad]))
    news[1] = stop.number is not None
    loss, told, *n_bad = processes.sum(news).tolist()
    loss /= processes.count
    if not np.isfinite(loss):
        raise _diverged(run, step, n_bad, torch.cat(images, dim=1).T.tolist())
    for outcome in outcomes:
        run.watch.add(outcome)
    method.before_update(step)
    norm = float(clip_gradients(method.trained.parameters(), config.optim.clip_norm))
    if not np.isfinite(norm):
        raise TrainingError(
            f"step {step + 1}: gradients are not finite although the loss is ({loss:g}): {_CALMER}"
        )
    run.optimizer.step()
    method.after_update(step, processes)
    run.progress.step = step + 1
    values = {"loss": loss, "lr": rates[0], "weight_decay": rates[1], "grad_norm": norm}
    return values | method.settings(step), told > 0


def _probed(run: Run, config: ProbeConfig, step: int) -> dict[str, float]:
    """What the probe says at the end of some epochs; at other steps and processes nothing."""
    epoch, within = divmod(step + 1, run.clock.steps_per_epoch)
    if within or not config.is_due(epoch - 1, run.clock.epochs):
        return {}
    backbone = exported(run) if run.probe or run.processes.shards else None
    return run.probe(backbone) if run.probe and backbone else {}


def _seed(seed: int, *place: int) -> None:
    """Seeds what the networks draw (stochastic depth) by step, part and rank.

    So a run goes on to the bit without a generator's state. It is done once the batch is there,
    for a loader draws from torch's generator when it starts.
    """
    words = np.random.SeedSequence([seed, _STEPS, *place]).generate_state(1, np.uint64)
    torch.manual_seed(int(words[0]) >> 1)


def _averaging(run: Run, *, is_last: bool) -> Any:
    """Gradients are exchanged once a step, with its last part."""
    if run.processes.shards:
        run.network.set_requires_gradient_sync(is_last)  # type: ignore[operator]
        return nullcontext()
    alone = run.processes.count == 1 or is_last
    return nullcontext() if alone else run.network.no_sync()  # type: ignore[operator]


def _precision(config: TrainConfig, processes: Processes) -> Any:
    is_half = config.machine.precision == "bf16"
    return torch.autocast(processes.device.type, torch.bfloat16, enabled=is_half)


def _diverged(run: Run, step: int, n_bad: list[float], own: list[list[int]]) -> TrainingError:
    """What to say of a loss that is not finite.

    Args:
        run: of this process.
        step: from 0.
        n_bad: images without a finite loss of each dataset, in all processes.
        own: dataset, image and whether it is one of them, for each image of this process.
    """
    names = [source.name for source, n in zip(run.sources, n_bad, strict=True) if n]
    whose = f"in images of dataset {', '.join(names)}" if names else "in no one dataset"
    if len(names) == len(run.sources) > 1:
        whose = "in images of all datasets"
    bad = [run.sources[dataset].describe(image) for dataset, image, is_bad in own if is_bad]
    remedies = [f"look at them, such as {bad[0]}" if bad else "look at them"]
    if sum(n_bad) in (0, run.config.optim.batch):  # the fault is hardly in the images
        remedies = [_CALMER, *(remedies if bad else [])]
    return TrainingError(
        f"step {step + 1}: the loss is not finite, {whose}: {'; or '.join(remedies)}"
    )


def _report(run: Run, loss: float, rate: float, probe: float | None) -> StepReport:
    progress, clock = run.progress, run.clock
    left = (clock.total - progress.step) * run.config.optim.batch / rate
    return StepReport(
        step=progress.step,
        n_steps=clock.total,
        epoch=clock.epoch(progress.step - 1) + 1,
        n_epochs=clock.epochs,
        loss=loss,
        images_per_s=rate,
        seconds_left=left,
        probe=probe,
    )


def _log(run: Run, out: Path) -> Log:
    columns = (*_COLUMNS, *run.method.settings(0), *_SIGNS, *run.method.signs())
    if run.probe is not None:
        columns = (*columns, *probing.COLUMNS)
    tensorboard = run.config.machine.tensorboard
    return Log(out, columns, run.progress.step, tensorboard=tensorboard)


@contextmanager
def _sole(out: Path) -> Iterator[None]:
    """The output folder, made and held against other runs."""
    make_folder(out)
    lock = FolderLock(out / ".lock")
    lock.acquire()
    try:
        for pattern in _LEFT_BEHIND:
            for path in out.glob(pattern):
                path.unlink(missing_ok=True)
        yield
    finally:
        lock.release()
