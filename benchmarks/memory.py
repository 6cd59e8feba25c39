"""Peak memory of a run by its number of wells: `python -m unidino_fast.benchmarks.memory`.

Wells as screens have them (9 fields, 5 channels of 1080 x 1080 px), each read and decoded. What a
device would do is a double that costs nothing; its features are as many as ViT-S has. Smaller
fields (`--edge`) make it short, and the first plate's peak smaller: what grows with the number of
wells shows more.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from unidino_fast.benchmarks.doubles import EDGE, FreeDevice, PlateShape, free_scaling, noise_plate
from unidino_fast.config import EmbedOptions
from unidino_fast.engines.spec import ModelSpec
from unidino_fast.errors import UsageError
from unidino_fast.pipeline import embed_to_folder
from unidino_fast.plate import open_plate

if TYPE_CHECKING:
    from collections.abc import Sequence

_CHILD = "--run"


def peak_mb(plate: Path, out: Path) -> float:
    """Embeds a plate in a process of its own; its peak memory in MB."""
    call = [sys.executable, "-m", "unidino_fast.benchmarks.memory", _CHILD, str(plate), str(out)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UsageError(f"the run failed: {done.stderr.strip().splitlines()[-1]}")
    return float(json.loads(done.stdout.splitlines()[-1]))


def _embed(plate: Path, out: Path) -> None:
    spec = ModelSpec.load(
        "random:0", engine="eager", device="cpu", precision="fp32", tile=None, batch_size=None
    )
    device = FreeDevice(spec.backbone, "eager", torch.device("cpu"), "fp32")
    with free_scaling():
        embed_to_folder(open_plate(plate), device, out, EmbedOptions(tile=device.tile))
    [peak] = re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    print(json.dumps(int(peak) / 1024))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures plates one by one and prints a line each."""
    parser = argparse.ArgumentParser(prog="python -m unidino_fast.benchmarks.memory")
    parser.add_argument("--wells", type=int, nargs="*", default=[10, 100, 1000], help="of plates")
    parser.add_argument("--edge", type=int, default=EDGE, help="of a field, in pixels")
    parser.add_argument(_CHILD, type=Path, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.run is not None:
        _embed(*options.run)
        return
    first = None
    for n_wells in options.wells:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            shape = PlateShape(n_wells, 9, 5, options.edge)
            noise_plate(folder / "p.zarr", shape)
            peak = peak_mb(folder / "p.zarr", folder / "out")
        first = first or peak
        print(f"{shape}: peak {peak:.0f} MB, {peak / first - 1:+.1%}", flush=True)


if __name__ == "__main__":
    main()
