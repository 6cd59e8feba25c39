"""The inference graph with candidate kernels in it: whether they gain in a whole network.

No engine: for `bench model --candidates` and `python -m unidino_fast.benchmarks.gpu`. Letters: N
tiles, T tokens, M rows (tokens of all tiles), D features, F hidden features, H heads.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from unidino_fast import kernels
from unidino_fast.engines.graph import InferenceGraph, standardized
from unidino_fast.errors import UsageError
from unidino_fast.kernels import MlpWeights, NormLinearWeights
from unidino_fast.kernels.attention import HEAD_DIMS
from unidino_fast.kernels.mlp import MAX_DIM as MAX_MLP_DIM
from unidino_fast.kernels.norm_linear import MAX_DIM, STEP

if TYPE_CHECKING:
    from unidino_fast.backbones import Backbone

CANDIDATES = ("norm_linear", "attention", "mlp")


@torch.library.custom_op("unidino_fast::norm_linear", mutates_args=())
def _norm_linear(
    x: Tensor, weight: Tensor, slope: Tensor, bias: Tensor, epsilon: float, gelu: bool
) -> Tensor:
    """The kernel as torch.compile sees it: one step that it leaves alone."""
    return kernels.norm_linear(x, NormLinearWeights(weight, slope, bias, epsilon), gelu=gelu)


@torch.library.custom_op("unidino_fast::attention", mutates_args=())
def _attention(qkv: Tensor, heads: int) -> Tensor:
    """See `_norm_linear`."""
    return kernels.attention(qkv, heads)


@torch.library.custom_op("unidino_fast::mlp", mutates_args=())
def _mlp(
    x: Tensor,
    weight1: Tensor,
    slope: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    epsilon: float,
) -> Tensor:
    """See `_norm_linear`."""
    return kernels.mlp(x, MlpWeights(weight1, slope, bias1, weight2, bias2, epsilon))


@_norm_linear.register_fake
def _(x: Tensor, weight: Tensor, *_: object) -> Tensor:
    return x.new_empty(len(x), len(weight))


@_attention.register_fake
def _(qkv: Tensor, heads: int) -> Tensor:
    return qkv.new_empty(*qkv.shape[:2], qkv.shape[2] // 3)


@_mlp.register_fake
def _(x: Tensor, *_: object) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


class KernelGraph(InferenceGraph):
    """Patches of tiles -> class tokens after the last norm, all in one dtype.

    Engines keep the sums of residuals in float32, which these kernels do not read; so the graph
    without any candidate is what one with them is to be compared with.

    Args:
        backbone: a single-channel backbone; is left as it is.
        dtype: bfloat16 or float16; any without candidates.
        used: of `CANDIDATES`. Where `norm_linear` and `mlp` are both used, the MLP is `mlp`'s.

    Raises:
        UsageError: sizes that a kernel does not take.
    """

    def __init__(self, backbone: Backbone, dtype: torch.dtype, used: tuple[str, ...]) -> None:
        for name in used:
            if lack := unfit(backbone, name):
                raise UsageError(lack)
        own = copy.deepcopy(backbone)
        vit: Any = own.module
        heads = vit.blocks[0].attn.num_heads
        # before anything is cast: scales of norms are folded into weights as they are
        blocks = [_Block(block, heads, dtype, used) for block in vit.blocks[:-1]]
        super().__init__(own)
        self.to(dtype)
        self.blocks = nn.ModuleList([*blocks, self.blocks[-1]])
        self._dtype = dtype
        self._tiles_standardized, self.standardize = self.standardize, False  # in float32, here

    def forward(self, patches: Tensor) -> Tensor:
        """Embeds patches (N, T - 1, P * P) of any float dtype; (N, D) in the graph's."""
        if self._tiles_standardized:
            patches = standardized(patches.float())
        return super().forward(patches.to(self._dtype))

    def _block(self, block: Any, x: Tensor) -> Tensor:
        return block(x)  # type: ignore[no-any-return]


def unfit(backbone: Backbone, name: str) -> str:
    """Why a candidate does not run in a backbone; empty where it does."""
    if name not in CANDIDATES:
        return f"candidate {name!r} is unknown: use {', '.join(CANDIDATES)}"
    vit: Any = backbone.module
    dim, block = backbone.dim, vit.blocks[0]
    head_dim, hidden = dim // block.attn.num_heads, block.mlp.fc1.out_features
    if name == "attention":
        sizes = " or ".join(map(str, HEAD_DIMS))
        fits = head_dim in HEAD_DIMS
        return "" if fits else f"attention takes {sizes} features a head, not {head_dim}"
    most = MAX_MLP_DIM if name == "mlp" else MAX_DIM
    if dim > most or dim % STEP or hidden % STEP:
        return f"{name} takes multiples of {STEP} features up to {most}, not {dim} and {hidden}"
    return ""


def fitting_candidates(backbone: Backbone) -> tuple[str, ...]:
    """The candidates that run in a backbone."""
    return tuple(name for name in CANDIDATES if not unfit(backbone, name))


class _Block(nn.Module):
    """A transformer block, (N, T, D) -> (N, T, D)."""

    def __init__(self, block: Any, heads: int, dtype: torch.dtype, used: tuple[str, ...]) -> None:
        super().__init__()
        self.heads = heads
        self.attends = "attention" in used
        joins = "norm_linear" in used
        self.qkv = _NormLinear(block.norm1, block.attn.qkv, dtype, kernel=joins, gelu=False)
        self.proj = copy.deepcopy(block.attn.proj).to(dtype)
        parts = block.norm2, block.mlp.fc1, block.mlp.fc2
        self.mlp: nn.Module = (
            _KernelMlp(*parts, dtype) if "mlp" in used else _PlainMlp(*parts, dtype, kernel=joins)
        )

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, dim = x.shape
        qkv = self.qkv(x.reshape(-1, dim)).view(n, tokens, -1)
        if self.attends:
            mixed = _attention(qkv, self.heads)
        else:
            q, k, v = qkv.view(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.proj(mixed)
        return self.mlp(x.view(-1, dim)).view(n, tokens, dim)  # type: ignore[no-any-return]


class _NormLinear(nn.Module):
    """Norm, linear layer, and GELU if wanted: (M, D) -> outputs; by the kernel or by torch."""

    def __init__(
        self, norm: Any, linear: Any, dtype: torch.dtype, *, kernel: bool, gelu: bool
    ) -> None:
        super().__init__()
        self.kernel, self.gelu, self.epsilon = kernel, gelu, norm.eps
        if kernel:
            folded = kernels.fold_norm_linear(
                *(norm.weight.detach(), norm.bias.detach(), linear.weight.detach()),
                None if linear.bias is None else linear.bias.detach(),
                epsilon=norm.eps,
                dtype=dtype,
            )
            _keep(self, folded)
        else:
            self.norm, self.linear = (copy.deepcopy(one).to(dtype) for one in (norm, linear))

    def forward(self, rows: Tensor) -> Tensor:
        if self.kernel:
            return _norm_linear(rows, *self.buffers(), self.epsilon, self.gelu)  # type: ignore[no-any-return]
        out: Tensor = self.linear(self.norm(rows))
        return functional.gelu(out) if self.gelu else out


class _PlainMlp(nn.Module):
    """`rows + fc2(gelu(fc1(norm(rows))))`, (M, D), the first three by `norm_linear` or by torch."""

    def __init__(self, norm: Any, fc1: Any, fc2: Any, dtype: torch.dtype, *, kernel: bool) -> None:
        super().__init__()
        self.fc1 = _NormLinear(norm, fc1, dtype, kernel=kernel, gelu=True)
        self.fc2 = copy.deepcopy(fc2).to(dtype)

    def forward(self, rows: Tensor) -> Tensor:
        return rows + self.fc2(self.fc1(rows))  # type: ignore[no-any-return]


class _KernelMlp(nn.Module):
    """The same by `mlp`."""

    def __init__(self, norm: Any, fc1: Any, fc2: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.epsilon = norm.eps
        parts = (*norm.parameters(), *fc1.parameters(), *fc2.parameters())  # weight, then bias
        _keep(
            self,
            kernels.fold_mlp(*(one.detach() for one in parts), epsilon=norm.eps, dtype=dtype),
        )

    def forward(self, rows: Tensor) -> Tensor:
        return _mlp(rows, *self.buffers(), self.epsilon)  # type: ignore[no-any-return]


def _keep(module: nn.Module, folded: NormLinearWeights | MlpWeights) -> None:
    """Tensors of folded weights as buffers, in their order."""
    for name, value in folded._asdict().items():
        if isinstance(value, Tensor):
            module.register_buffer(name, value)
