"""The graph through torch.compile, once for one batch shape.

On the CPU the weights are frozen into the code and laid out for the matrix products beforehand; on
CUDA the kernels are replayed as one CUDA graph; tuning them for the shape took a minute longer and
gained nothing on an H200 (33,800 tiles/s, 34,200 without). The compiled code is kept
in torch's cache folder, so a second run of the same weights and machine starts in seconds.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import torch

from unidino_fast.engines.eager import autocast
from unidino_fast.engines.steps import in_steps

if TYPE_CHECKING:
    from torch import Tensor

    from unidino_fast.choices import Precision
    from unidino_fast.engines.graph import InferenceGraph

_log = logging.getLogger(__name__)


class CompiledEngine:
    """Runs the compiled graph.

    Args:
        graph: patches (N, tokens, P * P) -> (N, D).
        device: where it runs.
        precision: `fp32`, or autocast to `bf16` or `fp16`; `fp8` for an `fp8_graph`.
        step: tiles in a call of the network.

    Attributes:
        compile_seconds: what the first step took, which compiles; None before it.
    """

    name = "compile"

    def __init__(
        self, graph: InferenceGraph, device: torch.device, precision: Precision, *, step: int
    ) -> None:
        self.step = step
        self._dim = graph.dim
        self._device = device
        self._precision = precision
        self._compiled: Any = torch.compile(
            graph.to(device), dynamic=False, fullgraph=True, options=_options(device)
        )
        self.compile_seconds: float | None = None

    def __call__(self, patches: Tensor) -> Tensor:
        """Embeds patches (N, tokens, P * P) on the engine's device; (N, D) float32 there."""
        if self.compile_seconds is None:
            start = time.perf_counter()
            in_steps(self._run, patches[: self.step], self.step, self._dim)  # on one core alone
            self.compile_seconds = time.perf_counter() - start
            _log.info("compiled in %.0f s", self.compile_seconds)
        return in_steps(self._run, patches, self.step, self._dim)

    def _run(self, patches: Tensor) -> Tensor:
        # freezing needs no_grad: it does not take effect in inference mode
        with torch.no_grad(), autocast(self._device, self._precision):
            return self._compiled(patches)  # type: ignore[no-any-return]


def _options(device: torch.device) -> dict[str, Any]:
    if device.type == "cpu":
        return {"freezing": True}
    return {"triton.cudagraphs": True}
