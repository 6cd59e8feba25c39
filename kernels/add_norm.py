"""A branch added to the sums of residuals, and their norm, in one pass.

Letters: M rows (tokens of all tiles), D features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from torch import Tensor

STREAM_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_ELEMENTS = 2048
"""Of a program: what 128 threads hold in registers without spilling."""


def add_norm_reference(
    stream: Tensor, branch: Tensor, weight: Tensor, bias: Tensor, epsilon: float
) -> Tensor:
    """Adds a branch to the stream in place; layer norm of the sums.

    Sums are taken, and normalised, in float32; the stream keeps them rounded to its dtype.

    Args:
        stream: (M, D), any float dtype; changed.
        branch: (M, D), any float dtype.
        weight: (D,) float32, of the norm.
        bias: (D,) float32, of the norm.
        epsilon: added to the variance.

    Returns:
        (M, D) in the branch's dtype.
    """
    sums = stream.to(torch.float32) + branch.to(torch.float32)
    stream.copy_(sums)
    normed = torch.nn.functional.layer_norm(sums, sums.shape[-1:], weight, bias, epsilon)
    return normed.to(branch.dtype)


@triton.jit(do_not_specialize=["epsilon"])  # type: ignore[untyped-decorator]
def add_norm_kernel(  # type: ignore[no-untyped-def]
    stream_ptr,  # (M, D), contiguous
    branch_ptr,  # (M, D), contiguous
    weight_ptr,  # (D,) float32
    bias_ptr,  # (D,) float32
    out_ptr,  # (M, D), contiguous
    n_rows,
    epsilon,
    DIM: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One program: ROWS whole rows, in registers between their sums and their norm."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    inside = column < DIM
    mask = (row < n_rows)[:, None] & inside[None, :]
    place = row.to(tl.int64)[:, None] * DIM + column[None, :]

    sums = tl.load(stream_ptr + place, mask=mask, other=0.0).to(tl.float32)
    sums += tl.load(branch_ptr + place, mask=mask, other=0.0).to(tl.float32)
    tl.store(stream_ptr + place, sums.to(stream_ptr.dtype.element_ty), mask=mask)

    mean = tl.sum(sums, axis=1) / DIM
    centred = tl.where(mask, sums - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, axis=1) / DIM
    weight = tl.load(weight_ptr + column, mask=inside, other=0.0)
    bias = tl.load(bias_ptr + column, mask=inside, other=0.0)
    normed = centred * tl.rsqrt(variance + epsilon)[:, None] * weight[None, :] + bias[None, :]
    tl.store(out_ptr + place, normed.to(out_ptr.dtype.element_ty), mask=mask)


def plan_add_norm(*, dim: int) -> dict[str, Any]:
    """Compile-time constants of `add_norm_kernel`."""
    columns = triton.next_power_of_2(dim)
    return {
        "DIM": dim,
        "ROWS": max(1, _ELEMENTS // columns),
        "COLUMNS": columns,
        "num_warps": 4,
    }


def add_norm(
    stream: Tensor, branch: Tensor, weight: Tensor, bias: Tensor, epsilon: float
) -> Tensor:
    """`add_norm_reference` with one read of stream and branch and one write of stream and norm.

    Args:
        stream: (M, D) float32, float16 or bfloat16, contiguous; changed.
        branch: as the stream.
        weight: (D,) float32, contiguous.
        bias: as the weight.
        epsilon: added to the variance.

    Returns:
        (M, D) in the branch's dtype; the sums that are normalised are not rounded before.

    Raises:
        TypeError: another dtype.
        ValueError: shapes that do not fit, tensors on several devices, or not contiguous.
    """
    tensors = stream, branch, weight, bias
    n_rows, dim = stream.shape
    if not {stream.dtype, branch.dtype} <= set(STREAM_DTYPES):
        raise TypeError(f"no kernel adds {branch.dtype} to {stream.dtype}: use the reference")
    if not weight.dtype == bias.dtype == torch.float32:
        raise TypeError(f"weight and bias are {weight.dtype} and {bias.dtype}: give float32")
    if branch.shape != stream.shape or not weight.shape == bias.shape == (dim,):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
        raise ValueError(f"stream, branch, weight, bias of {shapes}: give (M, D) twice, (D,) twice")
    if len({tensor.device for tensor in tensors}) > 1:
        raise ValueError("stream, branch, weight and bias are on several devices")
    if not all(tensor.is_contiguous() for tensor in tensors):
        raise ValueError("tensors are not contiguous: the stream is changed in place")

    out = torch.empty_like(branch)
    if out.numel():
        constants = plan_add_norm(dim=dim)
        grid = (triton.cdiv(n_rows, constants["ROWS"]),)
        add_norm_kernel[grid](stream, branch, weight, bias, out, n_rows, epsilon, **constants)
    return out
