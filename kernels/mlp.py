"""A transformer block's MLP in one kernel: norm, fc1, GELU, fc2, residual. A candidate.

Letters: M rows (tokens), D features, F hidden features. The hidden features never reach device
memory. No engine uses this kernel: see `kernels/README.md`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch.nn import functional

from unidino_fast.kernels.norm_linear import fold_norm_linear

if TYPE_CHECKING:
    from torch import Tensor

MLP_DTYPES = (torch.bfloat16, torch.float16)
MAX_DIM = 384
"""Features whose sums the registers hold for a whole block of rows."""
STEP = 64
"""What divides D and F."""
_INVERSE_SQRT2 = tl.constexpr(0.7071067811865476)


class MlpWeights(NamedTuple):
    """Weights of a block's MLP, with the norm's scale and shift in those of fc1.

    The kernel corrects the first product for what was left undone: see `NormLinearWeights`.
    """

    weight1: Tensor
    """(F, D) bfloat16 or float16: fc1's weight times the norm's scale."""
    slope: Tensor
    """(F,) float32: sums of the rows of `weight1`, as rounded."""
    bias1: Tensor
    """(F,) float32: fc1's bias, and its weight times the norm's shift."""
    weight2: Tensor
    """(D, F), the dtype of `weight1`."""
    bias2: Tensor
    """(D,) float32."""
    epsilon: float
    """Of the norm."""


def fold_mlp(
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    *,
    epsilon: float,
    dtype: torch.dtype,
) -> MlpWeights:
    """Weights for `mlp`, made once, of the parameters of LayerNorm, fc1 and fc2.

    Args:
        norm_weight: (D,) scale of the norm.
        norm_bias: (D,) shift of the norm.
        weight1: (F, D) of fc1.
        bias1: (F,) of fc1.
        weight2: (D, F) of fc2.
        bias2: (D,) of fc2.
        epsilon: of the norm.
        dtype: bfloat16 or float16, that of the rows to come.
    """
    first = fold_norm_linear(norm_weight, norm_bias, weight1, bias1, epsilon=epsilon, dtype=dtype)
    return MlpWeights(
        weight1=first.weight,
        slope=first.slope,
        bias1=first.bias,
        weight2=weight2.to(dtype).contiguous(),
        bias2=bias2.float().contiguous(),
        epsilon=epsilon,
    )


def mlp_reference(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    *,
    epsilon: float,
) -> Tensor:
    """`x + fc2(gelu(fc1(norm(x))))` in float32, rounded once at the end.

    Args:
        x: (M, D), any float dtype.
        norm_weight: as for `fold_mlp`; so are the others.
        norm_bias: see there.
        weight1: see there.
        bias1: see there.
        weight2: see there.
        bias2: see there.
        epsilon: see there.

    Returns:
        (M, D), the dtype of `x`.
    """
    rows = x.float()
    normed = functional.layer_norm(
        rows, rows.shape[1:], norm_weight.float(), norm_bias.float(), epsilon
    )
    hidden = functional.gelu(functional.linear(normed, weight1.float(), bias1.float()))  # (M, F)
    return (rows + functional.linear(hidden, weight2.float(), bias2.float())).to(x.dtype)


@triton.jit  # type: ignore[untyped-decorator]
def mlp_kernel(  # type: ignore[no-untyped-def]
    x_ptr,  # (M, D), unit stride along D
    weight1_ptr,  # (F, D), contiguous
    slope_ptr,  # (F,) float32
    bias1_ptr,  # (F,) float32
    weight2_ptr,  # (D, F), contiguous
    bias2_ptr,  # (D,) float32
    out_ptr,  # (M, D), contiguous
    row_stride,
    n_rows,
    epsilon,
    DIM: tl.constexpr,
    HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,  # a power of two that divides D
    FEATURES: tl.constexpr,  # hidden features at a time
):
    """One program: ROWS rows, against all weights.

    The rows lie in shared memory and their sums in registers (tensor memory on sm_100), as tuples
    of D / COLUMNS blocks, because D need not be a power of two.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = (row < n_rows)[:, None]
    column = tl.arange(0, COLUMNS)
    feature = tl.arange(0, FEATURES)
    dtype = x_ptr.dtype.element_ty
    source = x_ptr + row.to(tl.int64)[:, None] * row_stride + column[None, :]
    target = out_ptr + row.to(tl.int64)[:, None] * DIM + column[None, :]
    weight1 = weight1_ptr + feature[None, :] * DIM + column[:, None]  # (COLUMNS, FEATURES)
    weight2 = weight2_ptr + column[None, :] * HIDDEN + feature[:, None]  # (FEATURES, COLUMNS)

    blocks = tl.tuple(())
    sums = tl.tuple(())
    total = tl.zeros((ROWS,), tl.float32)
    for part in tl.static_range(DIM // COLUMNS):
        x = tl.load(source + part * COLUMNS, mask=inside, other=0.0)
        total += tl.sum(x.to(tl.float32), axis=1)
        blocks = blocks + (x,)  # noqa: RUF005 (no unpacking in Triton)
        sums = sums + (tl.zeros((ROWS, COLUMNS), tl.float32),)  # noqa: RUF005
    mean = total / DIM
    spread = tl.zeros((ROWS,), tl.float32)
    for part in tl.static_range(DIM // COLUMNS):
        away = blocks[part].to(tl.float32) - mean[:, None]
        spread += tl.sum(away * away, axis=1)
    scale = tl.rsqrt(spread / DIM + epsilon)
    shift = mean * scale

    for start in tl.range(0, HIDDEN, FEATURES):
        hidden = tl.zeros((ROWS, FEATURES), tl.float32)
        for part in tl.static_range(DIM // COLUMNS):
            block1 = tl.load(weight1 + start * DIM + part * COLUMNS)
            hidden = tl.dot(blocks[part], block1, hidden)
        slope = tl.load(slope_ptr + start + feature)[None, :]
        bias1 = tl.load(bias1_ptr + start + feature)[None, :]
        hidden = hidden * scale[:, None] - shift[:, None] * slope + bias1
        active = 0.5 * hidden * (1.0 + tl.math.erf(hidden * _INVERSE_SQRT2))
        added = tl.tuple(())
        for part in tl.static_range(DIM // COLUMNS):
            block2 = tl.load(weight2 + start + part * COLUMNS * HIDDEN)
            added = added + (tl.dot(active.to(dtype), block2, sums[part]),)  # noqa: RUF005
        sums = added

    for part in tl.static_range(DIM // COLUMNS):
        # another policy than above: as the same load, it would be kept in registers all along
        x = tl.load(source + part * COLUMNS, mask=inside, other=0.0, eviction_policy="evict_first")
        bias2 = tl.load(bias2_ptr + part * COLUMNS + column)[None, :]
        out = sums[part] + bias2 + x.to(tl.float32)
        tl.store(target + part * COLUMNS, out.to(dtype), mask=inside)


def plan_mlp(*, dim: int, hidden: int, capability: tuple[int, int]) -> dict[str, Any]:
    """Compile-time constants of `mlp_kernel`: the most rows that no register is spilled for.

    Args:
        dim: D.
        hidden: F.
        capability: of the GPU. 8.0 and 9.0 have 163 and 227 KB of shared memory for a program,
            10.x the same and tensor memory for the sums, the others 99 KB.
    """
    wide = 128 if dim % 128 == 0 else STEP
    rows, columns, features = 64, wide, 16
    if capability == (8, 0):
        rows, columns, features = 128, STEP, 16
    elif capability[0] == 9:
        rows, columns, features = 128, STEP, 32
    elif capability[0] == 10:
        rows, columns, features = 128, wide, 32
    return {
        "DIM": dim,
        "HIDDEN": hidden,
        "ROWS": rows,
        "COLUMNS": columns,
        "FEATURES": features,
        "num_warps": 8,
        "num_stages": 2,
    }


def mlp(x: Tensor, weights: MlpWeights) -> Tensor:
    """`mlp_reference` in one read of the rows and one write; products and sums in float32.

    Hidden features are rounded to the dtype between the products, as a matrix product in this
    dtype would. The mean is subtracted after the first product: a row's mean should be within some
    thousand times its standard deviation.

    Args:
        x: (M, D) bfloat16 or float16; features of a row adjacent, else any strides.
        weights: of `fold_mlp`, in the dtype of `x`; D and F are multiples of 64, D at most 384.

    Returns:
        (M, D), contiguous.

    Raises:
        TypeError: another dtype.
        ValueError: shapes or strides that do not fit, or tensors on several devices.
    """
    n_rows, dim = x.shape
    hidden = len(weights.weight1)
    if x.dtype not in MLP_DTYPES or x.dtype != weights.weight1.dtype:
        raise TypeError(f"no kernel multiplies {x.dtype} rows with {weights.weight1.dtype} weights")
    if dim % STEP or hidden % STEP or not 0 < dim <= MAX_DIM or not hidden:
        raise ValueError(
            f"{dim} features and {hidden} hidden ones: give multiples of {STEP}, at most {MAX_DIM}"
            " features"
        )
    if weights.weight1.shape != (hidden, dim) or weights.weight2.shape != (dim, hidden):
        raise ValueError(
            f"weights {tuple(weights.weight1.shape)} and {tuple(weights.weight2.shape)}: give"
            f" ({hidden}, {dim}) and ({dim}, {hidden})"
        )
    if x.stride(1) != 1:
        raise ValueError("features of a row are not adjacent: call .contiguous() first")
    if any(part.device != x.device for part in weights[:5]):
        raise ValueError(f"rows are on {x.device}, weights on {weights.weight1.device}")

    out = torch.empty((n_rows, dim), dtype=x.dtype, device=x.device)
    if n_rows:
        capability = torch.cuda.get_device_capability(x.device) if x.is_cuda else (8, 0)
        constants = plan_mlp(dim=dim, hidden=hidden, capability=capability)
        mlp_kernel[(triton.cdiv(n_rows, constants["ROWS"]),)](
            x,
            weights.weight1,
            weights.slope,
            weights.bias1,
            weights.weight2,
            weights.bias2,
            out,
            x.stride(0),
            n_rows,
            weights.epsilon,
            **constants,
        )
    return out
