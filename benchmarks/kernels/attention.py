"""`attention`: among the tokens of ViT-S tiles, a candidate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from unidino_fast.benchmarks.kernels.case import OpCase
from unidino_fast.kernels import attention, attention_reference

if TYPE_CHECKING:
    from torch import Tensor

DIM, HEADS, TOKENS = 384, 6, 197


def cases(device: torch.device) -> list[OpCase]:
    """A batch of 256 tiles, and one of 32; few on the CPU. Measured by its bytes, not its FLOP."""
    return [_case(device, n) for n in ((256, 32) if device.type == "cuda" else (2,))]


def _case(device: torch.device, n_tiles: int) -> OpCase:
    generator = torch.Generator(device).manual_seed(0)
    qkv = torch.randn(n_tiles, TOKENS, 3 * DIM, device=device, generator=generator)
    packed = qkv.to(torch.bfloat16)
    return OpCase(
        op="attention",
        shape=f"{n_tiles} tiles x {TOKENS} tokens x {HEADS} heads of {DIM // HEADS} features",
        dtypes="bfloat16 to bfloat16",
        n_bytes=packed.nbytes * 4 // 3,
        kernel=lambda: attention(packed, HEADS),
        reference=lambda: attention_reference(packed, HEADS),
        expression=lambda: expression(packed),
        tolerance=1e-2,  # shares and result rounded to bfloat16, the latter alone 1.7e-3
    )


def expression(packed: Tensor) -> Tensor:
    """The op in torch's words: views, no copies; the kernel behind is torch's choice."""
    q, k, v = packed.view(len(packed), TOKENS, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
    return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
