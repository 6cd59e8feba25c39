"""LayerNorm and the linear layer after it in one kernel, with GELU if wanted. A candidate.

Letters: M rows (tokens), D features, N outputs. The normalised rows never reach device memory.
No engine uses this kernel: see `kernels/README.md`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

NORM_LINEAR_DTYPES = (torch.bfloat16, torch.float16)
MAX_DIM = 768
"""Features of which shared memory holds a block of rows."""
STEP = 64
"""What divides D and N."""
_ROW_COST = 4
"""What reading a block of rows takes, in the time of so many products: at the rates of an H100, 98
kB of rows and 6.3 MFLOP of a product with 64 outputs, on one of 132 processors."""
_INVERSE_SQRT2 = tl.constexpr(0.7071067811865476)


class NormLinearWeights(NamedTuple):
    """Weights of a linear layer, with the scale and shift of the norm before it in them.

    Of `norm(x) = (x - mean) / sd * scale + shift` the kernel leaves `x` as it is and corrects the
    product: `linear(norm(x)) = (x @ weight.T - mean * slope) / sd + bias`.
    """

    weight: Tensor
    """(N, D) bfloat16 or float16: the layer's weight times the norm's scale."""
    slope: Tensor
    """(N,) float32: sums of the rows of `weight`, as rounded."""
    bias: Tensor
    """(N,) float32: the layer's bias, and its weight times the norm's shift."""
    epsilon: float
    """Of the norm."""


def fold_norm_linear(
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    epsilon: float,
    dtype: torch.dtype,
) -> NormLinearWeights:
    """Weights for `norm_linear`, made once, of the parameters of LayerNorm and the layer.

    Args:
        norm_weight: (D,) scale of the norm.
        norm_bias: (D,) shift of the norm.
        weight: (N, D) of the layer.
        bias: (N,) of the layer; None is zero.
        epsilon: of the norm.
        dtype: bfloat16 or float16, that of the rows to come.
    """
    folded = (weight.double() * norm_weight.double()).to(dtype)
    shift = weight.double() @ norm_bias.double()
    return NormLinearWeights(
        weight=folded.contiguous(),
        slope=folded.double().sum(dim=1).float(),
        bias=(shift if bias is None else bias.double() + shift).float(),
        epsilon=epsilon,
    )


def norm_linear_reference(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    epsilon: float,
    gelu: bool = False,
) -> Tensor:
    """`linear(norm(x))` in float32, or the exact GELU of it, rounded once at the end.

    Args:
        x: (M, D), any float dtype.
        norm_weight: as for `fold_norm_linear`; so are the others.
        norm_bias: see there.
        weight: see there.
        bias: see there.
        epsilon: see there.
        gelu: whether GELU follows.

    Returns:
        (M, N), the dtype of `x`.
    """
    scale, shift = norm_weight.float(), norm_bias.float()
    normed = functional.layer_norm(x.float(), x.shape[1:], scale, shift, epsilon)
    out = functional.linear(normed, weight.float(), None if bias is None else bias.float())
    return (functional.gelu(out) if gelu else out).to(x.dtype)


@triton.jit  # type: ignore[untyped-decorator]
def norm_linear_kernel(  # type: ignore[no-untyped-def]
    x_ptr,  # (M, D), unit stride along D
    weight_ptr,  # (N, D), contiguous
    slope_ptr,  # (N,) float32
    bias_ptr,  # (N,) float32
    out_ptr,  # (M, N), contiguous
    row_stride,
    n_rows,
    n_outputs,  # N
    span,  # outputs of a program, a multiple of COLUMNS
    epsilon,
    DIM: tl.constexpr,
    GELU: tl.constexpr,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,  # features at a time, a power of two that divides D
    COLUMNS: tl.constexpr,  # outputs at a time
):
    """One program: ROWS rows, against the weights of `span` outputs.

    The rows lie in shared memory all along, as a tuple of D / DEPTH blocks, because D need not be a
    power of two; the weights of the next outputs come while these are multiplied.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = (row < n_rows)[:, None]
    depth = tl.arange(0, DEPTH)
    column = tl.arange(0, COLUMNS)
    dtype = x_ptr.dtype.element_ty
    source = x_ptr + row.to(tl.int64)[:, None] * row_stride + depth[None, :]
    target = out_ptr + row.to(tl.int64)[:, None] * n_outputs + column[None, :]
    weight = weight_ptr + column[None, :] * DIM + depth[:, None]  # (DEPTH, COLUMNS)

    # each block's mean and squared deviations are joined to those of the blocks before, so that no
    # block has to stay in registers until the mean is known (Chan, Golub, LeVeque 1979)
    blocks = tl.tuple(())
    mean = tl.zeros((ROWS,), tl.float32)
    spread = tl.zeros((ROWS,), tl.float32)
    for part in tl.static_range(DIM // DEPTH):
        x = tl.load(source + part * DEPTH, mask=inside, other=0.0)
        blocks = blocks + (x,)  # noqa: RUF005 (no unpacking in Triton)
        wide = x.to(tl.float32)
        own = tl.sum(wide, axis=1) / DEPTH
        away = wide - own[:, None]
        apart = own - mean
        mean += apart / (part + 1)
        spread += tl.sum(away * away, axis=1) + apart * apart * (DEPTH * part / (part + 1))
    scale = tl.rsqrt(spread / DIM + epsilon)
    shift = mean * scale

    first = tl.program_id(1) * span
    for start in tl.range(first, tl.minimum(first + span, n_outputs), COLUMNS):
        sums = tl.zeros((ROWS, COLUMNS), tl.float32)
        for part in tl.static_range(DIM // DEPTH):
            block = tl.load(weight + start * DIM + part * DEPTH)
            sums = tl.dot(blocks[part], block, sums)
        slope = tl.load(slope_ptr + start + column)[None, :]
        bias = tl.load(bias_ptr + start + column)[None, :]
        out = sums * scale[:, None] - shift[:, None] * slope + bias
        if GELU:
            out = 0.5 * out * (1.0 + tl.math.erf(out * _INVERSE_SQRT2))
        tl.store(target + start, out.to(dtype), mask=inside)


def plan_norm_linear(*, dim: int, capability: tuple[int, int]) -> dict[str, Any]:
    """Compile-time constants of `norm_linear_kernel` but `GELU`.

    The most rows with which two blocks of weights fit in shared memory beside them; what they use
    stands in `kernels/README.md`.

    Args:
        dim: D.
        capability: of the GPU. 8.0 has 163 KB of shared memory for a program, 9.0 and 10.x 227 KB,
            the others 99 KB.
    """
    hopper, blackwell = capability[0] == 9, capability[0] == 10
    rows, columns, warps = 128, 64, 8
    if hopper or blackwell or capability == (8, 0):
        if dim > 384:
            rows, columns, warps = 64, 32, 4 if hopper else 8
    elif dim > 384:
        rows, columns, warps = 32, 32, 4
    elif dim > 192:
        rows, columns = 64, 32
    return {
        "DIM": dim,
        "ROWS": rows,
        # longer blocks are fewer in tensor memory, where Triton keeps each one's sums
        "DEPTH": 128 if blackwell and dim % 128 == 0 else STEP,
        "COLUMNS": columns,
        "num_warps": warps,
        "num_stages": 2,
    }


def outputs_a_program(
    *, n_rows: int, n_outputs: int, rows: int, columns: int, processors: int
) -> int:
    """How many outputs a program makes: all, unless that leaves processors idle.

    Each program reads and averages its rows anew, so the outputs are shared out no further than it
    takes to give each processor as much to do.

    Args:
        n_rows: M.
        n_outputs: N.
        rows: of a program.
        columns: outputs at a time.
        processors: of the GPU, each with one program at a time.
    """
    blocks, steps = triton.cdiv(n_rows, rows), triton.cdiv(n_outputs, columns)

    def time(shares: int) -> int:
        turns = triton.cdiv(blocks * shares, processors)
        return int(turns * (triton.cdiv(steps, shares) + _ROW_COST))

    return int(triton.cdiv(steps, min(range(1, steps + 1), key=time)) * columns)


def norm_linear(x: Tensor, weights: NormLinearWeights, *, gelu: bool = False) -> Tensor:
    """`norm_linear_reference` in one read of the rows and one write; products, sums in float32.

    The mean is subtracted after the product: a row's mean should be within some thousand times its
    standard deviation.

    Args:
        x: (M, D) bfloat16 or float16; features of a row adjacent, else any strides.
        weights: of `fold_norm_linear`, in the dtype of `x`; D and N are multiples of 64, D at most
            768.
        gelu: whether GELU follows.

    Returns:
        (M, N), contiguous.

    Raises:
        TypeError: another dtype.
        ValueError: shapes or strides that do not fit, or tensors on several devices.
    """
    n_rows, dim = x.shape
    n_outputs = len(weights.weight)
    if x.dtype not in NORM_LINEAR_DTYPES or x.dtype != weights.weight.dtype:
        raise TypeError(f"no kernel multiplies {x.dtype} rows with {weights.weight.dtype} weights")
    if dim % STEP or n_outputs % STEP or not 0 < dim <= MAX_DIM or not n_outputs:
        raise ValueError(
            f"{dim} features and {n_outputs} outputs: give multiples of {STEP}, at most {MAX_DIM}"
            " features"
        )
    if weights.weight.shape != (n_outputs, dim):
        raise ValueError(f"weights {tuple(weights.weight.shape)}: give ({n_outputs}, {dim})")
    if x.stride(1) != 1:
        raise ValueError("features of a row are not adjacent: call .contiguous() first")
    if any(part.device != x.device for part in weights[:3]):
        raise ValueError(f"rows are on {x.device}, weights on {weights.weight.device}")

    out = torch.empty((n_rows, n_outputs), dtype=x.dtype, device=x.device)
    if n_rows:
        capability, processors = (8, 0), 1
        if x.is_cuda:
            capability = torch.cuda.get_device_capability(x.device)
            processors = torch.cuda.get_device_properties(x.device).multi_processor_count
        constants = plan_norm_linear(dim=dim, capability=capability)
        rows = constants["ROWS"]
        span = outputs_a_program(
            n_rows=n_rows,
            n_outputs=n_outputs,
            rows=rows,
            columns=constants["COLUMNS"],
            processors=processors,
        )
        norm_linear_kernel[(triton.cdiv(n_rows, rows), triton.cdiv(n_outputs, span))](
            x,
            weights.weight,
            weights.slope,
            weights.bias,
            out,
            x.stride(0),
            n_rows,
            n_outputs,
            span,
            weights.epsilon,
            GELU=gelu,
            **constants,
        )
    return out
