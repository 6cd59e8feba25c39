"""The reference engine: the backbone's own module, run by torch as it is written."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal

import torch

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor

Precision = Literal["fp32", "bf16", "fp16"]
AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class EagerEngine:
    """Runs a module on one device in one precision.

    Args:
        module: (N, C, T, T) -> (N, D).
        device: where it runs.
        precision: `fp32`, or autocast to `bf16` or `fp16`.
    """

    name = "eager"

    def __init__(self, module: torch.nn.Module, device: torch.device, precision: Precision) -> None:
        self._module = module.to(device)
        self._device = device
        self._precision = precision

    def __call__(self, tiles: Tensor) -> Tensor:
        """Embeds tiles (N, C, T, T) on the engine's device; (N, D) float32 on that device."""
        with torch.inference_mode(), self._autocast():
            features: Tensor = self._module(tiles)
        return features.float()

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._precision == "fp32":
            return nullcontext()
        return torch.autocast(self._device.type, dtype=AUTOCAST_DTYPES[self._precision])
