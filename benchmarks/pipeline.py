"""What surrounds the network: `python -m unidino_fast.benchmarks.pipeline [--out DIR]`.

Three questions. How close does a whole run come to the network alone, on this machine's CPU or on
a GPU (`--only network --device cuda`)? How close to reading alone, where the network, or all that a
device would do, costs nothing (doubles, named so): with wells as screens have them, and with small
ones? And what does the scheduler cost for each well of a campaign, measured by jobs that do
nothing?
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections import deque
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unidino_fast.benchmarks.doubles import (
    EDGE,
    FreeDevice,
    FreeNetwork,
    PlateShape,
    free_scaling,
    noise_plate,
)
from unidino_fast.benchmarks.environment import describe_environment
from unidino_fast.benchmarks.measure import Candidate, Effort, HostWatch, measure, paired
from unidino_fast.benchmarks.noise import Neighbours, describe_noise
from unidino_fast.benchmarks.reading.readers import decoding
from unidino_fast.benchmarks.rows import Row, append_rows, rate_figures, ratio_figures, render
from unidino_fast.cluster.dispatch import Dispatcher
from unidino_fast.cluster.job import Done, PlateJob, WellsJob, Written
from unidino_fast.cluster.session import local_session
from unidino_fast.config import EmbedOptions
from unidino_fast.cores import reading_cores
from unidino_fast.engines.spec import ModelSpec
from unidino_fast.errors import PixelError
from unidino_fast.names import WellName
from unidino_fast.noted_fields import read_fields
from unidino_fast.pipeline import embed_to_folder
from unidino_fast.planning import WellTask, plan_plate
from unidino_fast.plate import open_plate
from unidino_fast.reading import Absent, FieldReader, FieldRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from unidino_fast.engines.embedder import Embedder
    from unidino_fast.plate_model import Plate

WELLS_OF_A_PLATE = 384
FIELDS_OF_A_WELL = 9
PARTS = ("network", "small", "screen", "scheduler")


def bench_network(
    spec: ModelSpec, shape: PlateShape, given: Path | None, effort: Effort
) -> Iterator[Row]:
    """Whole runs against the network alone, on a plate that is given or on a simulated one.

    On a GPU, which may wait for the rest, also runs with less to do, and reading alone.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if given is None:
            plate, text = noise_plate(folder / "p.zarr", shape), _stored(shape)
        else:
            plate = open_plate(given)
            text = f"{plate.name}, {len(plate.wells)} wells"
        model = spec.build()
        first = noise_plate(folder / "warm.zarr", PlateShape(1))
        _whole_run(first, model, folder / "warm")()
        n_tiles = _n_embedded(plate)
        runs = {
            "network alone": _network_alone(model, n_tiles),
            "whole run": _whole_run(plate, model, folder / "out"),
        }
        if model.device.type == "cuda":
            runs["whole run, --no-qc"] = _whole_run(plate, model, folder / "bare", qc=False)
            runs["reading alone"] = lambda: _read_all(plate)
        yield from _compared(
            [Candidate(name, run, n_tiles) for name, run in runs.items()],
            replace(effort, warm_calls=0),
            _common("pipeline", text, "tiles/s", model),
        )


def bench_free(spec: ModelSpec, shape: PlateShape, effort: Effort) -> Iterator[Row]:
    """Whole runs in which the network, or all that a device would do, costs nothing."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        plate = noise_plate(folder / "p.zarr", shape)
        cpu = torch.device("cpu")
        network = FreeNetwork(spec.backbone, "eager", cpu, "fp32")
        device = FreeDevice(spec.backbone, "eager", cpu, "fp32")
        runs = {
            "reading alone": lambda: _read_all(plate),
            "numcodecs alone": _decoded_alone(plate, folder / "p.zarr", shape),
            "whole run, device that costs nothing": free_scaling()(
                _whole_run(plate, device, folder / "device")
            ),
            "whole run, device that costs nothing, --no-qc": free_scaling()(
                _whole_run(plate, device, folder / "bare", qc=False)
            ),
            "whole run, network that costs nothing": _whole_run(plate, network, folder / "network"),
        }
        yield from _compared(
            [Candidate(name, run, shape.n_wells) for name, run in runs.items()],
            replace(effort, warm_calls=1),
            _common("pipeline", _stored(shape), "wells/s"),
        )


def _stored(shape: PlateShape) -> str:
    return f"{shape}, uint16, blosc-zstd"


def _common(benchmark: str, shape: str, unit: str, model: Embedder | None = None) -> dict[str, Any]:
    return {
        "benchmark": benchmark,
        "shape": shape,
        "precision": "fp32" if model is None else model.precision,
        "unit": unit,
        "environment": describe_environment(torch.device("cpu") if model is None else model.device),
    }


def bench_scheduler(
    spec: ModelSpec, plates: Sequence[int], say: Callable[[str], None]
) -> Iterator[Row]:
    """Wells that take no time, handed out plate by plate to one worker."""
    environment = describe_environment(torch.device("cpu"))
    with tempfile.TemporaryDirectory() as scratch:
        plate = noise_plate(Path(scratch) / "p.zarr", PlateShape(1))
        wells = _campaign_wells(plan_plate(plate, EmbedOptions()).wells[0])
        job = PlateJob("none", {}, "nowhere", "p", EmbedOptions(), 1, "nowhere", "nowhere", "")
        work = WellsJob(job, tuple(wells), (None,) * len(wells))
        with local_session(1, spec) as session:
            with closing(Dispatcher(session.client, nothing).run(work)) as done:
                deque(done, maxlen=0)  # warm
            for n_plates in plates:
                say(f"scheduler: {n_plates} plates")
                n_wells = n_plates * len(wells)

                def run(n_plates: int = n_plates) -> None:
                    for _ in range(n_plates):
                        with closing(Dispatcher(session.client, nothing).run(work)) as done:
                            deque(done, maxlen=0)

                neighbours = Neighbours()
                samples = measure(
                    [Candidate("scheduler", run, n_wells)],
                    HostWatch(),
                    Effort((1, 1), 0.0, 0.0, 0.0, warm_calls=0),
                )["scheduler"]
                yield Row(
                    benchmark="scheduler",
                    candidate=f"{n_plates} plates",
                    shape=f"{n_wells} wells of {FIELDS_OF_A_WELL} fields, 1 worker",
                    precision="",
                    unit="wells/s",
                    noise=describe_noise(samples, neighbours.busy_cores()),
                    note=f"{1e3 / samples.rate(0.5):.2f} ms a well",
                    environment=environment,
                    **rate_figures(samples),
                )


def nothing(job: WellsJob) -> Done:
    """A job that does nothing: a double for `run_job`."""
    return Done(tuple(Written() for _ in job.wells), {}, Absent())


def _compared(candidates: list[Candidate], effort: Effort, common: dict[str, Any]) -> Iterator[Row]:
    """Rows of candidates; ratios refer to the first."""
    neighbours = Neighbours()
    taken = measure(candidates, HostWatch(), effort)
    base = taken[candidates[0].name]
    for name, samples in taken.items():
        yield Row(
            candidate=name,
            noise=describe_noise(samples, neighbours.busy_cores()),
            note=f"{paired(samples, base):.3f} of {candidates[0].name}",
            **common,
            **rate_figures(samples),
            **ratio_figures(samples, base, candidates[0].name),
        )


def _n_embedded(plate: Plate) -> int:
    """Tiles of a plate that have signal, over all channels: what the network is given."""
    options = EmbedOptions()
    wells = plan_plate(plate, options).wells
    tasks = [task for well in wells for task in well.fields]
    n_tiles = 0
    with closing(read_fields(wells, plate.storage, options, keeps=True)) as fields:
        for task, found in zip(tasks, fields, strict=True):
            if isinstance(found, PixelError):
                raise found
            _, noted = found
            n_tiles += (task.n_tiles - noted.n_dropped) * len(task.channels)
    return n_tiles


def _network_alone(model: Embedder, n_tiles: int) -> Callable[[], None]:
    """The network's work, on patches that are there."""
    chosen = model.for_job(n_tiles)
    side = chosen.tile // chosen.backbone.patch_size
    patches = torch.rand(80, side * side, chosen.backbone.patch_size**2)
    patches = patches.to(chosen.device, chosen.packer().dtype)

    def run() -> None:
        packer = chosen.packer()
        for start in range(0, n_tiles, len(patches)):
            packer.add(patches[: n_tiles - start])
        packer.flush()

    return run


def _whole_run(plate: Plate, model: Embedder, out: Path, *, qc: bool = True) -> Callable[[], None]:
    numbers = itertools.count()

    def run() -> None:
        # into a folder of its own: to remove the last one would count, and a file system is slow
        # where it has just removed files
        folder = out / str(next(numbers))
        embed_to_folder(plate, model, folder, EmbedOptions(tile=model.tile), qc=qc)

    return run


def _read_all(plate: Plate) -> None:
    plan = plan_plate(plate, EmbedOptions())
    requests = (
        FieldRequest(task.field, task.time, task.channels, "max")
        for well in plan.wells
        for task in well.fields
    )
    with closing(FieldReader(plate.storage).stream(requests)) as planes:
        for pixels in planes:
            if isinstance(pixels, PixelError):
                raise pixels


def _decoded_alone(plate: Plate, folder: Path, shape: PlateShape) -> Callable[[], None]:
    """All chunks by numcodecs, on as many threads as read, of files that are known before."""
    paths = [
        folder / task.field.array_path / f"{channel}/0/0"
        for well in plan_plate(plate, EmbedOptions()).wells
        for task in well.fields
        for channel in task.channels
    ]
    pieces = [(path, 0, path.stat().st_size) for path in paths]
    n_bytes = 2 * shape.edge**2
    return decoding(pieces, "blosc-zstd", n_bytes, shape.n_channels, reading_cores())


def _campaign_wells(task: WellTask) -> list[WellTask]:
    """The descriptors of a plate of 384 wells with nine fields each."""
    wells = []
    for index in range(WELLS_OF_A_PLATE):
        position = WellName(index // 24, index % 24 + 1)
        fields = tuple(
            replace(task.fields[0], field=replace(task.fields[0].field, site=str(site)))
            for site in range(FIELDS_OF_A_WELL)
        )
        wells.append(WellTask(replace(task.well, position=position), fields))
    return wells


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs all and prints the rows."""
    parser = argparse.ArgumentParser(prog="python -m unidino_fast.benchmarks.pipeline")
    parser.add_argument("--out", type=Path, help="folder that rows are added to")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS, help="what to measure")
    parser.add_argument("--wells", type=int, default=12, help="of the plate for the network")
    parser.add_argument("--device", default="cpu", help="of the network: cpu, or cuda")
    parser.add_argument("--plate", type=Path, help="a plate of yours, in place of that one")
    parser.add_argument("--screen", type=int, default=200, help="wells of 9 fields, 5 channels")
    parser.add_argument("--edge", type=int, default=EDGE, help="of their fields, in pixels")
    parser.add_argument("--small", type=int, default=300, help="wells of 1 field, 2 channels")
    parser.add_argument("--plates", type=int, nargs="*", default=[10, 100], help="of campaigns")
    options = parser.parse_args(arguments)
    free = ModelSpec.load(
        "random:0", engine="auto", device="cpu", precision="fp32", tile=None, batch_size=None
    )
    spec = ModelSpec.load(
        "random:0",
        engine="auto",
        device=options.device,
        precision="auto",
        tile=None,
        batch_size=None,
    )
    shape = PlateShape(options.wells, *((9, 5) if options.device != "cpu" else ()))
    effort = Effort((3, 5), 100.0, sample_seconds=0.0, settle_seconds=0.1)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    parts: dict[str, Callable[[], Iterator[Row]]] = {
        "network": lambda: bench_network(spec, shape, options.plate, effort),
        "small": lambda: bench_free(free, PlateShape(options.small), effort),
        "screen": lambda: bench_free(free, PlateShape(options.screen, 9, 5, options.edge), effort),
        "scheduler": lambda: bench_scheduler(free, options.plates, say),
    }
    rows = []
    for part in options.only:
        for row in parts[part]():
            rows.append(row)
            if options.out is not None:
                append_rows([row], options.out)
    print(render(rows))


if __name__ == "__main__":
    main()
