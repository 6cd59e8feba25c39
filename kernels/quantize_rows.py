"""Rows to float8 e4m3, each with a scale of its own. Letters: M rows, K columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from torch import Tensor

ROW_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
E4M3 = torch.float8_e4m3fn
E4M3_MAX = 448.0
"""The largest value of e4m3."""
SMALLEST = 1e-12
"""Rows whose largest magnitude is below are scaled as if it were this: zeros stay zeros."""
MAX_COLUMNS = 16_384
_BLOCK = 4096
_MAX, _SMALLEST = tl.constexpr(E4M3_MAX), tl.constexpr(SMALLEST)


def quantize_rows_reference(x: Tensor) -> tuple[Tensor, Tensor]:
    """Divides each row by `largest magnitude / 448` and rounds to the nearest e4m3, ties to even.

    A NaN makes its row NaN, an infinity makes it zeros and NaN.

    Args:
        x: (M, K), any float dtype; worked on in float32.

    Returns:
        (M, K) e4m3 and scales (M,) float32: `values * scales[:, None]` is about `x`.
    """
    rows = x.float()
    scales = rows.abs().amax(dim=1).clamp_min(SMALLEST) / E4M3_MAX
    # without the clamp a quotient rounded up past 448 could become NaN: e4m3 has no infinity
    return (rows / scales[:, None]).clamp(-E4M3_MAX, E4M3_MAX).to(E4M3), scales


@triton.jit  # type: ignore[untyped-decorator]
def quantize_rows_kernel(  # type: ignore[no-untyped-def]
    x_ptr,  # (M, K), unit stride along K
    values_ptr,  # (M, K) e4m3, contiguous
    scales_ptr,  # (M,) float32
    row_stride,
    n_rows,
    n_columns,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One program: ROWS whole rows."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    mask = (row < n_rows)[:, None] & (column < n_columns)[None, :]
    wide_row = row.to(tl.int64)[:, None]
    x = tl.load(x_ptr + wide_row * row_stride + column[None, :], mask=mask, other=0.0)
    x = x.to(tl.float32)

    largest = tl.maximum(tl.max(tl.abs(x), axis=1), _SMALLEST)
    scale = tl.math.div_rn(largest, tl.full((ROWS,), _MAX, tl.float32))
    value = tl.math.div_rn(x, scale[:, None])
    value = tl.maximum(value, -_MAX, propagate_nan=tl.PropagateNan.ALL)
    value = tl.minimum(value, _MAX, propagate_nan=tl.PropagateNan.ALL)

    target = values_ptr + wide_row * n_columns + column[None, :]
    tl.store(target, value.to(values_ptr.dtype.element_ty), mask=mask)
    tl.store(scales_ptr + row, scale, mask=row < n_rows)


def plan_quantize_rows(*, n_columns: int) -> dict[str, Any]:
    """Compile-time constants of `quantize_rows_kernel`."""
    columns = triton.next_power_of_2(n_columns)
    return {
        "ROWS": max(1, _BLOCK // columns),
        "COLUMNS": columns,
        "num_warps": 4 if columns <= _BLOCK else 8,
    }


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """`quantize_rows_reference` in one read of the rows and one write; its bits for finite rows.

    A NaN stays where it is and does not spread over its row. The GPU has compute capability 8.9 or
    more. On 8.9 Triton cuts quotients off to float16 before it rounds: one less than a 1024th part
    above the middle of two numbers of e4m3 may go to the lower.

    Args:
        x: (M, K) float32, bfloat16 or float16; K at most 16384; columns of a row adjacent, else any
            strides.

    Returns:
        (M, K) e4m3 and scales (M,) float32, contiguous.

    Raises:
        TypeError: another dtype.
        ValueError: too many columns, or strides that do not fit.
    """
    n_rows, n_columns = x.shape
    if x.dtype not in ROW_DTYPES:
        raise TypeError(f"no kernel quantises {x.dtype}: use the reference")
    if not 0 < n_columns <= MAX_COLUMNS:
        raise ValueError(f"{n_columns} columns do not fit the kernel: give 1 to {MAX_COLUMNS}")
    if x.stride(1) != 1 and n_columns > 1:
        raise ValueError("columns of a row are not adjacent: call .contiguous() first")

    values = torch.empty((n_rows, n_columns), dtype=E4M3, device=x.device)
    scales = torch.empty(n_rows, dtype=torch.float32, device=x.device)
    if n_rows:
        constants = plan_quantize_rows(n_columns=n_columns)
        quantize_rows_kernel[(triton.cdiv(n_rows, constants["ROWS"]),)](
            x, values, scales, x.stride(0), n_rows, n_columns, **constants
        )
    return values, scales
