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
BATCH_TILES = {"cpu": 64, "cuda": 512}
"""Tiles handed to an engine at once, by device: enough to keep all cores busy."""
_STEP_TILES = {"cpu": 8, "cuda": 512}
_STEP_FEATURES = 384
"""Features of the backbone (ViT-S) that the steps are meant for; wider ones take fewer tiles."""
_FAST: dict[tuple[str, Precision], EngineName] = {
    ("cpu", "fp32"): "onnx",
    ("cuda", "fp32"): "compile",
    ("cuda", "bf16"): "fused",
    ("cuda", "fp16"): "fused",
    ("cuda", "fp8"): "compile",
}
"""What is faster than eager; on the CPU in bf16 nothing was (see benchmarks/results)."""
PAYS_FROM_TILES = {"onnx": 2_000, "compile": 200_000, "fused": 2_000}
"""Jobs of which size pay for an engine's start: a few seconds to write an ONNX model or to make one
kernel, and to hold it against the reference; more to compile."""

_log = logging.getLogger(__name__)


class Engine(Protocol):
    """What runs the graph: patches (N, tokens, P * P) on its device -> (N, D) float32 there.

    Attributes:
        name: of the kind of engine.
        step: tiles that its network takes in one call. It never changes, so neither does a bit of
            the results, however tiles are grouped into batches of whole steps.
    """

    name: str
    step: int

    def __call__(self, patches: Tensor) -> Tensor:
        """Embeds a batch of whole steps."""
        ...


def choose_engine(
    name: str,
    device: torch.device,
    precision: Precision,
    n_tiles: int | None,
    *,
    begun: bool = False,
) -> EngineName:
    """The engine that `auto` means for a job, and a line in the log why; any other name is itself.

    Args:
        name: an engine's name or `auto`.
        device: where it will run.
        precision: what it will compute in.
        n_tiles: tiles of the whole job; None if unknown, which is the eager engine without a word.
        begun: those are the tiles that an output folder was begun with, whose engine is kept.

    Raises:
        UsageError: an unknown name.
    """
    if name not in ENGINES:
        raise UsageError(f"engine {name!r} is unknown: use {', '.join(ENGINES)}")
    if name != "auto":
        return cast("EngineName", name)
    if n_tiles is None:
        return "eager"
    fast = _FAST.get((device.type, precision), "eager")
    least = PAYS_FROM_TILES.get(fast, 0)
    chosen: EngineName = fast if n_tiles >= least else "eager"
    why = "no other is faster" if fast == "eager" else f"{fast} pays from {least}"
    tiles = f"{n_tiles} tiles when its folder was begun," if begun else f"{n_tiles} tiles"
    _log.info("engine auto is %s: %s in %s on %s, %s", chosen, tiles, precision, device.type, why)
    return chosen


def step_of(device: torch.device, dim: int) -> int:
    """Tiles in one call of the network, for a backbone of `dim` features.

    It depends on nothing that a user chooses or a machine lacks, because results depend on it: a
    power of two whose activations take some hundred megabytes at most.
    """
    tiles = _STEP_TILES[device.type] * _STEP_FEATURES // max(dim, _STEP_FEATURES)
    return 1 << (max(tiles, 1).bit_length() - 1)


def build_engine(
    name: EngineName,
    graph: InferenceGraph,
    device: torch.device,
    precision: Precision,
    step: int | None = None,
) -> Engine:
    """Builds an engine by its name.

    Args:
        name: which; `auto` is eager.
        graph: what it runs.
        device: where.
        precision: of the arithmetic.
        step: tiles in a call of the network; that of `step_of` by default.

    Raises:
        UsageError: its packages are not installed, or it does not do this precision here.
    """
    step = step or step_of(device, graph.dim)
    _check_fp8(name, precision)
    if precision == "fp8":
        from unidino_fast.engines.fp8 import fp8_graph

        graph = fp8_graph(graph)
    if name == "compile":
        from unidino_fast.engines.compiled import CompiledEngine

        return CompiledEngine(graph, device, precision, step=step)
    if name == "fused":
        from unidino_fast.engines.fused import FusedEngine

        return FusedEngine(graph, device, precision, step=step)
    if name == "onnx":
        from unidino_fast.engines.onnx_runtime import OnnxEngine

        return OnnxEngine(graph, device, precision, step=step)
    if name == "tensorrt":
        from unidino_fast.engines.tensorrt import TensorRTEngine

        return TensorRTEngine(graph, device, precision, step=step)
    from unidino_fast.engines.eager import EagerEngine

    return EagerEngine(graph, device, precision, step=step)


def check_available(name: str, device: torch.device, precision: Precision) -> None:
    """Raises what building an engine would raise for lack of a package or of a fit; builds none.

    Raises:
        UsageError: an unknown name, packages that are not installed, or an engine that does not
            run on the device or does not compute in the precision there.
    """
    chosen = choose_engine(name, device, precision, None)
    _check_fp8(chosen, precision)
    if chosen == "onnx":
        from unidino_fast.engines import onnx_runtime

        onnx_runtime.check_available(device, precision)
    elif chosen == "fused":
        from unidino_fast.engines import fused

        fused.check_available(device, precision)
    elif chosen == "tensorrt":
        from unidino_fast.engines import tensorrt

        tensorrt.check_available(device)


def _check_fp8(name: EngineName, precision: Precision) -> None:
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
    if device is None or device.type not in BATCH_TILES:
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
