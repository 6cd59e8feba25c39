"""Linear layers in float8 (e4m3), everything else in bfloat16.

Weights have a scale for each output channel, made once; activations one for each token, made as
they come. Products are summed in float32. Computed on the CPU by the reference, ViT-S/16 with
random weights keeps a cosine of 0.9955 to float32, which is little above the self-check's limit.
Letters: N tokens (of all tiles), K inputs, C outputs.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from unidino_fast import ops
from unidino_fast.kernels import quantize_rows_reference

if TYPE_CHECKING:
    from unidino_fast.engines.graph import InferenceGraph

ALIGNMENT = 16
"""What the tensor cores want K and C divisible by; other layers stay in bfloat16."""


class Fp8Linear(nn.Module):
    """A linear layer that multiplies in e4m3 and gives bfloat16.

    On CUDA by torch's scaled product, without its faster sums of fewer bits; elsewhere the same
    numbers are multiplied in float32.

    Args:
        linear: is left as it is.
    """

    weight: Tensor
    scales: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, scales = quantize_rows_reference(linear.weight.detach())
        bias = linear.bias
        self.register_buffer("weight", weight)  # (C, K) e4m3
        self.register_buffer("scales", scales[None])  # (1, C) float32
        self.register_buffer("bias", None if bias is None else bias.detach().to(torch.bfloat16))

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) of any float dtype -> (..., C) bfloat16."""
        values, scales = ops.quantize_rows(x.reshape(-1, x.shape[-1]))  # (N, K), (N,)
        product = scaled_product if values.is_cuda else scaled_product_reference
        out = product(values, scales[:, None], self.weight, self.scales, self.bias)
        return out.view(*x.shape[:-1], -1)


def scaled_product(
    x: Tensor, x_scales: Tensor, weight: Tensor, weight_scales: Tensor, bias: Tensor | None
) -> Tensor:
    """`scaled_product_reference` on tensor cores of compute capability 8.9 or later."""
    out: Tensor = torch._scaled_mm(
        x,
        weight.t(),
        scale_a=x_scales,
        scale_b=weight_scales,
        bias=bias,
        out_dtype=torch.bfloat16,
        use_fast_accum=False,
    )
    return out


def scaled_product_reference(
    x: Tensor, x_scales: Tensor, weight: Tensor, weight_scales: Tensor, bias: Tensor | None
) -> Tensor:
    """`(x * x_scales) @ (weight * weight_scales.T).T + bias`, summed in float32.

    Args:
        x: (N, K) e4m3.
        x_scales: (N, 1) float32.
        weight: (C, K) e4m3.
        weight_scales: (1, C) float32.
        bias: (C,) bfloat16 or None.

    Returns:
        (N, C) bfloat16.
    """
    with torch.autocast(x.device.type, enabled=False):
        out = functional.linear(x.float(), weight.float()) * x_scales * weight_scales
    if bias is not None:
        out = out + bias.float()
    return out.to(torch.bfloat16)


def fp8_graph(graph: InferenceGraph) -> InferenceGraph:
    """A graph with the linear layers of all blocks but the last in e4m3; the rest is shared.

    The last block works for the class token alone: its products are too small to gain, and what is
    lost there reaches the embedding at once.

    Args:
        graph: is left as it is.
    """
    shared = {id(tensor): tensor for tensor in (*graph.parameters(), *graph.buffers())}
    copied = copy.deepcopy(graph, shared)
    blocks: Any = copied.blocks
    for block in blocks[:-1]:
        for owner, names in ((block.attn, ("qkv", "proj")), (block.mlp, ("fc1", "fc2"))):
            for name in names:
                linear = getattr(owner, name)
                if not any(size % ALIGNMENT for size in linear.weight.shape):
                    setattr(owner, name, Fp8Linear(linear))
    return copied
