"""Everything that only a GPU can show, in one call: `python -m unidino_fast.benchmarks.gpu`.

Needs a CUDA device, torch, triton, timm and numpy, and under 8 minutes. Each step is a process of
its own with a limit of time: an illegal memory access spoils its process for good, a hanging
compiler would hold up all, and neither may cost the other steps. The most telling steps come first.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from unidino_fast.backbones import open_backbone
from unidino_fast.benchmarks.bandwidth import KERNEL, bench_kernels, kernel_effort
from unidino_fast.benchmarks.candidates import OURS, Setting
from unidino_fast.benchmarks.checks import engine_checks, kernel_checks
from unidino_fast.benchmarks.command import draw, say
from unidino_fast.benchmarks.environment import describe_environment
from unidino_fast.benchmarks.model import ModelJob, bench_model, model_effort
from unidino_fast.benchmarks.planes import bench_planes
from unidino_fast.benchmarks.rows import append_rows, read_rows, render
from unidino_fast.engines.choose import lacks_fp8
from unidino_fast.errors import UnidinoError, first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from unidino_fast.benchmarks.checks import Check
    from unidino_fast.benchmarks.rows import Row
    from unidino_fast.choices import EngineName, Precision

TOTAL_SECONDS = 470.0
"""All steps together; a step that would begin later is left out, and named."""
WEIGHTS = "random:0"
BATCH = 512
SEED = 20_261
_TAIL_LINES = 25
_LEAST_SECONDS = 15.0
_PREPARE_SECONDS = 90.0
"""Compilers may take a minute each: no further one is begun after this."""


@dataclass(frozen=True, slots=True)
class Step:
    """One process.

    Attributes:
        run: does the work; false says that something is wrong.
        seconds: limit of its time.
    """

    run: Callable[[torch.device, Path], bool]
    seconds: float


def check_kernels(device: torch.device, out: Path) -> bool:
    """Every kernel against its reference."""
    return _all_pass(kernel_checks(device, SEED))


def check_engines(device: torch.device, out: Path) -> bool:
    """Engines against timm; compiled ones in the batch shape that is timed, which is cached."""
    pairs = (
        *(("eager", "fp32"), ("eager", "bf16"), ("eager", "fp16"), ("compile", "bf16")),
        *(("fused", "bf16"), ("fused", "fp16")),
    )
    return _all_pass(engine_checks(WEIGHTS, device, pairs))  # type: ignore[arg-type]


def measure_planes(device: torch.device, out: Path) -> bool:
    """The headline: planes in device memory to field means."""
    setting = Setting(open_backbone(WEIGHTS), device, "bf16", BATCH)
    effort = model_effort(device, quick=True)
    rows = bench_planes(
        setting,
        ("fused", "compile", "eager"),
        effort,
        describe_environment(device),
        say,
        prepare_seconds=_PREPARE_SECONDS,
    )
    return _kept(rows, out)


def measure_kernels(device: torch.device, out: Path) -> bool:
    """Bytes a second of every kernel."""
    environment = describe_environment(device)
    effort = kernel_effort(device, quick=True)
    return _kept(bench_kernels(device, environment, say, effort=effort), out)


def measure_model(device: torch.device, out: Path) -> bool:
    """Tiles a second of the engines and their competitors."""
    return _measured(device, out, "bf16")


def _measured(
    device: torch.device,
    out: Path,
    precision: Precision,
    engines: tuple[EngineName, ...] = ("fused", "compile", "eager"),
) -> bool:
    job = ModelJob(
        open_backbone(WEIGHTS),
        device,
        engines,
        (precision,),
        (BATCH,),
        model_effort(device, quick=True),
        prepare_seconds=_PREPARE_SECONDS,
    )
    return _kept(bench_model(job, describe_environment(device), say), out)


def check_fp8(device: torch.device, out: Path) -> bool:
    """Engines in fp8 against timm, where the GPU has it."""
    if lack := lacks_fp8(device):
        print(f"left out: {lack}")
        return True
    return _all_pass(engine_checks(WEIGHTS, device, (("eager", "fp8"), ("compile", "fp8"))))


def measure_fp8(device: torch.device, out: Path) -> bool:
    """Tiles a second of our engines in fp8 and in bf16, where the GPU has it."""
    if lack := lacks_fp8(device):
        print(f"left out: {lack}")
        return True
    return _measured(device, out, "fp8", engines=("compile", "eager"))


STEPS = {
    "check_kernels": Step(check_kernels, 100),
    "measure_planes": Step(measure_planes, 200),
    "measure_kernels": Step(measure_kernels, 120),
    "check_engines": Step(check_engines, 120),
    "measure_model": Step(measure_model, 200),
    "check_fp8": Step(check_fp8, 100),
    "measure_fp8": Step(measure_fp8, 150),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs all steps, or one of them in this process; gives the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m unidino_fast.benchmarks.gpu", description="GPU checks and benchmarks."
    )
    parser.add_argument("--out", type=Path, default=Path("gpu_results"), help="folder for results")
    parser.add_argument("--step", choices=list(STEPS), help="only this one, in this process")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        say("no CUDA device is here: run this on a machine with one")
        return 2
    if options.step is not None:
        return 0 if STEPS[options.step].run(torch.device("cuda"), options.out) else 1
    return run_steps(list(STEPS), options.out, _command(options.out))


def run_steps(
    names: Sequence[str],
    out: Path,
    command: Callable[[str], list[str]],
    *,
    total: float = TOTAL_SECONDS,
) -> int:
    """Runs steps, each in a process with a log file; then says what was found.

    Args:
        names: of the steps.
        out: folder for logs, rows and the picture.
        command: gives the call that runs a step.
        total: seconds for all.

    Returns:
        0 if all went well, else 1.
    """
    out.mkdir(parents=True, exist_ok=True)
    before = len(read_rows(out))
    began = time.monotonic()
    outcomes = {}
    for name in names:
        left = total - (time.monotonic() - began)
        if left < _LEAST_SECONDS:
            outcomes[name] = "left out: no time"
            continue
        say(f"--- {name}")
        start = time.monotonic()
        outcome = _run_process(command(name), out / f"{name}.log", min(STEPS[name].seconds, left))
        outcomes[name] = f"{outcome} ({time.monotonic() - start:.0f} s)"
        if outcome != "passed":
            lines = (out / f"{name}.log").read_text(errors="replace").splitlines()
            say("\n".join(lines[-_TAIL_LINES:]))
    rows = read_rows(out)[before:]
    if rows:
        print(render(rows) + "\n")
        draw(rows, out / "gpu.png")
    for name, outcome in outcomes.items():
        print(f"{name:<16} {outcome}")
    return 0 if all(outcome.startswith("passed") for outcome in outcomes.values()) else 1


def _command(out: Path) -> Callable[[str], list[str]]:
    start = [sys.executable, "-m", "unidino_fast.benchmarks.gpu", "--out", str(out)]
    return lambda name: [*start, "--step", name]


def _run_process(call: list[str], log: Path, seconds: float) -> str:
    """Runs a call with its output in a file; says how it ended."""
    with log.open("w") as file:
        # a session of its own, so that the compilers which it started end with it
        process = subprocess.Popen(
            call,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        try:
            code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return f"stopped after its {seconds:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return "passed" if code == 0 else f"FAILED with exit code {code}"


def _all_pass(checks: Iterable[Check]) -> bool:
    """Runs checks, all of them; prints what each found."""
    n_failed = 0
    for name, check in checks:
        try:
            check()
        except UnidinoError as error:
            print(f"FAIL {name}: {error}")
            n_failed += 1
        except Exception as error:
            # whatever a compiler or driver raises: the other checks are wanted all the same
            traceback.print_exc()
            print(f"FAIL {name}: {type(error).__name__}: {first_line(error)}")
            n_failed += 1
        else:
            print(f"pass {name}")
    print(f"{n_failed} checks failed" if n_failed else "all checks passed")
    return not n_failed


def _kept(rows: Iterable[Row], out: Path) -> bool:
    """Writes rows as they come; false where one is wrong, or one of ours lacks its value."""
    sound = True
    for row in rows:
        append_rows([row], out)
        ours = row.candidate == KERNEL or row.candidate.startswith(OURS)
        lacking = ours and row.value is None
        sound = sound and not lacking and not row.note.startswith("WRONG")
    return sound


if __name__ == "__main__":
    sys.exit(main())
