"""The inference graph as an ONNX model, written out operator by operator.

The graph is small and known, so it is not traced: writing it takes a fraction of a second instead
of ten, gives the same bytes every time, and leaves any batch size open. Only operators of the ONNX
standard stand in it, in the shapes that ONNX Runtime and TensorRT fuse. The numbers are those of
`InferenceGraph`; the tests hold the two together. Letters: N tiles, T tokens, S of them
before the patches (class token, registers), D features, H heads, P patch edge.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import torch

from unidino_fast._version import __version__
from unidino_fast.engines.graph import STANDARDIZE_EPSILON
from unidino_fast.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from unidino_fast.choices import Precision
    from unidino_fast.engines.graph import InferenceGraph

INPUT_NAME = "patches"
OUTPUT_NAME = "features"
OPSET = 20
"""The first with Gelu."""
_IR_VERSION = 10
_LIMIT_BYTES = 2**31 - 2**20
"""What one protobuf message holds, less room for the graph itself."""
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def onnx_model(
    graph: InferenceGraph, precision: Precision = "fp32", metadata: Mapping[str, str] | None = None
) -> bytes:
    """Writes a graph as one ONNX file, weights inside.

    The model has one input, `patches` (N, T - S, P * P) float32, and one output, `features` (N, D)
    float32, for any N. In bf16 and fp16 the weights and everything between are of that type, but
    for the standardisation of tiles, the sums of the layer norms and the whole last norm.

    Args:
        graph: what to write.
        precision: type of the weights and of the arithmetic; not fp8.
        metadata: goes into the model's `metadata_props`, in this order.

    Returns:
        The file's bytes; equal arguments give equal bytes.

    Raises:
        UsageError: fp8, the package onnx is not installed, the weights exceed the 2 GB of an ONNX
            file, or a weight is out of the range of fp16.
    """
    if precision not in _DTYPES:
        raise UsageError(
            f"{precision} is not written to ONNX files: use --precision bf16, or --engine compile"
        )
    onnx = imported("onnx")
    dtype = _DTYPES[precision]
    n_bytes = sum(weight.numel() for weight in graph.parameters()) * dtype.itemsize
    if n_bytes > _LIMIT_BYTES:
        raise UsageError(
            f"weights of {n_bytes / 1e9:.1f} GB do not fit in an ONNX file, which holds 2 GB:"
            " use --precision bf16 or --engine compile"
        )
    writer = _Writer(onnx, dtype)
    _write_graph(writer, graph)
    tokens, width = graph.positions.shape[1], graph.patch_weight.shape[1]
    describe = onnx.helper.make_tensor_value_info
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            writer.nodes,
            "unidino_fast",
            [describe(INPUT_NAME, onnx.TensorProto.FLOAT, ["N", tokens, width])],
            [describe(OUTPUT_NAME, onnx.TensorProto.FLOAT, ["N", graph.dim])],
            writer.constants,
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="unidino_fast",
        producer_version=__version__,
    )
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=key, value=value)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def imported(package: str) -> Any:
    """Imports an ONNX package.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UsageError(
            f"{package} is not installed: pip install {package}, or use --engine compile"
        ) from error


class _Writer:
    """Collects nodes and constants; each method gives the name of what it adds."""

    def __init__(self, onnx: Any, dtype: torch.dtype) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.dtype = dtype
        self._onnx = onnx
        self._types = {
            torch.float32: onnx.TensorProto.FLOAT,
            torch.bfloat16: onnx.TensorProto.BFLOAT16,
            torch.float16: onnx.TensorProto.FLOAT16,
            torch.int64: onnx.TensorProto.INT64,
        }
        self._integers: dict[tuple[int, ...], str] = {}

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Adds an operator with one output."""
        name = f"{operator}_{len(self.nodes)}"
        node = self._onnx.helper.make_node(operator, list(inputs), [name], name=name, **attributes)
        self.nodes.append(node)
        return name

    def weight(self, name: str, tensor: Tensor, dtype: torch.dtype | None = None) -> str:
        """Adds a tensor, in the model's dtype or another."""
        values = tensor.detach().cpu().to(dtype or self.dtype).contiguous()
        if values.dtype is torch.float16 and not bool(torch.isfinite(values).all()):
            raise UsageError(f"{name} exceeds the range of fp16 (65504): use --precision bf16")
        content = values.reshape(-1).view(torch.uint8).numpy().tobytes()
        self.constants.append(
            self._onnx.helper.make_tensor(
                name, self._types[values.dtype], values.shape, content, raw=True
            )
        )
        return name

    def integers(self, *values: int) -> str:
        """A vector of integers: a shape, axes or bounds; each is stored once."""
        if values not in self._integers:
            name = "integers_" + "_".join(map(str, values))
            self._integers[values] = self.weight(name, torch.tensor(values), torch.int64)
        return self._integers[values]

    def cast(self, x: str, dtype: torch.dtype) -> str:
        """`x` in another dtype."""
        return self.node("Cast", x, to=self._types[dtype])

    def linear(self, x: str, name: str, weight: Tensor, bias: Tensor | None) -> str:
        """`x @ weight.T + bias`."""
        y = self.node("MatMul", x, self.weight(f"{name}.weight", weight.T))
        return y if bias is None else self.node("Add", y, self.weight(f"{name}.bias", bias))

    def layer_norm(self, x: str, name: str, norm: nn.Module, dtype: torch.dtype) -> str:
        """`norm(x)` for `x` of this dtype."""
        scale, bias = (
            self.weight(f"{name}.{part}", getattr(norm, part), dtype) for part in ("weight", "bias")
        )
        return self.node("LayerNormalization", x, scale, bias, axis=-1, epsilon=norm.eps)

    def first_token(self, x: str) -> str:
        """(N, T, D) -> (N, 1, D)."""
        return self.node("Slice", x, self.integers(0), self.integers(1), self.integers(1))


def _write_graph(writer: _Writer, graph: InferenceGraph) -> None:
    """`InferenceGraph.forward`."""
    blocks: Any = graph.blocks
    patches = _standardized(writer, INPUT_NAME) if graph.standardize else INPUT_NAME
    if writer.dtype is not torch.float32:
        patches = writer.cast(patches, writer.dtype)
    x = _embedded(writer, graph, patches)  # (N, T, D)
    last = len(blocks) - 1
    for index, block in enumerate(blocks):
        name = f"blocks.{index}"
        normed = writer.layer_norm(x, f"{name}.norm1", block.norm1, writer.dtype)
        if index == last:  # nothing but the class token reaches the output
            x = writer.first_token(x)  # (N, 1, D)
            mixed = _class_attention(writer, graph, block.attn, f"{name}.attn", normed)
        else:
            mixed = _attention(writer, graph, block.attn, f"{name}.attn", normed)
        x = writer.node("Add", x, mixed)
        normed = writer.layer_norm(x, f"{name}.norm2", block.norm2, writer.dtype)
        x = writer.node("Add", x, _mlp(writer, block.mlp, f"{name}.mlp", normed))
    if writer.dtype is not torch.float32:
        x = writer.cast(x, torch.float32)
    x = writer.layer_norm(x, "norm", graph.norm, torch.float32)
    writer.node("Squeeze", x, writer.integers(1))
    writer.nodes[-1].output[0] = OUTPUT_NAME


def _standardized(writer: _Writer, x: str) -> str:
    """Each tile to zero mean and unit variance, in float32.

    The tile's first pixel is subtracted beforehand: a plain sum misses the mean of a constant tile
    by a rounding error, which the division would blow up to ones.
    """
    axes = writer.integers(1, 2)
    first = writer.node("Slice", x, writer.integers(0, 0), writer.integers(1, 1), axes)
    shifted = writer.node("Sub", x, first)
    centred = writer.node("Sub", shifted, writer.node("ReduceMean", shifted, axes, keepdims=1))
    variance = writer.node("ReduceMean", writer.node("Mul", centred, centred), axes, keepdims=1)
    epsilon = writer.weight("epsilon", torch.tensor(STANDARDIZE_EPSILON), torch.float32)
    return writer.node("Div", centred, writer.node("Sqrt", writer.node("Add", variance, epsilon)))


def _embedded(writer: _Writer, graph: InferenceGraph, patches: str) -> str:
    """Patches (N, T - S, P * P) -> tokens (N, T, D), class token and registers before the others.

    Their rows are made by padding, so that no shape is computed when the model runs; the bias goes
    with the positions.
    """
    tokens = writer.linear(patches, "patch_embed", graph.patch_weight, None)
    padded = writer.node("Pad", tokens, writer.integers(0, graph.prefix.shape[1], 0, 0, 0, 0))
    positions = graph.positions
    if graph.patch_bias is not None:
        positions = positions + graph.patch_bias
    start = torch.cat([graph.prefix, positions], dim=1)  # (1, T, D)
    return writer.node("Add", padded, writer.weight("positions", start))


def _attention(writer: _Writer, graph: InferenceGraph, attention: Any, name: str, x: str) -> str:
    """Self-attention of (N, T, D)."""
    n_tokens, dim = graph.n_tokens, graph.dim
    width = dim // graph.heads
    weights = dict(zip("qkv", attention.qkv.weight.chunk(3), strict=True))
    biases = dict(zip("qkv", _biases(attention), strict=True))
    weights["q"], biases["q"] = _scaled(weights["q"], biases["q"], width)
    heads = {}
    for part in "qkv":
        y = writer.linear(x, f"{name}.{part}", weights[part], biases[part])
        y = writer.node("Reshape", y, writer.integers(0, n_tokens, graph.heads, width))
        order = [0, 2, 3, 1] if part == "k" else [0, 2, 1, 3]
        heads[part] = writer.node("Transpose", y, perm=order)
    shares = writer.node("Softmax", writer.node("MatMul", heads["q"], heads["k"]), axis=-1)
    mixed = writer.node("MatMul", shares, heads["v"])  # (N, H, T, D / H)
    merged = writer.node("Transpose", mixed, perm=[0, 2, 1, 3])
    merged = writer.node("Reshape", merged, writer.integers(0, n_tokens, dim))
    return writer.linear(merged, f"{name}.proj", attention.proj.weight, attention.proj.bias)


def _class_attention(
    writer: _Writer, graph: InferenceGraph, attention: Any, name: str, x: str
) -> str:
    """Attention of the class token alone: (N, T, D) -> (N, 1, D); as in `InferenceGraph`."""
    heads, dim = graph.heads, graph.dim
    query, key, value = attention.qkv.weight.chunk(3)
    query_bias, _, value_bias = _biases(attention)
    query, query_bias = _scaled(query, query_bias, dim // heads)
    q = writer.linear(writer.first_token(x), f"{name}.q", query, query_bias)
    q = writer.node("Reshape", q, writer.integers(0, heads, 1, dim // heads))
    key = writer.weight(f"{name}.k.weight", key.unflatten(0, (heads, -1)))  # (H, D / H, D)
    asked = writer.node("Reshape", writer.node("MatMul", q, key), writer.integers(0, heads, dim))
    scores = writer.node("MatMul", asked, writer.node("Transpose", x, perm=[0, 2, 1]))
    shares = writer.node("Softmax", scores, axis=-1)  # (N, H, T)
    seen = writer.node("MatMul", shares, x)  # (N, H, D)
    seen = writer.node("Reshape", seen, writer.integers(0, heads, 1, dim))
    value = writer.weight(f"{name}.v.weight", value.unflatten(0, (heads, -1)).transpose(1, 2))
    mixed = writer.node("MatMul", seen, value)  # (N, H, 1, D / H)
    mixed = writer.node("Reshape", mixed, writer.integers(0, 1, dim))
    if value_bias is not None:
        mixed = writer.node("Add", mixed, writer.weight(f"{name}.v.bias", value_bias))
    return writer.linear(mixed, f"{name}.proj", attention.proj.weight, attention.proj.bias)


def _biases(attention: Any) -> tuple[Tensor | None, ...]:
    """Biases of queries, keys and values."""
    bias = attention.qkv.bias
    return (None, None, None) if bias is None else bias.chunk(3)


def _scaled(weight: Tensor, bias: Tensor | None, width: int) -> tuple[Tensor, Tensor | None]:
    """Query weights that give scores over sqrt(width): exact in any precision for heads 64 wide."""
    scale = width**-0.5
    return weight * scale, None if bias is None else bias * scale


def _mlp(writer: _Writer, mlp: Any, name: str, x: str) -> str:
    hidden = writer.linear(x, f"{name}.fc1", mlp.fc1.weight, mlp.fc1.bias)
    active = writer.node("Gelu", hidden)  # by the error function, as torch's
    return writer.linear(active, f"{name}.fc2", mlp.fc2.weight, mlp.fc2.bias)
