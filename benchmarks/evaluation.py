"""Evaluation against the usual ways: `python -m unidino_fast.benchmarks.evaluation [--out DIR]`.

Nearest-neighbour accuracy with two exclusion keys against the paper's own loop and against the bare
matrix product, mean average precision against copairs, and search against plain numpy and
scikit-learn. What takes minutes or gigabytes runs in processes of its own, which say their peak.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch

from unidino_fast.benchmarks.environment import Environment, describe_environment
from unidino_fast.benchmarks.measure import Candidate, Effort, HostWatch, Samples, measure, paired
from unidino_fast.benchmarks.noise import Neighbours, describe_noise
from unidino_fast.benchmarks.rows import (
    LIMIT,
    Row,
    append_rows,
    rate_figures,
    ratio_figures,
    render,
    shown,
)
from unidino_fast.evaluation import evaluate, mean_average_precision, search

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pandas as pd
    from numpy.typing import NDArray

LOOP_ROWS = 4216  # wells of the paper's largest table
RETRIEVAL_ROWS = 9216
WELLS_OF_A_PLATE = 384
_PRODUCT_ROWS = 1024
_MOST_BYTES = 16 << 30  # of copairs, which would take all there is
_EFFECT = 0.25  # of a compound, in standard deviations of a well
_KEYS = ["Metadata_Batch", "Metadata_Well"]


def profiles_of(n: int, n_features: int) -> pl.DataFrame:
    """Profiles of plates with eight replicates of each compound, two plates a batch."""
    rng = np.random.default_rng(0)
    number = np.arange(n)
    compound = rng.permutation(n) // 8
    features = rng.standard_normal((n, n_features), dtype=np.float32)
    effect = _EFFECT * rng.standard_normal((n // 8 + 1, n_features), dtype=np.float32)
    features += effect[compound]
    plate = number // WELLS_OF_A_PLATE
    return pl.DataFrame(
        {
            "Metadata_Plate": [f"P{index:04d}" for index in plate],
            "Metadata_Batch": [f"B{index:03d}" for index in plate // 2],
            "Metadata_Well": [f"W{index:03d}" for index in number % WELLS_OF_A_PLATE],
            "Metadata_Compound": [f"C{index:06d}" for index in compound],
            **{f"DNA_{index:04d}": column for index, column in enumerate(features.T.copy())},
        }
    )


def released_loop(frame: pd.DataFrame) -> NDArray[np.bool_]:
    """The released way: all distances, then excluded rows masked query by query.

    Labels and keys are pandas columns and features float64, as its scripts read them from CSV.
    """
    from sklearn.metrics import pairwise_distances

    labels, batches, wells = (frame[f"Metadata_{name}"] for name in ("Compound", "Batch", "Well"))
    features = frame[[name for name in frame.columns if not name.startswith("Metadata_")]]
    distances = pairwise_distances(features, metric="cosine")
    farthest = distances.max()
    np.fill_diagonal(distances, farthest)
    for query in range(len(labels)):
        shared = np.logical_and(batches == batches[query], labels == labels[query])
        distances[query, shared] = farthest
        distances[query, wells == wells[query]] = farthest
    found = labels[np.argmin(distances, axis=1)]
    return np.asarray(found.to_numpy() == labels.to_numpy())


def bench_loop(n_features: int, environment: Environment) -> Iterator[Row]:
    """At the paper's size, in alternating rounds."""
    table = profiles_of(LOOP_ROWS, n_features)
    features = np.ascontiguousarray(table.select("^DNA_.*$").to_numpy())
    frame = table.with_columns(pl.col(pl.Float32).cast(pl.Float64)).to_pandas()
    loop_right = released_loop(frame).sum()
    ours_right = evaluate(table, "Compound", _KEYS, rule="seed").n_correct
    if loop_right != ours_right:
        raise RuntimeError(f"the loop finds {loop_right} right, we {ours_right}: not one job")
    candidates = [
        Candidate("released loop", lambda: released_loop(frame), LOOP_ROWS),
        Candidate(f"{LIMIT}matrix product", lambda: _product(features, LOOP_ROWS), LOOP_ROWS),
        Candidate("ours, strict", lambda: evaluate(table, "Compound", _KEYS), LOOP_ROWS),
        Candidate("ours, seed", lambda: evaluate(table, "Compound", _KEYS, rule="seed"), LOOP_ROWS),
    ]
    shape = f"{LOOP_ROWS} wells x {n_features}, two keys"
    common = {"benchmark": "nearest neighbour", "shape": shape, "unit": "wells/s"}
    yield from _compared(candidates, {**common, "environment": environment}, Effort((5, 5), *_NOW))


def bench_growth(sizes: Sequence[int], n_features: int, environment: Environment) -> Iterator[Row]:
    """Time and memory at several sizes, each in a process of its own."""
    for n in sizes:
        neighbours = Neighbours()
        product = _child("product", n, n_features)
        ours = _child("neighbours", n, n_features)
        common = {
            "benchmark": "nearest neighbour, growth",
            "shape": f"{n} wells x {n_features}, two keys, strict",
            "precision": "fp32",
            "unit": "wells/s",
        }
        for name, figures, note in (
            (f"{LIMIT}matrix product", product, "of some rows, scaled to all"),
            ("ours", ours, _memory(ours)),
        ):
            samples = Samples(n, (figures["seconds"],))
            note = f"{_times(figures)}; {note}"
            yield _row(name, samples, neighbours, note, common, environment)


def bench_retrieval(n: int, n_features: int, environment: Environment) -> Iterator[Row]:
    """Mean average precision with 10,000 random rankings, ours and copairs."""
    common: dict[str, Any] = {
        "benchmark": "mean average precision",
        "shape": f"{n} wells x {n_features}, {n // 8} compounds",
        "precision": "fp64",
        "unit": "wells/s",
    }
    neighbours = Neighbours()
    ours, theirs = _child("retrieval", n, n_features), _child("copairs", n, n_features)
    for name, figures in (("ours", ours), ("copairs", theirs)):
        if "failed" in figures:
            note = f"{figures['failed']} within {_MOST_BYTES >> 30} GiB"
            yield Row(**common, candidate=name, note=note, environment=environment)
            continue
        samples = Samples(n, (figures["seconds"],))
        note = f"{_times(figures)}; mean {figures['mean']:.6f}; {_memory(figures)}"
        yield _row(name, samples, neighbours, note, common, environment)


def bench_search(n: int, n_features: int, environment: Environment) -> Iterator[Row]:
    """The 20 nearest of one and of a hundred profiles, from disk and, for the others, memory."""
    from sklearn.neighbors import NearestNeighbors

    with tempfile.TemporaryDirectory() as scratch:
        path, index = Path(scratch) / "profiles.parquet", Path(scratch) / "index.npy"
        table = profiles_of(n, n_features)
        table.write_parquet(path)
        features = np.ascontiguousarray(table.select("^DNA_.*$").to_numpy())
        del table
        brute = NearestNeighbors(n_neighbors=20, algorithm="brute", metric="cosine").fit(features)
        search(path, 'Metadata_Compound == "C000000"', index=index)
        for wells in (1, 100):
            query = f'Metadata_Plate == "P0000" and Metadata_Well < "W{wells:03d}"'
            asked = features[:wells]
            candidates = [
                Candidate("numpy in memory", partial(_plain_search, features, asked), wells),
                Candidate("scikit-learn in memory", partial(brute.kneighbors, asked, 20), wells),
                Candidate("ours, index", partial(search, path, query, index=index), wells),
                Candidate("ours, Parquet", partial(search, path, query), wells),
            ]
            common = {
                "benchmark": "search",
                "shape": f"{wells} queries, 20 nearest of {n} x {n_features}",
                "unit": "queries/s",
                "environment": environment,
            }
            yield from _compared(candidates, common, Effort((3, 3), *_NOW))


_NOW = (0.0, 0.0, 0.2)  # seconds of an effort beyond its least rounds, of a sample, to settle


def _compared(candidates: list[Candidate], common: dict[str, Any], effort: Effort) -> Iterator[Row]:
    """Rows of candidates; ratios refer to the first."""
    neighbours = Neighbours()
    taken = measure(candidates, HostWatch(), effort)
    base = taken[candidates[0].name]
    for name, samples in taken.items():
        seconds = samples.work / samples.rate(0.5)
        yield Row(
            candidate=name,
            precision="fp32",
            noise=describe_noise(samples, neighbours.busy_cores()),
            note=f"{seconds:.2f} s; {shown(paired(samples, base))} of {candidates[0].name}",
            **common,
            **rate_figures(samples),
            **ratio_figures(samples, base, candidates[0].name),
        )


def _row(
    name: str,
    samples: Samples,
    neighbours: Neighbours,
    note: str,
    common: dict[str, Any],
    environment: Environment,
) -> Row:
    return Row(
        candidate=name,
        noise=describe_noise(samples, neighbours.busy_cores()),
        note=note,
        environment=environment,
        **common,
        **rate_figures(samples),
    )


def _times(figures: dict[str, Any]) -> str:
    return f"{figures['seconds']:.1f} s, {figures['cpu']:.1f} s of processors"


def _memory(figures: dict[str, Any]) -> str:
    return f"{figures['added']:.2f} GiB beyond the table, {figures['peak']:.2f} GiB in all"


def _product(features: NDArray[np.float32], n_rows: int) -> None:
    """Products of some rows with all, in float32, thrown away."""
    for start in range(0, n_rows, _PRODUCT_ROWS):
        features[start : min(start + _PRODUCT_ROWS, n_rows)] @ features.T


def _plain_search(features: NDArray[np.float32], asked: NDArray[np.float32]) -> None:
    """The 20 nearest with numpy, a block of rows at a time so that it fits."""
    asked = asked / np.linalg.norm(asked, axis=1, keepdims=True)
    parts = []
    for start in range(0, len(features), 1 << 16):
        block = features[start : start + (1 << 16)]
        parts.append(asked @ (block / np.linalg.norm(block, axis=1, keepdims=True)).T)
    products = np.concatenate(parts, axis=1)
    np.argpartition(products, -20, axis=1)


def _child(what: str, n: int, n_features: int) -> dict[str, Any]:
    """Runs one measurement in a process of its own."""
    print(f"{what}: {n} x {n_features}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "unidino_fast.benchmarks.evaluation", "--child", what]
    done = subprocess.run(
        [*command, str(n), str(n_features)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1:] or ["died"]}
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _run_child(what: str, n: int, n_features: int) -> None:
    """What `_child` starts: prints seconds and GiB."""
    table = profiles_of(n, n_features)
    work: dict[str, Callable[[], float]] = {
        "neighbours": lambda: evaluate(table, "Compound", _KEYS).accuracy,
        "retrieval": lambda: (
            mean_average_precision(table, "Compound", "Compound").mean_average_precision
        ),
        "copairs": lambda: _copairs(table),
        "product": lambda: 0.0,
    }
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = _peak()
    if what == "product":
        rows = min(n, 4 * _PRODUCT_ROWS)
        features = np.ascontiguousarray(table.select("^DNA_.*$").to_numpy())
        _product(features, _PRODUCT_ROWS)
        began, worked = time.perf_counter(), time.process_time()
        _product(features, rows)
        seconds, cpu = time.perf_counter() - began, time.process_time() - worked
        print(json.dumps({"seconds": seconds * n / rows, "cpu": cpu * n / rows}))
        return
    if what == "copairs":
        resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))
    began, worked = time.perf_counter(), time.process_time()
    mean = work[what]()
    figures = {
        "seconds": time.perf_counter() - began,
        "cpu": time.process_time() - worked,
        "mean": mean,
        "peak": _peak(),
        "added": _peak() - before,
    }
    print(json.dumps(figures))


def _copairs(table: pl.DataFrame) -> float:
    from copairs import map as copairs

    metadata = table.select("^Metadata_.*$").to_pandas()
    features = table.select("^DNA_.*$").to_numpy()
    keys: dict[str, list[str]] = {
        "pos_sameby": ["Metadata_Compound"],
        "pos_diffby": [],
        "neg_sameby": [],
        "neg_diffby": ["Metadata_Compound"],
    }
    found = copairs.average_precision(metadata, features, **keys, progress_bar=False)
    with tempfile.TemporaryDirectory() as cache:  # it keeps nulls from run to run
        means = copairs.mean_average_precision(
            found,
            ["Metadata_Compound"],
            null_size=10_000,
            threshold=0.05,
            seed=0,
            progress_bar=False,
            cache_dir=cache,
        )
    return float(means["mean_average_precision"].mean())


def _peak() -> float:
    """Largest resident memory of this process since it was last asked to forget, GiB."""
    status = Path("/proc/self/status").read_text()
    kibibytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return int(kibibytes) / 2**20


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs all and prints the rows."""
    parser = argparse.ArgumentParser(prog="python -m unidino_fast.benchmarks.evaluation")
    parser.add_argument("--out", type=Path, help="folder that rows are added to")
    parser.add_argument("--features", type=int, default=1920)
    parser.add_argument("--sizes", type=int, nargs="*", default=[LOOP_ROWS, 20_000, 100_000])
    parser.add_argument("--retrieval", type=int, default=RETRIEVAL_ROWS, help="rows; 0 for none")
    parser.add_argument("--search", type=int, default=1_000_000, help="rows; 0 for none")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        what, n, n_features = options.child
        _run_child(what, int(n), int(n_features))
        return
    environment = describe_environment(torch.device("cpu"))
    streams = [bench_loop(options.features, environment)]
    streams.append(bench_growth(options.sizes, options.features, environment))
    if options.retrieval:
        streams.append(bench_retrieval(options.retrieval, 384, environment))
    if options.search:
        streams.append(bench_search(options.search, 384, environment))
    rows = []
    for row in (row for stream in streams for row in stream):
        rows.append(row)
        if options.out is not None:
            append_rows([row], options.out)
    print(render(rows))


if __name__ == "__main__":
    main()
