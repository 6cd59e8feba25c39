"""`quantize_rows`: tokens to e4m3, as the float8 layers read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from unidino_fast.benchmarks.kernels.case import OpCase
from unidino_fast.kernels import quantize_rows, quantize_rows_reference
from unidino_fast.kernels.quantize_rows import E4M3, E4M3_MAX, SMALLEST

if TYPE_CHECKING:
    from torch import Tensor

TOKENS = 197


def cases(device: torch.device) -> list[OpCase]:
    """What autocast gives a ViT-S layer: float32 of a norm, bfloat16 of hidden features."""
    n_tiles = 256 if device.type == "cuda" else 2
    shapes = (384, torch.float32), (1536, torch.bfloat16)
    return [_case(device, n_tiles * TOKENS, width, dtype) for width, dtype in shapes]


def _case(device: torch.device, n_rows: int, n_columns: int, dtype: torch.dtype) -> OpCase:
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(n_rows, n_columns, device=device, generator=generator).to(dtype)
    return OpCase(
        op="quantize_rows",
        shape=f"{n_rows} rows x {n_columns}",
        dtypes=f"{str(dtype).removeprefix('torch.')} to float8_e4m3fn",
        n_bytes=x.nbytes + x.numel() + 4 * n_rows,
        kernel=lambda: quantize_rows(x)[0],
        reference=lambda: quantize_rows_reference(x)[0],
        expression=lambda: expression(x)[0],
        # a quotient rounded another way may be the next e4m3: of bfloat16 rows many are ties
        tolerance=5e-3,
    )


def expression(x: Tensor) -> tuple[Tensor, Tensor]:
    """The op with a product instead of the division of each value."""
    largest = x.float().abs().amax(dim=1, keepdim=True).clamp_min(SMALLEST)
    scaled = x.float() * (E4M3_MAX / largest)
    return scaled.clamp(-E4M3_MAX, E4M3_MAX).to(E4M3), largest / E4M3_MAX
