"""Profiles against pycytominer: `python -m unidino_fast.benchmarks.profiles [--plates N]`.

Two questions, on this machine's CPU. How long do the steps take on one plate, in memory, each
library with tables of its own kind? And what does a campaign of N plates cost from file to file, in
time and in memory, against a tenth of it and against pycytominer plate by plate?
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from functools import partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import torch

from unidino_fast.benchmarks.environment import describe_environment
from unidino_fast.benchmarks.measure import Candidate, Effort, HostWatch, Samples, measure
from unidino_fast.benchmarks.noise import Neighbours, describe_noise
from unidino_fast.benchmarks.rows import Row, append_rows, rate_figures, ratio_figures, render
from unidino_fast.errors import UsageError
from unidino_fast.profiles import consensus, normalize, select_features
from unidino_fast.results import feature_columns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

WELLS = 384
FEATURES = 1920
CONTROLS = 'Metadata_Compound == "DMSO"'
BASELINE = "pycytominer"
_OURS = "unidino_fast"
_PLATES_OF_BASELINE = 2
_CHILD = r"""
import json, re, sys, time
from pathlib import Path
from unidino_fast.profiles.normalize import Normalisation
from unidino_fast.profiles.recipe import Recipe
from unidino_fast.profiles.streaming import stream_recipe
began = time.perf_counter()
recipe = Recipe((Normalisation.of("mad_robustize"),))
stream_recipe(Path(sys.argv[1]), Path(sys.argv[2]), recipe, {})
seconds = time.perf_counter() - began
# not ru_maxrss, which begins with what the process that started this one held
[peak] = re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
print(json.dumps({"seconds": seconds, "peak_mb": int(peak) / 1024}))
"""


def bench_steps(say: Callable[[str], None]) -> Iterator[Row]:
    """Steps on one plate in memory."""
    plate = _plate()
    for step, (ours, theirs, rounds) in _steps(plate).items():
        say(step)
        candidates = [Candidate(_OURS, ours, 1), Candidate(BASELINE, theirs, 1)]
        shape = f"{step}, {WELLS} wells x {FEATURES} features in memory"
        yield from _compared(candidates, rounds, shape, {})


def bench_campaign(
    n_plates: int, say: Callable[[str], None], rounds: tuple[int, int] = (3, 3)
) -> Iterator[Row]:
    """A campaign from file to file, and a tenth of it."""
    few = max(1, n_plates // 10)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        say(f"writing {few} plates")
        tenth = _campaign(folder / "tenth.parquet", few)
        shape = f"mad_robustize, {WELLS} wells x {FEATURES} features a plate, file to file"
        peaks: dict[int, float] = {}

        def run(path: Path, count: int) -> None:
            peaks[count] = max(peaks.get(count, 0.0), _stream(path, folder / "out.parquet"))

        say("file to file")
        candidates = [
            Candidate(f"{_OURS}, {few} plates", lambda: run(tenth, few), few),
            Candidate(
                BASELINE, lambda: _plate_by_plate(tenth, folder / "b.parquet"), _PLATES_OF_BASELINE
            ),
        ]
        yield from _compared(candidates, rounds, shape, peaks)
        tenth.unlink()
        say(f"writing {n_plates} plates")
        whole = _campaign(folder / "whole.parquet", n_plates)
        say(f"{n_plates} plates")
        seconds = HostWatch().seconds(lambda: run(whole, n_plates), 1)  # once, unwarmed
        taken = {f"{_OURS}, {n_plates} plates": Samples(n_plates, (seconds,))}
        yield from _rows(taken, shape, Neighbours(), peaks[n_plates])


def _steps(
    plate: pl.DataFrame,
) -> dict[str, tuple[Callable[[], object], Callable[[], object], tuple[int, int]]]:
    """Ours, theirs, and how many rounds, by step."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what other people's packages say when imported
        import pycytominer

    names = feature_columns(plate)
    frame = plate.to_pandas()
    metadata = [name for name in plate.columns if name not in names]
    theirs: dict[str, Any] = {"features": names, "meta_features": metadata}
    selection = ["frequency_threshold", "correlation_threshold", "drop_na_columns", "blocklist"]
    return {
        **{
            method: (
                partial(normalize, plate, method),
                partial(pycytominer.normalize, frame, method=method, **theirs),
                (5, 9),
            )
            for method in ("mad_robustize", "standardize")
        },
        "spherize (ZCA-cor, 96 controls)": (
            lambda: normalize(plate, "spherize", samples=CONTROLS),
            lambda: pycytominer.normalize(
                frame, method="spherize", samples=CONTROLS, spherize_method="ZCA-cor", **theirs
            ),
            (3, 3),
        ),
        "feature selection (variance, correlation, na, blocklist)": (
            lambda: select_features(plate, ["variance", "correlation", "na", "blocklist"]),
            lambda: pycytominer.feature_select(frame, features=names, operation=selection),
            (3, 3),
        ),
        "consensus (modz, 96 groups of 4)": (
            lambda: consensus(plate, "Metadata_Group", statistic="modz"),
            lambda: pycytominer.consensus(
                frame, replicate_columns=["Metadata_Group"], operation="modz", features=names
            ),
            (3, 5),
        ),
    }


def _compared(
    candidates: list[Candidate], rounds: tuple[int, int], shape: str, memory: Mapping[int, float]
) -> Iterator[Row]:
    """Rows of candidates in turns; ratios refer to the last."""
    neighbours = Neighbours()
    effort = Effort(rounds, 120.0, sample_seconds=0.0, settle_seconds=0.1)
    taken = measure(candidates, HostWatch(), effort)
    yield from _rows(taken, shape, neighbours, max(memory.values(), default=None))


def _rows(
    taken: dict[str, Samples], shape: str, neighbours: Neighbours, peak_mb: float | None
) -> Iterator[Row]:
    environment = describe_environment(torch.device("cpu"))
    for name, samples in taken.items():
        notes = [f"{1 / samples.rate(0.5):.3g} s a plate"]
        if name == BASELINE:
            notes.append(f"pycytominer {version('pycytominer')}")
        elif peak_mb is not None:
            notes.append(f"peak memory {peak_mb:.0f} MB")
        compared = BASELINE in taken
        yield Row(
            benchmark="profiles",
            candidate=name,
            shape=shape,
            precision="float32",
            unit="plates/s",
            noise=describe_noise(samples, neighbours.busy_cores()),
            note=", ".join(notes),
            environment=environment,
            **rate_figures(samples),
            **(ratio_figures(samples, taken[BASELINE], BASELINE) if compared else {}),
        )


def _stream(path: Path, out: Path) -> float:
    """Streams a file in a process of its own; says its peak memory in MB."""
    call = [sys.executable, "-c", _CHILD, str(path), str(out)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UsageError(f"the streaming run failed: {done.stderr.strip().splitlines()[-1]}")
    out.unlink()
    return float(json.loads(done.stdout)["peak_mb"])


def _plate_by_plate(path: Path, out: Path) -> None:
    """What a user of pycytominer does: a plate read, normalised and written, one by one."""
    import pycytominer

    with pq.ParquetFile(path) as file:
        batches = file.iter_batches(WELLS)
        for _ in range(_PLATES_OF_BASELINE):
            frame = next(batches).to_pandas()
            names = [name for name in frame.columns if not name.startswith("Metadata_")]
            others = [name for name in frame.columns if name.startswith("Metadata_")]
            pycytominer.normalize(
                frame, features=names, meta_features=others, method="mad_robustize"
            ).to_parquet(out)


def _plate() -> pl.DataFrame:
    """Wells with features that are correlated in part, as those of a network are."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(WELLS, 60)) @ rng.normal(size=(60, FEATURES)) / 8
    values = (hidden + rng.normal(size=(WELLS, FEATURES)) + rng.normal(0, 3, FEATURES)).astype("f4")
    names = [f"C{index // 384}_{index % 384:03d}" for index in range(FEATURES)]
    metadata = {
        "Metadata_Plate": ["p0000"] * WELLS,
        "Metadata_Compound": ["DMSO" if index % 4 == 0 else "x" for index in range(WELLS)],
        "Metadata_Group": [f"g{index % 96:02d}" for index in range(WELLS)],
    }
    return pl.DataFrame(metadata).hstack(pl.DataFrame(values, schema=names))


def _campaign(path: Path, n_plates: int) -> Path:
    """One plate's numbers under many names, in one file."""
    plate = _plate()
    writer = None
    for start in range(0, n_plates, 10):
        names = [f"p{index:04d}" for index in range(start, min(start + 10, n_plates))]
        table = pl.concat(
            plate.with_columns(pl.lit(name).alias("Metadata_Plate")) for name in names
        ).to_arrow()
        if writer is None:
            metadata = [name for name in plate.columns if name.startswith("Metadata_")]
            writer = pq.ParquetWriter(
                path, table.schema, compression="zstd", use_dictionary=metadata
            )
        writer.write_table(table)
    if writer is not None:
        writer.close()
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs all and prints the rows."""
    parser = argparse.ArgumentParser(prog="python -m unidino_fast.benchmarks.profiles")
    parser.add_argument("--out", type=Path, help="folder that rows are added to")
    parser.add_argument("--plates", type=int, default=100, help="of the campaign")
    parser.add_argument("--only", choices=["steps", "campaign"], help="leave out the other")
    options = parser.parse_args(arguments)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    rows = []
    for row in chain(
        bench_steps(say) if options.only != "campaign" else (),
        bench_campaign(options.plates, say) if options.only != "steps" else (),
    ):
        rows.append(row)
        if options.out is not None:
            append_rows([row], options.out)
    print(render(rows))


if __name__ == "__main__":
    main()
