"""`add_norm`: what stands between two large products of the fused engine."""

from __future__ import annotations

import torch

from unidino_fast.benchmarks.kernels.case import OpCase
from unidino_fast.kernels import add_norm, add_norm_reference

TOKENS = 197
DIM = 384
EPSILON = 1e-6


def cases(device: torch.device) -> list[OpCase]:
    """The engine's float16 stream, and one of float32, with branches of bfloat16."""
    n_tiles = 256 if device.type == "cuda" else 2
    return [_case(device, n_tiles * TOKENS, dtype) for dtype in (torch.float16, torch.float32)]


def _case(device: torch.device, n_rows: int, dtype: torch.dtype) -> OpCase:
    generator = torch.Generator(device).manual_seed(0)
    stream = torch.randn(n_rows, DIM, device=device, generator=generator).to(dtype)
    # so small that thousands of calls, each of which adds it, do not overflow
    branch = torch.randn(n_rows, DIM, device=device, generator=generator).mul_(2.0**-7)
    branch = branch.to(torch.bfloat16)
    weight, bias = torch.rand(2, DIM, device=device, generator=generator).unbind()
    rest = branch, weight, bias, EPSILON
    own, other = stream.clone(), stream.clone()  # which calls change
    return OpCase(
        op="add_norm",
        shape=f"{n_rows} rows x {DIM}",
        dtypes=f"{str(dtype).removeprefix('torch.')} + bfloat16 to bfloat16",
        n_bytes=2 * stream.nbytes + 2 * branch.nbytes + weight.nbytes + bias.nbytes,
        kernel=lambda: add_norm(own, *rest),
        reference=lambda: add_norm_reference(stream.clone(), *rest),
        expression=lambda: add_norm_reference(other, *rest),
        # one bfloat16 for another where float32 rounds another way, and what other ways added
        tolerance=2e-2,
    )
