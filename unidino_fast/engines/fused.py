"""The graph in few passes over memory, replayed as one CUDA graph: half precision, CUDA.

Between two large products nothing happens but one kernel that adds a branch and takes the norm. The
products are cuBLAS's: with their bias, and fc1 with GELU too, in its tanh form, which is the one
that cuBLAS has. It differs from the exact form by at most 5e-4 and moves embeddings by a tenth to
a fortieth of what half precision does anyhow. The sums of residuals are float16: half the bytes of
float32 and eight times as fine as bfloat16. Nothing is tuned or compiled but that one kernel, so
the engine is ready at once. Letters as in `graph`; M = N * T rows.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import functional

from unidino_fast import ops
from unidino_fast.engines.eager import AUTOCAST_DTYPES
from unidino_fast.engines.graph import standardized
from unidino_fast.engines.steps import in_steps
from unidino_fast.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from unidino_fast.choices import Precision
    from unidino_fast.engines.graph import InferenceGraph

PRECISIONS = ("bf16", "fp16")
_HEADS_TOGETHER = 8
"""Queries a tile in the last block: products of a multiple of 8 columns are the fast ones."""


class FusedEngine:
    """Runs the fused network.

    Args:
        graph: patches (N, tokens, P * P) -> (N, D).
        device: a CUDA device.
        precision: `bf16` or `fp16`.
        step: tiles in a call of the network.
    """

    name = "fused"

    def __init__(
        self, graph: InferenceGraph, device: torch.device, precision: Precision, *, step: int
    ) -> None:
        check_available(device, precision)
        self.step = step
        self._device = device
        self._network = FusedNetwork(
            graph.to(device), AUTOCAST_DTYPES[precision], stream=torch.float16
        )
        self._replay: torch.cuda.CUDAGraph | None = None
        self._input = self._output = torch.empty(0)

    def __call__(self, patches: Tensor) -> Tensor:
        """Embeds patches (N, tokens, P * P) on the engine's device; (N, D) float32 there."""
        with torch.inference_mode(), torch.cuda.device(self._device):
            return in_steps(self._run, patches, self.step, self._network.dim)

    def _run(self, patches: Tensor) -> Tensor:
        if self._replay is None:
            self._replay = self._captured(patches)
        self._input.copy_(patches)
        self._replay.replay()
        return self._output

    def _captured(self, patches: Tensor) -> torch.cuda.CUDAGraph:
        self._input = patches.to(self._network.patch_dtype, copy=True)
        side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):  # what libraries and Triton do at a first call
            self._network(self._input)
        torch.cuda.current_stream(self._device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # other threads go on making pinned memory meanwhile
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._output = self._network(self._input)
        return graph


class Product(NamedTuple):
    """A linear layer as cuBLAS takes it: weight (inputs, outputs), bias (outputs,)."""

    weight: Tensor
    bias: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        """(M, inputs) -> (M, outputs)."""
        return torch.addmm(self.bias, rows, self.weight)

    def gelu(self, rows: Tensor) -> Tensor:
        """The same and GELU of it: on CUDA in its tanh form, on the CPU the exact one."""
        return torch._addmm_activation(self.bias, rows, self.weight, use_gelu=True)


class Norm(NamedTuple):
    """A layer norm: weight and bias (D,) float32."""

    weight: Tensor
    bias: Tensor
    epsilon: float


class Layer(NamedTuple):
    """What a block does besides attention."""

    norm1: Norm
    qkv: Product
    proj: Product
    norm2: Norm
    fc1: Product
    fc2: Product


class FusedNetwork:
    """The network of an `InferenceGraph`, with weights of its own in one dtype.

    Args:
        graph: on the device where it shall run.
        dtype: of products.
        stream: dtype of the sums of residuals.

    Attributes:
        dim: D.
        patch_dtype: what patches should have: float32 where they are standardised first.
    """

    def __init__(self, graph: InferenceGraph, dtype: torch.dtype, *, stream: torch.dtype) -> None:
        self.dim = graph.dim
        self.patch_dtype = torch.float32 if graph.standardize else dtype
        self._dtype = dtype
        self._heads = graph.heads
        self._standardize = graph.standardize
        self._layers = [_layer(block, dtype) for block in graph.blocks]
        self._norm = _norm(graph.norm)
        self._patch_weight = graph.patch_weight.detach().to(dtype).T
        self._start = _start(graph, stream)  # (T, D)
        self._last = ClassAttention(self._layers[-1].qkv, graph.heads)

    def __call__(self, patches: Tensor) -> Tensor:
        """Embeds tiles.

        Args:
            patches: (N, T - S, P * P) intensities in [0, 1], patches along rows.

        Returns:
            (N, D) float32.
        """
        layers = self._layers
        n, tokens = len(patches), len(self._start)
        stream = self._start.repeat(n, 1)  # (M, D)
        normed = _added(stream, self._tokens_of(patches), layers[0].norm1)
        for layer, following in pairwise(layers):
            mixed = self._attention(layer.qkv(normed), n)
            normed = _added(stream, layer.proj(mixed), layer.norm2)
            normed = _added(stream, layer.fc2(layer.fc1.gelu(normed)), following.norm1)
        last = layers[-1]
        y = stream.view(n, tokens, -1)[:, 0].to(torch.float32)  # a copy: (N, D)
        mixed = self._last(normed.view(n, tokens, -1))
        normed = _added(y, last.proj(mixed), last.norm2)
        return _added(y, last.fc2(last.fc1.gelu(normed)).to(torch.float32), self._norm)

    def _tokens_of(self, patches: Tensor) -> Tensor:
        """Products of patches (N, T - S, P * P) at their places, zeros for the others; (M, D)."""
        if self._standardize:
            patches = standardized(patches)
        n, n_patches, _ = patches.shape
        tokens = torch.empty(
            n, len(self._start), self.dim, dtype=self._dtype, device=patches.device
        )
        first = len(self._start) - n_patches
        tokens[:, :first] = 0
        weight = self._patch_weight.expand(n, -1, -1)
        torch.bmm(patches.to(self._dtype), weight, out=tokens[:, first:])
        return tokens.flatten(0, 1)

    def _attention(self, qkv: Tensor, n: int) -> Tensor:
        """Packed queries, keys and values (M, 3 D) -> (M, D)."""
        packed = qkv.view(n, -1, 3, self._heads, self.dim // self._heads)
        q, k, v = packed.permute(2, 0, 3, 1, 4).unbind(0)  # (N, H, T, D / H) each
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return mixed.transpose(1, 2).reshape(-1, self.dim)


class ClassAttention:
    """`InferenceGraph._class_attention` up to its projection, for tokens (N, T, D) -> (N, D)."""

    def __init__(self, qkv: Product, heads: int) -> None:
        dim = qkv.weight.shape[0]
        query, key, value = qkv.weight.T.view(3, heads, -1, dim)  # (H, D / H, D) each
        bias_query, _, self._bias = qkv.bias.chunk(3)
        scale = (dim // heads) ** -0.5
        self._query = Product((query.flatten(0, 1) * scale).T, bias_query * scale)
        self._key, self._value = key, value.transpose(1, 2)
        self._padded = -(-heads // _HEADS_TOGETHER) * _HEADS_TOGETHER

    def __call__(self, x: Tensor) -> Tensor:
        """(N, T, D) -> (N, D)."""
        n, _, dim = x.shape
        heads = len(self._key)
        q = self._query(x[:, 0]).view(n, heads, -1).transpose(0, 1)
        asked = x.new_zeros(n, self._padded, dim)
        asked[:, :heads] = torch.bmm(q, self._key).transpose(0, 1)
        scores = torch.bmm(x, asked.transpose(1, 2))  # (N, T, H and more)
        shares = scores.softmax(dim=1, dtype=torch.float32).to(x.dtype)
        seen = torch.bmm(shares.transpose(1, 2), x)[:, :heads].transpose(0, 1)  # (H, N, D)
        return torch.bmm(seen, self._value).transpose(0, 1).reshape(n, dim) + self._bias


def check_available(device: torch.device, precision: Precision) -> None:
    """Raises UsageError where the engine does not run."""
    if device.type != "cuda" or precision not in PRECISIONS:
        raise UsageError(
            f"engine fused computes in bf16 and fp16 on CUDA, not in {precision} on {device.type}:"
            " use --engine auto"
        )


def _added(stream: Tensor, branch: Tensor, norm: Norm) -> Tensor:
    return ops.add_norm(stream, branch, *norm)


def _start(graph: InferenceGraph, dtype: torch.dtype) -> Tensor:
    """What the stream is before patches are added: prefix, positions and the patches' bias."""
    shift = 0 if graph.patch_bias is None else graph.patch_bias.detach()
    return torch.cat([graph.prefix, graph.positions + shift], dim=1)[0].to(dtype)


def _layer(block: Any, dtype: torch.dtype) -> Layer:
    attention, mlp = block.attn, block.mlp
    return Layer(
        _norm(block.norm1),
        _product(attention.qkv, dtype),
        _product(attention.proj, dtype),
        _norm(block.norm2),
        _product(mlp.fc1, dtype),
        _product(mlp.fc2, dtype),
    )


def _product(linear: nn.Linear, dtype: torch.dtype) -> Product:
    weight = linear.weight.detach().to(dtype)
    bias = weight.new_zeros(len(weight)) if linear.bias is None else linear.bias.detach().to(dtype)
    return Product(weight.T, bias)


def _norm(norm: Any) -> Norm:
    weight, bias = (one.detach().to(torch.float32) for one in (norm.weight, norm.bias))
    return Norm(weight.contiguous(), bias.contiguous(), norm.eps)
