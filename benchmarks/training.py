"""Training's rate: `python -m unidino_fast.benchmarks.training [--out DIR]`, on the CPU.

One process on one core, two processes (gloo) with a core each and one process on both do whole
steps of DINO, data and optimiser included, in turns with the matrix products that are their limit.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from unidino_fast.benchmarks.environment import describe_environment
from unidino_fast.benchmarks.measure import Candidate, Effort, HostWatch, measure, paired
from unidino_fast.benchmarks.noise import Neighbours, describe_noise
from unidino_fast.benchmarks.roofline import matrix_product
from unidino_fast.benchmarks.rows import Row, append_rows, rate_figures, ratio_figures, render
from unidino_fast.errors import TrainingError, UsageError
from unidino_fast.training.config import TrainConfig, parse_config
from unidino_fast.training.interruption import Interruption
from unidino_fast.training.loop import do_step
from unidino_fast.training.prepare import Run, prepare
from unidino_fast.training.processes import Processes, joined

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.connection import Connection

_IMAGES, _EDGE = 16, 512
_CPU = torch.device("cpu")


def bench_config(folder: Path, batch: int, *, dim: int = 192, depth: int = 12) -> TrainConfig:
    """DINO as in the paper but for the network (ViT-Ti/16) and the batch."""
    return parse_config(
        {
            "data": [{"name": "noise", "path": str(folder)}],
            "model": {"dim": dim, "depth": depth, "heads": max(dim // 64, 1)},
            "optim": {"batch": batch, "images_per_epoch": 1_000_000 // batch * batch},
            "machine": {"device": "cpu"},
        }
    )


def write_noise(folder: Path) -> None:
    """Images to train on; what they show costs nothing more or less."""
    generator = np.random.default_rng(0)
    for index in range(_IMAGES):
        pixels = generator.integers(0, 65536, (_EDGE, _EDGE), dtype=np.uint16)
        tifffile.imwrite(folder / f"{index:02}.tif", pixels)


def step_flops(config: TrainConfig, out: Path) -> int:
    """Operations of one step's matrix products, forward and backward, of all networks.

    Counted by torch as they run, on a step of one process; a multiply-add counts two. The
    mathematical form of attention is made of products that the counter knows.
    """
    run = prepare(config, out, Processes(_CPU), _silent)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        do_step(run, 0, Interruption())
    return int(counter.get_total_flops())


class Workers:
    """Processes of one run, a core or more each, that do a step when they are told to."""

    def __init__(self, config: TrainConfig, out: Path, cores: Sequence[Sequence[int]]) -> None:
        context = multiprocessing.get_context("spawn")
        port = _free_port()
        self.cpu_seconds = 0.0
        self._ends: list[Connection] = []
        self._processes = []
        for rank, own in enumerate(cores):
            here, there = context.Pipe()
            numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": len(cores)}
            place = {name: str(number) for name, number in numbers.items()}
            place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            arguments = (there, config, out, list(own), place)
            process = context.Process(target=_work, args=arguments, daemon=True)
            process.start()
            there.close()
            self._ends.append(here)
            self._processes.append(process)
        self._answers()  # ready

    def step(self) -> None:
        """One step of all."""
        for end in self._ends:
            end.send(True)
        self._answers()

    def close(self) -> None:
        """Ends them."""
        for end in self._ends:
            end.send(False)
        for process in self._processes:
            process.join()

    def _answers(self) -> None:
        try:
            self.cpu_seconds = sum(float(end.recv()) for end in self._ends)
        except EOFError:
            raise TrainingError(
                "a process of the benchmark has ended: its message stands above"
            ) from None


def bench_training(config: TrainConfig, effort: Effort) -> Iterator[Row]:
    """Rates of whole steps, and their share of what matrix products reach on the same cores."""
    environment = describe_environment(_CPU)
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise UsageError("one core is not enough to compare one process with two: allow this two")
    batch = config.optim.batch
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        flops = step_flops(config, folder / "count") / batch
        layouts = {
            "1 process, 1 core": [cores[:1]],
            "2 processes, 1 core each": [cores[:1], cores[1:]],
            "1 process, 2 cores": [cores],
        }
        groups = {}
        for name, layout in layouts.items():
            groups[name] = Workers(config, folder / name.replace(" ", ""), layout)
            stack.callback(groups[name].close)
        limits = {n: _limit(n) for n in (1, 2)}
        candidates = [Candidate(name, group.step, batch) for name, group in groups.items()]
        neighbours, began = Neighbours(), time.monotonic()
        before = sum(group.cpu_seconds for group in groups.values())
        taken = measure([*candidates, *limits.values()], HostWatch(), effort)
        own = sum(group.cpu_seconds for group in groups.values()) - before
        others = max(0.0, neighbours.busy_cores() - own / (time.monotonic() - began))
    base = candidates[0].name
    common: dict[str, Any] = {
        "benchmark": "training",
        "shape": _shape(config),
        "precision": "fp32",
        "batch": batch,
        "unit": "images/s",
        "environment": environment,
    }
    for name in layouts:
        samples = taken[name]
        limit = limits[1 if name == base else 2]
        share = paired(samples, taken[limit.name]) * flops
        n_cores = 1 if name == base else 2
        yield Row(
            candidate=name,
            limit=limit.name,
            limit_share=share,
            noise=describe_noise(samples, others),
            note=f"{flops / 1e9:.3g} GFLOP an image; {paired(samples, taken[base]) / n_cores:.3f}"
            " a core of the one core's rate",
            **rate_figures(samples),
            **ratio_figures(samples, taken[base], base),
            **common,
        )
    for limit in limits.values():
        top = taken[limit.name]
        yield Row(
            candidate=limit.name,
            noise=describe_noise(top, others),
            note=f"{top.rate(0.5) / 1e9:.3g} GFLOP/s",
            **rate_figures(top, per=flops),
            **common,
        )


def _limit(n_cores: int) -> Candidate:
    """The matrix product on one core or on both, in this process."""
    product = matrix_product(_CPU, "fp32")

    def run() -> None:
        torch.set_num_threads(n_cores)
        product.run()

    cores = "1 core" if n_cores == 1 else f"{n_cores} cores"
    return Candidate(f"{product.name}, {cores}", run, product.work)


def _work(
    end: Connection, config: TrainConfig, out: Path, cores: list[int], place: dict[str, str]
) -> None:
    """A process of a run: does a step whenever it is told to, answers with its CPU seconds."""
    os.sched_setaffinity(0, cores)
    os.environ.update(place)
    torch.set_num_threads(len(cores))
    with joined("cpu") as processes, _told(end) as told:
        run: Run = prepare(config, out, processes, _silent)
        while told():
            do_step(run, run.progress.step, Interruption())


@contextmanager
def _told(end: Connection) -> Iterator[Callable[[], bool]]:
    """Says that this process is ready, and whether it shall go on."""

    def told() -> bool:
        used = os.times()
        end.send(used.user + used.system)
        return bool(end.recv())

    yield told
    end.close()


def _shape(config: TrainConfig) -> str:
    model, views = config.model, config.views
    return (
        f"DINO, ViT of {model.depth} blocks x {model.dim}, 2 views of {views.global_size} px and"
        f" {views.n_local} of {views.local_size}, {config.dino.out_dim} prototypes"
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _silent(_: str) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs all and prints the rows."""
    parser = argparse.ArgumentParser(prog="python -m unidino_fast.benchmarks.training")
    parser.add_argument("--out", type=Path, help="folder that rows are added to")
    parser.add_argument("--batch", type=int, default=4, help="images a step, of all processes")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        write_noise(Path(name))
        effort = Effort((5, 7), 100.0, sample_seconds=0.0, settle_seconds=0.1)
        rows = list(bench_training(bench_config(Path(name), options.batch), effort))
    if options.out is not None:
        append_rows(rows, options.out)
    print(render(rows))


if __name__ == "__main__":
    main()
