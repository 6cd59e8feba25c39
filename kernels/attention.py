"""Attention among the tokens of a tile, from packed queries, keys and values. A candidate.

Letters: B tiles, T tokens, H heads, E features of a head, D = H E. Scores and shares never reach
device memory, and nothing is copied into another order. No engine uses this kernel: see
`kernels/README.md`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from torch import Tensor

ATTENTION_DTYPES = (torch.bfloat16, torch.float16)
HEAD_DIMS = (32, 64)
MAX_TOKENS = 1024
"""The code of a kernel grows with them."""
_LEAST_KEYS = 16
"""Least depth of a product on tensor cores."""


def attention_reference(qkv: Tensor, heads: int) -> Tensor:
    """`softmax(q k^T / sqrt(E)) v` of each head in float32, rounded once at the end.

    Args:
        qkv: (B, T, 3 D), any float dtype: queries of all heads, then keys, then values.
        heads: H.

    Returns:
        (B, T, D), heads one after another, the dtype of `qkv`.
    """
    n_tiles, n_tokens, width = qkv.shape
    parts = qkv.float().view(n_tiles, n_tokens, 3, heads, width // 3 // heads)
    q, k, v = parts.permute(2, 0, 3, 1, 4)  # (B, H, T, E) each
    shares = (q @ k.mT * q.shape[-1] ** -0.5).softmax(dim=-1)  # (B, H, T, T)
    mixed: Tensor = (shares @ v).transpose(1, 2).flatten(2)
    return mixed.to(qkv.dtype)


@triton.jit  # type: ignore[untyped-decorator]
def _joined(q, k, v, there, scale, top, total, sums, MASKED: tl.constexpr):  # type: ignore[no-untyped-def]
    """Largest score, sum of shares and sum of values of `QUERIES` queries, with more keys."""
    score = tl.dot(q, tl.trans(k)) * scale  # (QUERIES, keys)
    if MASKED:
        score = tl.where(there, score, float("-inf"))
    higher = tl.maximum(top, tl.max(score, axis=1))
    fade = tl.exp2(top - higher)
    share = tl.exp2(score - higher[:, None])
    total = total * fade + tl.sum(share, axis=1)
    sums = tl.dot(share.to(v.dtype), v, sums * fade[:, None])
    return higher, total, sums


@triton.jit  # type: ignore[untyped-decorator]
def attention_kernel(  # type: ignore[no-untyped-def]
    qkv_ptr,  # (B, T, 3 D), unit stride along the last
    out_ptr,  # (B, T, D), contiguous
    tile_stride,
    token_stride,
    scale,  # of scores, for powers of 2
    TOKENS: tl.constexpr,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,  # at a time
    REST: tl.constexpr,  # first and number of the keys after whole KEYS: powers of two
):
    """One program: QUERIES queries of one head of one tile, against all its keys.

    Softmax is taken while the keys come: with each piece of them, what was summed is scaled to the
    largest score so far.
    """
    BLOCKS: tl.constexpr = (TOKENS + QUERIES - 1) // QUERIES
    DIM: tl.constexpr = HEADS * HEAD_DIM
    head = tl.program_id(0) // BLOCKS % HEADS
    tile = (tl.program_id(0) // BLOCKS // HEADS).to(tl.int64)
    query = tl.program_id(0) % BLOCKS * QUERIES + tl.arange(0, QUERIES)
    inside = (query < TOKENS)[:, None]
    feature = head * HEAD_DIM + tl.arange(0, HEAD_DIM)[None, :]
    source = qkv_ptr + tile * tile_stride + feature
    dtype = out_ptr.dtype.element_ty

    q = tl.load(source + query[:, None].to(tl.int64) * token_stride, mask=inside, other=0.0)
    top = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    sums = tl.zeros((QUERIES, HEAD_DIM), tl.float32)
    for start in tl.range(0, TOKENS // KEYS * KEYS, KEYS):
        key = start + tl.arange(0, KEYS)[:, None]
        place = source + key.to(tl.int64) * token_stride
        k = tl.load(place + DIM)
        v = tl.load(place + 2 * DIM)
        top, total, sums = _joined(q, k, v, True, scale, top, total, sums, MASKED=False)
    for piece in tl.static_range(len(REST)):
        key = REST[piece][0] + tl.arange(0, REST[piece][1])
        there = key < TOKENS
        place = source + key[:, None].to(tl.int64) * token_stride
        k = tl.load(place + DIM, mask=there[:, None], other=0.0)
        v = tl.load(place + 2 * DIM, mask=there[:, None], other=0.0)
        top, total, sums = _joined(q, k, v, there[None, :], scale, top, total, sums, MASKED=True)

    target = out_ptr + (tile * TOKENS + query[:, None]) * DIM + feature
    tl.store(target, (sums / total[:, None]).to(dtype), mask=inside)


def plan_attention(
    *, tokens: int, heads: int, head_dim: int, capability: tuple[int, int]
) -> dict[str, Any]:
    """Compile-time constants of `attention_kernel`.

    Two blocks of keys and values lie in shared memory, one of scores in registers: of shapes that
    spill none, those that let the most threads share a processor; see `kernels/README.md`.

    Args:
        tokens: T.
        heads: H.
        head_dim: E.
        capability: of the GPU. 9.0 and 10.x multiply what lies in shared memory, others what lies
            in registers, which leaves fewer for scores.
    """
    queries, keys, warps = 64, 32, 4
    if capability[0] in (9, 10) and head_dim == 64:
        queries, keys, warps = 128, 64, 8  # half as many programs that read the same keys
    return {
        "TOKENS": tokens,
        "HEADS": heads,
        "HEAD_DIM": head_dim,
        "QUERIES": queries,
        "KEYS": keys,
        "REST": rest_of_keys(tokens, keys),
        "num_warps": warps,
        "num_stages": 2,
    }


def rest_of_keys(tokens: int, keys: int) -> tuple[tuple[int, int], ...]:
    """First and number of the keys after whole blocks of `keys`: powers of two from 16 up."""
    first = tokens // keys * keys
    left = math.ceil((tokens - first) / _LEAST_KEYS) * _LEAST_KEYS
    found = []
    while left:
        number = 2 ** (left.bit_length() - 1)
        found.append((first, number))
        first, left = first + number, left - number
    return tuple(found)


def attention(qkv: Tensor, heads: int) -> Tensor:
    """`attention_reference` in one read of queries and one write; products, sums in float32.

    Keys and values are read once for each 64 or 128 queries, from the L2 cache but for the first
    time. Shares are rounded to the dtype before they are multiplied with values, as torch's own
    kernels do.

    Args:
        qkv: (B, T, 3 D) bfloat16 or float16; features of a token adjacent, else any strides.
        heads: H; D / H is 32 or 64.

    Returns:
        (B, T, D), contiguous.

    Raises:
        TypeError: another dtype.
        ValueError: shapes or strides that do not fit.
    """
    n_tiles, n_tokens, width = qkv.shape
    if qkv.dtype not in ATTENTION_DTYPES:
        raise TypeError(f"no kernel attends in {qkv.dtype}: give bfloat16 or float16")
    if heads < 1 or width % (3 * heads) or width // 3 // heads not in HEAD_DIMS:
        raise ValueError(
            f"{width} features do not fit {heads} heads: give queries, keys and values of"
            f" {' or '.join(map(str, HEAD_DIMS))} features a head"
        )
    if not 0 < n_tokens <= MAX_TOKENS:
        raise ValueError(f"{n_tokens} tokens do not fit the kernel: give 1 to {MAX_TOKENS}")
    if qkv.stride(2) != 1:
        raise ValueError("features of a token are not adjacent: call .contiguous() first")

    head_dim = width // 3 // heads
    out = torch.empty((n_tiles, n_tokens, width // 3), dtype=qkv.dtype, device=qkv.device)
    if n_tiles:
        capability = torch.cuda.get_device_capability(qkv.device) if qkv.is_cuda else (8, 0)
        constants = plan_attention(
            tokens=n_tokens, heads=heads, head_dim=head_dim, capability=capability
        )
        blocks = triton.cdiv(n_tokens, constants["QUERIES"])
        attention_kernel[(n_tiles * heads * blocks,)](
            qkv,
            out,
            qkv.stride(0),
            qkv.stride(1),
            head_dim**-0.5 * math.log2(math.e),
            **constants,
        )
    return out
