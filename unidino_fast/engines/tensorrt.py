"""The graph through TensorRT: built once a GPU and kept on disk, run on torch's memory."""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from unidino_fast.engines.onnx_export import INPUT_NAME, OUTPUT_NAME, onnx_model
from unidino_fast.engines.plan_cache import cache_folder, plan_path, read_plan, write_plan
from unidino_fast.engines.steps import in_steps
from unidino_fast.engines.tensorrt_library import load_tensorrt
from unidino_fast.errors import EngineError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from unidino_fast.choices import Precision
    from unidino_fast.engines.graph import InferenceGraph
    from unidino_fast.engines.tensorrt_library import TensorRT

_BUILDING = threading.Lock()  # one build at a time: it takes the GPU and much memory

_log = logging.getLogger(__name__)


class TensorRTEngine:
    """Runs the graph as a TensorRT engine, `step` tiles a call.

    The engine is built for the GPU on first use and kept in the cache folder. It runs on a stream
    of its own that waits for torch's current stream and is waited for by it: on the default stream
    TensorRT would synchronise at every call. Calls from several threads follow one another.

    Args:
        graph: patches (N, tokens, P * P) -> (N, D).
        device: a CUDA device.
        precision: of weights and arithmetic, TF32 being off.
        step: tiles in a call of the network, which the engine is tuned for.
        cache: folder of the cache; `unidino_fast` in the user's cache folder by default.

    Raises:
        UsageError: no CUDA device, TensorRT is not installed or does not run on this GPU, or a
            step does not fit in its memory.
        EngineError: TensorRT cannot build the engine.
    """

    name = "tensorrt"

    def __init__(
        self,
        graph: InferenceGraph,
        device: torch.device,
        precision: Precision,
        *,
        step: int,
        cache: Path | None = None,
    ) -> None:
        check_available(device)
        library = load_tensorrt()
        gpu = torch.cuda.get_device_name(device)
        capability = torch.cuda.get_device_capability(device)
        self._device = device
        self.step = step
        self._dim = graph.dim
        self._lock = threading.Lock()
        self._library = library
        model = onnx_model(graph, precision)
        path = plan_path(
            cache or cache_folder(),
            model,
            {
                "flavour": library.flavour,
                "version": library.version,
                "gpu": gpu,
                "capability": capability,
                "batch_size": step,
            },
        )
        with torch.cuda.device(device):
            self._runtime = library.module.Runtime(library.logger)
            self._engine = cached_engine(
                library,
                self._runtime,
                path,
                partial(build_plan, library, model, batch_size=step, capability=capability),
            )
            self._context = self._engine.create_execution_context()
            self._stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        if self._context is None:
            raise UsageError(
                f"{step} tiles at once do not fit in the memory of {device}"
                f" ({library.reason()}): free it of other work, or use a smaller backbone"
            )

    def __call__(self, patches: Tensor) -> Tensor:
        """Embeds patches (N, tokens, P * P) on the engine's device; (N, D) float32 there."""
        return in_steps(self._run, patches.contiguous(), self.step, self._dim)

    def _run(self, patches: Tensor) -> Tensor:
        """One step, or less."""
        n_tiles = len(patches)
        features = torch.empty(n_tiles, self._dim, device=self._device)
        current = torch.cuda.current_stream(self._device)
        with self._lock, torch.cuda.device(self._device):
            # both waits, so torch's allocator may give the memory away as if it were all one stream
            self._stream.wait_stream(current)
            self._context.set_input_shape(INPUT_NAME, tuple(patches.shape))
            self._context.set_tensor_address(INPUT_NAME, patches.data_ptr())
            self._context.set_tensor_address(OUTPUT_NAME, features.data_ptr())
            if not self._context.execute_async_v3(self._stream.cuda_stream):
                raise EngineError(
                    f"TensorRT failed on {n_tiles} tiles ({self._library.reason()}):"
                    " use --engine compile"
                )
            current.wait_stream(self._stream)
        return features


def cached_engine(
    library: TensorRT, runtime: Any, path: Path, build: Callable[[], memoryview]
) -> Any:
    """The engine of a plan in the cache, or of one built and put there.

    Args:
        library: what made the runtime.
        runtime: TensorRT's, with the GPU that the engine will run on as the current device.
        path: where the plan lies or will lie.
        build: builds the plan where there is none that loads.

    Raises:
        EngineError: TensorRT does not load the plan that was built.
    """
    with _BUILDING:
        plan = read_plan(path)
        if plan is not None:
            engine = runtime.deserialize_cuda_engine(plan)
            if engine is not None:
                return engine
            _log.warning("%s: %s: building the engine again", path, library.reason())
        _log.info("building a TensorRT engine; it is kept in %s", path.parent)
        start = time.perf_counter()
        plan = build()
        _log.info("built in %.0f s", time.perf_counter() - start)
        write_plan(path, plan)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineError(
            f"TensorRT does not load the engine it built ({library.reason()}): use --engine compile"
        )
    return engine


def check_available(device: torch.device) -> None:
    """Raises UsageError where TensorRT is not installed, or has no code for the device."""
    if device.type != "cuda":
        raise UsageError(
            f"engine tensorrt does not run on {device}: use a CUDA device, or --engine compile"
        )
    gpu, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    check_gpu(load_tensorrt(), gpu, capability)


def check_gpu(library: TensorRT, gpu: str, capability: tuple[int, int]) -> None:
    """Raises UsageError where this TensorRT has no code for a GPU.

    TensorRT for RTX lists what it runs on; of `tensorrt`, the build says so.
    """
    if library.flavour != "tensorrt_rtx":
        return
    if _sm(capability) not in library.module.ComputeCapability.__members__:
        raise UsageError(
            f"TensorRT for RTX {library.version} does not run on {gpu} (compute capability"
            f" {capability[0]}.{capability[1]}): pip install 'unidino_fast[tensorrt]', or use"
            " --engine compile"
        )


def build_plan(
    library: TensorRT,
    model: bytes,
    *,
    batch_size: int,
    capability: tuple[int, int] | None = None,
) -> memoryview:
    """Builds a serialized engine of an ONNX model, typed as the model is.

    Args:
        library: what builds it. `tensorrt` needs the GPU that will run the engine.
        model: the ONNX file's bytes, with a batch size left open.
        batch_size: the largest batch, and the one to tune for.
        capability: of the GPU; without it TensorRT for RTX builds for every RTX card from Ampere
            on, and `tensorrt` for the GPU at hand in any case.

    Raises:
        EngineError: TensorRT cannot build it; says why in TensorRT's words.
    """
    trt = library.module
    builder, network, parser = parsed(library, model)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 means fp32
    profile = builder.create_optimization_profile()
    _, *rest = network.get_input(0).shape
    largest = (batch_size, *rest)
    profile.set_shape(INPUT_NAME, (1, *rest), largest, largest)
    config.add_optimization_profile(profile)
    if capability is not None and library.flavour == "tensorrt_rtx":
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, _sm(capability)), 0)
    plan = builder.build_serialized_network(network, config)
    del parser  # the network uses its memory until here
    if plan is None:
        raise _unbuilt(library, library.reason())
    return memoryview(plan)


def parsed(library: TensorRT, model: bytes) -> tuple[Any, Any, Any]:
    """Builder, strongly typed network and parser of an ONNX model.

    Raises:
        EngineError: TensorRT cannot read the model, or finds no GPU that it needs.
    """
    trt = library.module
    try:
        builder = trt.Builder(library.logger)
    except TypeError as error:  # pybind11's word for a null pointer
        raise _unbuilt(library, library.reason()) from error
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, library.logger)
    if not parser.parse(model):
        raise _unbuilt(library, parser.get_error(0).desc() if parser.num_errors else "no reason")
    return builder, network, parser


def _unbuilt(library: TensorRT, reason: str) -> EngineError:
    return EngineError(
        f"{library.flavour} {library.version} cannot build the engine ({reason}):"
        " try another --precision, or use --engine compile"
    )


def _sm(capability: tuple[int, int]) -> str:
    """`SM89` of (8, 9)."""
    return f"SM{capability[0]}{capability[1]}"
