"""The reference engine: the inference graph, run by torch operation by operation."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch

from unidino_fast.engines.steps import in_steps

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor

    from unidino_fast.choices import Precision
    from unidino_fast.engines.graph import InferenceGraph

AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.bfloat16}
"""Of what the graph does not compute in float32 or, in `fp8`, in its float8 layers."""


class EagerEngine:
    """Runs the graph on one device in one precision.

    Args:
        graph: patches (N, tokens, P * P) -> (N, D).
        device: where it runs.
        precision: `fp32`, or autocast to `bf16` or `fp16`; `fp8` for an `fp8_graph`.
        step: tiles in a call of the network.
    """

    name = "eager"

    def __init__(
        self, graph: InferenceGraph, device: torch.device, precision: Precision, *, step: int
    ) -> None:
        self._graph = graph.to(device)
        self._device = device
        self._precision = precision
        self.step = step

    def __call__(self, patches: Tensor) -> Tensor:
        """Embeds patches (N, tokens, P * P) on the engine's device; (N, D) float32 there."""
        return in_steps(self._run, patches, self.step, self._graph.dim)

    def _run(self, patches: Tensor) -> Tensor:
        with torch.inference_mode(), autocast(self._device, self._precision):
            return self._graph(patches)  # type: ignore[no-any-return]


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Autocast of a precision; nothing for fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=AUTOCAST_DTYPES[precision])
