"""Which engine, device and precision: the one place where that is decided."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol, cast, get_args

import torch

from unidino_fast.choices import EngineName, Precision, PrecisionName
from unidino_fast.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from unidino_fast.engines.graph import InferenceGraph

ENGINES = get_args(EngineName)
PRECISIONS = get_args(PrecisionName)
FP8_ENGINES = ("eager", "compile")
FP8_CAPABILITY = (8, 9)
"""The first GPUs (Ada, Hopper) whose tensor cores multiply float8, with a scale for each row."""
COMPUTE_BATCH = {"cpu": 16, "cuda": 256}
"""Tiles in one call of the network, by device: fixed, so that results do not depend on grouping."""
COMPILE_FROM_TILES = {"cpu": 20_000, "cuda": 200_000}
"""Jobs of which size pay for the compiler: it takes 20 to 90 s and gains a tenth to a half."""

_log = logging.getLogger(__name__)


class Engine(Protocol):
    """What runs the graph: patches (N, tokens, P * P) on its device -> (N, D) float32 there."""

    name: str

    def __call__(self, patches: Tensor) -> Tensor:
        """Embeds one batch."""
        ...


def choose_engine(name: str, device: torch.device, n_tiles: int | None) -> EngineName:
    """The engine that `auto` means for a job; any other name is itself.

    Args:
        name: an engine's name or `auto`.
        device: where it will run.
        n_tiles: tiles of the whole job, None if unknown.

    Raises:
        UsageError: an unknown name.
    """
    if name not in ENGINES:
        raise UsageError(f"engine {name!r} is unknown: use {', '.join(ENGINES)}")
    if name != "auto":
        return cast("EngineName", name)
    least = COMPILE_FROM_TILES[device.type]
    chosen: EngineName = "compile" if n_tiles is not None and n_tiles >= least else "eager"
    _log.info(
        "engine auto is %s: %s tiles on %s, compiling pays from %d",
        chosen,
        "unknown" if n_tiles is None else n_tiles,
        device.type,
        least,
    )
    return chosen


def build_engine(
    name: EngineName,
    graph: InferenceGraph,
    device: torch.device,
    precision: Precision,
    batch_size: int,
) -> Engine:
    """Builds an engine by its name, for batches of one size.

    Raises:
        UsageError: its packages are not installed, or it does not do this precision here.
    """
    check_engine(name, precision)
    if precision == "fp8":
        from unidino_fast.engines.fp8 import fp8_graph

        graph = fp8_graph(graph)
    if name == "compile":
        from unidino_fast.engines.compiled import CompiledEngine

        return CompiledEngine(graph, device, precision)
    if name == "onnx":
        from unidino_fast.engines.onnx_runtime import OnnxEngine

        return OnnxEngine(graph, device, precision, batch_size=batch_size)
    if name == "tensorrt":
        from unidino_fast.engines.tensorrt import TensorRTEngine

        return TensorRTEngine(graph, device, precision, batch_size=batch_size)
    from unidino_fast.engines.eager import EagerEngine

    return EagerEngine(graph, device, precision)


def check_engine(name: str, precision: Precision) -> None:
    """Raises UsageError where an engine does not compute in a precision on any device."""
    if precision == "fp8" and name not in ("auto", *FP8_ENGINES):
        raise UsageError(
            f"engine {name} does not compute in fp8: use --precision bf16, or --engine"
            f" {' or '.join(FP8_ENGINES)}"
        )


def lacks_fp8(device: torch.device) -> str:
    """Why a device does not compute in fp8; empty where it does."""
    if device.type != "cuda":
        return f"{device} is none"
    found = torch.cuda.get_device_capability(device)
    if found < FP8_CAPABILITY:
        return f"{torch.cuda.get_device_name(device)} has {found[0]}.{found[1]}"
    return ""


def choose_device(name: str) -> torch.device:
    """The device of `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        UsageError: an unknown name, or a device that is not here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in COMPUTE_BATCH:
        raise UsageError(f"device {name!r} is unknown: use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device {name} is not here ({torch.cuda.device_count()} CUDA devices):"
            " use --device auto or cpu"
        )
    return device


def choose_precision(name: str, device: torch.device) -> Precision:
    """The precision of a name; `auto` is bf16 on CUDA and fp32 on the CPU.

    Raises:
        UsageError: an unknown name, or fp8 on a device that does not multiply it.
    """
    if name == "auto":
        return "bf16" if device.type == "cuda" else "fp32"
    if name not in PRECISIONS:
        raise UsageError(f"precision {name!r} is not available: use {', '.join(PRECISIONS)}")
    lack = lacks_fp8(device) if name == "fp8" else ""
    if lack:
        needed = ".".join(map(str, FP8_CAPABILITY))
        raise UsageError(
            f"precision fp8 needs a CUDA device of compute capability {needed} or later, and"
            f" {lack}: use --precision bf16"
        )
    return cast("Precision", name)
