"""Words that options take; they stand apart so that using them loads nothing."""

from __future__ import annotations

from typing import Literal

Intensity = Literal["dtype", "percentile", "none"]
OnError = Literal["fail", "skip"]
EngineName = Literal["auto", "eager", "compile", "fused", "onnx", "tensorrt"]
PrecisionName = Literal["auto", "fp32", "bf16", "fp16", "fp8"]
Precision = Literal["fp32", "bf16", "fp16", "fp8"]
