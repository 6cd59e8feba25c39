"""The graph through ONNX Runtime, without a compiler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from unidino_fast.engines.onnx_export import INPUT_NAME, OUTPUT_NAME, imported, onnx_model
from unidino_fast.engines.steps import in_steps
from unidino_fast.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from unidino_fast.choices import Precision
    from unidino_fast.engines.graph import InferenceGraph

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_PRECISIONS = {"cpu": ("fp32",), "cuda": ("fp32", "fp16")}
_ERRORS_ONLY = 3
_CPU_STEP = 2
"""Tiles that one core takes at a time."""


def check_available(device: torch.device, precision: Precision) -> None:
    """Raises UsageError where ONNX Runtime is not installed, or lacks the device or precision."""
    imported("onnx")
    if _PROVIDERS[device.type] not in imported("onnxruntime").get_available_providers():
        raise UsageError(
            f"this onnxruntime does not run on {device}: pip install onnxruntime-gpu in its"
            " place, or use --engine compile"
        )
    if precision not in _PRECISIONS[device.type]:
        raise UsageError(
            f"engine onnx does not compute in {precision} on {device}: use --precision"
            f" {' or '.join(_PRECISIONS[device.type])}, or --engine compile"
        )


class OnnxEngine:
    """Runs the graph in an ONNX Runtime session.

    Args:
        graph: patches (N, tokens, P * P) -> (N, D).
        device: the CPU, or a CUDA device where ONNX Runtime has its CUDA provider.
        precision: `fp32`; on CUDA `fp16` too.
        step: tiles in a call of the network; on the CPU, at most.

    Raises:
        UsageError: onnx or onnxruntime is not installed, or does not do this device or precision.
    """

    name = "onnx"

    def __init__(
        self,
        graph: InferenceGraph,
        device: torch.device,
        precision: Precision,
        *,
        step: int,
    ) -> None:
        check_available(device, precision)
        runtime = imported("onnxruntime")
        options = runtime.SessionOptions()
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
        self.step = min(step, _CPU_STEP) if device.type == "cpu" else step
        options.intra_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        on_device = {}
        if device.type == "cuda":
            on_device = {"device_id": device.index or 0, "use_tf32": 0}  # fp32 means fp32
        self._device = device
        self._dim = graph.dim
        self._session: Any = runtime.InferenceSession(
            onnx_model(graph, precision), options, providers=[(_PROVIDERS[device.type], on_device)]
        )

    def __call__(self, patches: Tensor) -> Tensor:
        """Embeds patches (N, tokens, P * P) on the engine's device; (N, D) float32 there."""
        run = self._on_cuda if self._device.type == "cuda" else self._on_cpu
        return in_steps(run, patches.detach().contiguous(), self.step, self._dim)

    def _on_cpu(self, patches: Tensor) -> Tensor:
        (features,) = self._session.run([OUTPUT_NAME], {INPUT_NAME: patches.numpy()})
        return torch.from_numpy(features)

    def _on_cuda(self, patches: Tensor) -> Tensor:
        """Reads and writes torch's memory in place."""
        features = torch.empty(len(patches), self._dim, device=patches.device)
        binding = self._session.io_binding()
        for bind, name, tensor in (
            (binding.bind_input, INPUT_NAME, patches),
            (binding.bind_output, OUTPUT_NAME, features),
        ):
            bind(
                name,
                "cuda",
                self._device.index or 0,
                np.float32,
                tuple(tensor.shape),
                tensor.data_ptr(),
            )
        # the session computes on a stream of its own and returns when that is done
        torch.cuda.current_stream(patches.device).synchronize()
        self._session.run_with_iobinding(binding)
        return features
