"""What a second worker process brings: `python -m unidino_fast.benchmarks.workers [--out DIR]`.

One worker on one core, two workers on two, and one process alone on two cores embed the same plate
in turns. Workers are started before, and warm.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from unidino_fast.benchmarks.doubles import PlateShape, noise_plate
from unidino_fast.benchmarks.environment import describe_environment
from unidino_fast.benchmarks.measure import Candidate, Effort, HostWatch, measure, paired
from unidino_fast.benchmarks.noise import Neighbours, describe_noise
from unidino_fast.benchmarks.rows import Row, append_rows, rate_figures, ratio_figures, render
from unidino_fast.cluster.session import local_session
from unidino_fast.config import EmbedOptions
from unidino_fast.engines.spec import ModelSpec
from unidino_fast.errors import UsageError
from unidino_fast.pipeline import embed_to_folder
from unidino_fast.planning import plan_plate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from unidino_fast.cluster.session import Session
    from unidino_fast.plate_model import Plate


def bench_workers(spec: ModelSpec, n_wells: int, effort: Effort) -> Iterator[Row]:
    """Rates of 1 and 2 workers, and of this process, with a core each."""
    environment = describe_environment(torch.device("cpu"))
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise UsageError("one core is not enough to compare one worker with two: allow this two")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        shape = PlateShape(n_wells)
        plate = noise_plate(folder / "p.zarr", shape)
        first = noise_plate(folder / "warm.zarr", PlateShape(2))
        n_tiles = plan_plate(plate, EmbedOptions()).n_tiles
        candidates = []
        for n_workers in (1, 2):
            os.sched_setaffinity(0, cores[:n_workers])  # processes that are started inherit it
            session = stack.enter_context(local_session(n_workers, spec))
            run = _run(plate, spec, folder / str(n_workers), session)
            candidates.append(Candidate(f"{n_workers} workers", run, n_tiles))
            _run(first, spec, folder / "warm", session)()
        candidates.append(Candidate("one process", _run(plate, spec, folder / "0", None), n_tiles))
        _run(first, spec, folder / "warm", None)()
        neighbours = Neighbours()
        taken = measure(candidates, HostWatch(), replace(effort, warm_calls=0))
        base = taken[candidates[0].name]
        for name, samples in taken.items():
            n_cores = 1 if samples is base else 2
            yield Row(
                benchmark="workers",
                candidate=name,
                shape=f"{shape}, {n_cores} cores",
                precision="fp32",
                unit="tiles/s",
                noise=describe_noise(samples, neighbours.busy_cores()),
                note=f"efficiency {paired(samples, base) / n_cores:.3f} a core",
                environment=environment,
                **rate_figures(samples),
                **ratio_figures(samples, base, candidates[0].name),
            )


def _run(plate: Plate, spec: ModelSpec, out: Path, session: Session | None) -> Callable[[], None]:
    model = spec.build() if session is None else session.model(spec)

    def run() -> None:
        shutil.rmtree(out, ignore_errors=True)
        embed_to_folder(plate, model, out, EmbedOptions(), workers=session)

    return run


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs all and prints the rows."""
    parser = argparse.ArgumentParser(prog="python -m unidino_fast.benchmarks.workers")
    parser.add_argument("--out", type=Path, help="folder that rows are added to")
    parser.add_argument("--wells", type=int, default=8, help="wells of the simulated plate")
    options = parser.parse_args(arguments)
    spec = ModelSpec.load(
        "random:0", engine="eager", device="cpu", precision="fp32", tile=None, batch_size=None
    )
    effort = Effort((2, 5), 100.0, sample_seconds=0.0, settle_seconds=0.1)
    rows = list(bench_workers(spec, options.wells, effort))
    if options.out is not None:
        append_rows(rows, options.out)
    print(render(rows))


if __name__ == "__main__":
    main()
