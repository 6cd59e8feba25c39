"""`bench kernels`: bytes a second of every kernel, against plain torch and a copy.

On the CPU the kernels do not run (their interpreter is for tests): the rows hold the references,
and what the package runs there in their place where that is something else.
"""

from __future__ import annotations

import importlib
import time
from typing import TYPE_CHECKING, Any

import torch
from triton.errors import TritonError

from unidino_fast.benchmarks.measure import Candidate, Effort, measure, paired, stopwatch
from unidino_fast.benchmarks.noise import Neighbours, describe_noise
from unidino_fast.benchmarks.roofline import copy
from unidino_fast.benchmarks.rows import Row, rate_figures, ratio_figures
from unidino_fast.errors import first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from unidino_fast.benchmarks.environment import Environment
    from unidino_fast.benchmarks.kernels.case import OpCase

OPS = (
    "tile_normalize",
    "intensity_range",
    "tile_signal",
    "segment_mean",
    "quantize_rows",
    "add_norm",
)
KERNEL, REFERENCE, ON_CPU = "kernel", "torch reference", "unidino_fast on the CPU"
_FAULTS = (RuntimeError, ValueError, TypeError, TritonError)
_GIGA = 1e9


def kernel_effort(device: torch.device, *, quick: bool) -> Effort:
    """How long a case is measured."""
    if device.type == "cuda":
        return Effort((7, 30), 1.0 if quick else 4.0, sample_seconds=0.02, settle_seconds=0.0)
    return Effort((5, 20), 2.0 if quick else 10.0, sample_seconds=0.05, settle_seconds=0.02)


def bench_kernels(
    device: torch.device,
    environment: Environment,
    say: Callable[[str], None],
    *,
    effort: Effort,
    ops: tuple[str, ...] = OPS,
) -> Iterator[Row]:
    """Rows of each op, as they come."""
    for op in ops:
        say(f"kernels: {op}")
        torch.compiler.reset()
        cases: list[OpCase] = importlib.import_module(
            f"unidino_fast.benchmarks.kernels.{op}"
        ).cases(device)
        for case in cases:
            yield from case_rows(case, device, environment, effort=effort)


def case_rows(
    case: OpCase, device: torch.device, environment: Environment, *, effort: Effort
) -> list[Row]:
    """Measures one case, and a copy beside it."""
    common: dict[str, Any] = {
        "benchmark": f"kernels/{case.op}",
        "shape": case.shape,
        "precision": case.dtypes,
        "environment": environment,
    }
    limit = copy(device)
    expected = case.reference().double()
    facts: dict[str, dict[str, Any]] = {}
    running = []
    for name, run in _ways(case, device).items():
        facts[name] = _tried(run, expected, case.tolerance)
        if "error" in facts[name]:
            running.append(Candidate(name, run, case.n_bytes))
    neighbours = Neighbours()
    taken = measure([*running, limit], stopwatch(device), effort)
    others = neighbours.busy_cores()
    rows = [Row(candidate=n, **common, **about) for n, about in facts.items() if n not in taken]
    for name, samples in taken.items():
        figures: dict[str, Any] = {"unit": "GB/s", "noise": describe_noise(samples, others)}
        figures |= rate_figures(samples, per=_GIGA) | facts.get(name, {})
        if name != limit.name:
            figures |= {"limit": limit.name, "limit_share": paired(samples, taken[limit.name])}
            figures |= ratio_figures(samples, taken[REFERENCE], REFERENCE)
        rows.append(Row(candidate=name, **common, **figures))
    return rows


def _ways(case: OpCase, device: torch.device) -> dict[str, Callable[[], Tensor]]:
    if device.type != "cuda":
        own = {} if case.on_cpu is None else {ON_CPU: case.on_cpu}
        return {REFERENCE: case.reference} | own
    expression = case.expression or case.reference
    ways = {KERNEL: case.kernel, REFERENCE: case.reference}
    if case.expression is not None:
        ways["torch expression"] = case.expression
    return ways | {"torch.compile": torch.compile(expression, dynamic=False)}


def _tried(run: Callable[[], Tensor], expected: Tensor, tolerance: float) -> dict[str, Any]:
    """Runs a way once; how far it is from the reference, or why it does not run."""
    start = time.perf_counter()
    try:
        found = run().double()
        error = float((found - expected).norm() / expected.norm().clamp_min(1e-300))
    except _FAULTS as fault:
        return {"note": f"left out: {first_line(fault)}"}
    facts: dict[str, Any] = {"error": error, "prepare_seconds": time.perf_counter() - start}
    if not error <= tolerance:
        facts["note"] = f"WRONG: error {error:.1e} above {tolerance:.0e}"
    return facts
