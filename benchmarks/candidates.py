"""The networks that are compared: timm's plain model run by others, and ours run by our engines.

All take the same tiles, (N, 1, E, E) float32 on the device, and give features (N, D): what an
engine has to do to the tiles first is part of its time. Each has weights of its own, so that none
changes another's.
"""

from __future__ import annotations

import copy
import io
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from unidino_fast.benchmarks.roofline import DTYPES
from unidino_fast.engines.choose import build_engine
from unidino_fast.engines.eager import autocast
from unidino_fast.engines.graph import InferenceGraph, patches_of, standardized
from unidino_fast.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from unidino_fast.backbones import Backbone
    from unidino_fast.choices import EngineName, Precision

    Network = Callable[[Tensor], Tensor]
    Builder = Callable[["Setting"], Network]

OURS = "unidino_fast"
BASELINE = "timm eager"
_STREAM_TILES = 2
"""Tiles that a core takes at a time, as in our ONNX engine."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a candidate is built for."""

    backbone: Backbone
    device: torch.device
    precision: Precision
    batch: int

    @property
    def step(self) -> int | None:
        """Tiles in a call of our networks: on CUDA batches are measured to choose it by."""
        return self.batch if self.device.type == "cuda" else None


class PlainModel(nn.Module):
    """timm's model as it is, and before it what the weights want done to a tile."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.vit = copy.deepcopy(backbone.module)
        self.per_tile = backbone.input_norm == "per_tile"
        self.eval()

    def forward(self, tiles: Tensor) -> Tensor:
        """(N, 1, E, E) -> (N, D)."""
        features: Tensor = self.vit(standardized(tiles) if self.per_tile else tiles)
        return features


def builders(setting: Setting, engines: Sequence[EngineName]) -> dict[str, Builder]:
    """Everything that can be compared in this setting, the baseline first.

    Reduced precision is autocast, as people run timm; on CUDA the compiled model stands there with
    its weights cast beforehand too, which is faster. Nobody else runs fp8 here: our engines in it
    stand beside the same ones in bf16.
    """
    if setting.precision == "fp8":
        return _fp8_builders(setting, engines)
    found: dict[str, Builder] = {BASELINE: timm_eager}
    for name in engines:
        found[f"{OURS} {name}"] = partial(own_engine, name=name)
    found["torch.compile(timm)"] = timm_compiled
    if setting.precision != "fp32" and setting.device.type == "cuda":
        found["torch.compile(timm), cast weights"] = timm_compiled_cast
    if setting.precision == "fp32" and setting.device.type == "cpu":
        found["onnxruntime of timm"] = timm_onnxruntime
        found["OpenVINO of timm"] = timm_openvino
        if setting.batch >= 2 * _STREAM_TILES:
            found["OpenVINO of timm, streams"] = timm_openvino_streams
    return found


def _fp8_builders(setting: Setting, engines: Sequence[EngineName]) -> dict[str, Builder]:
    plain = replace(setting, precision="bf16")
    found: dict[str, Builder] = {}
    for name in engines:
        found[f"{OURS} {name}"] = partial(own_engine, name=name)
        found[f"{OURS} {name}, bf16"] = partial(_engine_of, plain, name)
    return found


def timm_eager(setting: Setting) -> Network:
    """The plain model, operation by operation."""
    model = PlainModel(setting.backbone).to(setting.device)
    return _guarded(model, setting)


def timm_compiled(setting: Setting) -> Network:
    """The plain model through torch.compile, with the options that our engine has."""
    model = PlainModel(setting.backbone).to(setting.device)
    return _guarded(_compiled(model, setting.device), setting)


def timm_compiled_cast(setting: Setting) -> Network:
    """The plain model with its weights in reduced precision, through torch.compile."""
    dtype = DTYPES[setting.precision]
    model = PlainModel(setting.backbone).to(setting.device, dtype)
    compiled = _compiled(model, setting.device)

    def run(tiles: Tensor) -> Tensor:
        with torch.no_grad():
            features: Tensor = compiled(tiles.to(dtype))
        return features

    return run


def timm_onnxruntime(setting: Setting) -> Network:
    """The plain model, exported by torch, in onnxruntime, with as many threads as torch has."""
    runtime: Any = _imported("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = runtime.InferenceSession(
        plain_onnx(setting), options, providers=["CPUExecutionProvider"]
    )
    return lambda tiles: torch.from_numpy(session.run(None, {"tiles": tiles.numpy()})[0])


def timm_openvino(setting: Setting) -> Network:
    """The same export in OpenVINO, all cores on one batch, in float32 (it would take bf16)."""
    request = _openvino(setting, setting.batch, "LATENCY").create_infer_request()
    return lambda tiles: torch.from_numpy(request.infer([tiles.numpy()])[0])


def timm_openvino_streams(setting: Setting) -> Network:
    """The same, in the mode that OpenVINO advises for throughput: cores on tiles of their own."""
    openvino: Any = _imported("openvino")
    queue = openvino.AsyncInferQueue(_openvino(setting, _STREAM_TILES, "THROUGHPUT"))

    def keep(request: Any, place: tuple[Tensor, int]) -> None:
        features, start = place
        features[start : start + _STREAM_TILES] = torch.from_numpy(request.get_output_tensor().data)

    queue.set_callback(keep)

    def run(tiles: Tensor) -> Tensor:
        features = torch.empty(len(tiles), setting.backbone.dim)
        for start in range(0, len(tiles), _STREAM_TILES):
            part = tiles[start : start + _STREAM_TILES].numpy()
            queue.start_async([part], (features, start))
        queue.wait_all()
        return features

    return run


def _openvino(setting: Setting, batch: int, hint: str) -> Any:
    openvino: Any = _imported("openvino")
    core = openvino.Core()
    options = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": hint,
    }
    content = io.BytesIO(plain_onnx(replace(setting, batch=batch)))
    return core.compile_model(core.read_model(content), "CPU", options)


def own_engine(setting: Setting, *, name: EngineName) -> Network:
    """One of our engines."""
    graph = InferenceGraph(copied(setting.backbone)).eval()
    engine = build_engine(name, graph, setting.device, setting.precision, step=setting.step)
    patch = setting.backbone.patch_size
    return lambda tiles: engine(patches_of(tiles[:, 0], patch))


def _engine_of(setting: Setting, name: EngineName, _: Setting) -> Network:
    """One of our engines in a setting of its own."""
    return own_engine(setting, name=name)


def copied(backbone: Backbone) -> Backbone:
    """A backbone with weights of its own."""
    return copy.deepcopy(backbone)


def plain_onnx(setting: Setting) -> bytes:
    """An ONNX file of the plain model, by torch's own export, for this batch."""
    _imported("onnx")
    _imported("onnxscript")
    edge = setting.backbone.image_size
    program: Any = torch.onnx.export(
        PlainModel(setting.backbone),
        (torch.zeros(setting.batch, 1, edge, edge),),
        input_names=["tiles"],
        dynamo=True,
        verbose=False,
    )
    content: bytes = program.model_proto.SerializeToString()
    return content


def _compiled(model: nn.Module, device: torch.device) -> Any:
    options: dict[str, Any] = (
        {"triton.cudagraphs": True} if device.type == "cuda" else {"freezing": True}
    )
    return torch.compile(model, dynamic=False, fullgraph=True, options=options)


def _guarded(model: Any, setting: Setting) -> Network:
    """Without gradients, in the setting's precision. Freezing does not work in inference mode."""

    def run(tiles: Tensor) -> Tensor:
        with torch.no_grad(), autocast(setting.device, setting.precision):
            features: Tensor = model(tiles)
        return features

    return run


def _imported(package: str) -> Any:
    from importlib import import_module

    try:
        return import_module(package)
    except ImportError as error:
        raise UsageError(f"{package} is not installed") from error
