"""Weights as a file for other runtimes: an ONNX model or a TensorRT engine, and a manifest."""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from unidino_fast._version import __version__
from unidino_fast.backbones import Backbone, open_backbone
from unidino_fast.choices import Precision, PrecisionName
from unidino_fast.engines.graph import InferenceGraph
from unidino_fast.engines.onnx_export import INPUT_NAME, OPSET, OUTPUT_NAME, onnx_model
from unidino_fast.engines.tensorrt import build_plan, check_gpu
from unidino_fast.engines.tensorrt_library import load_tensorrt
from unidino_fast.errors import OutputError, UsageError
from unidino_fast.files import atomic, write_json

if TYPE_CHECKING:
    import os

ExportFormat = Literal["onnx", "tensorrt"]

FORMATS = get_args(ExportFormat)
PRECISIONS = tuple(name for name in get_args(PrecisionName) if name != "fp8")
BATCH_SIZE = 256
"""Tiles in a batch of a TensorRT engine, unless said otherwise."""
_AUTO: dict[str, Precision] = {"onnx": "fp32", "tensorrt": "bf16"}
_LIBRARIES = ("torch", "timm", "onnx")


def export_backbone(
    weights: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    to: ExportFormat,
    precision: PrecisionName = "auto",
    tile: int | None = None,
    batch_size: int | None = None,
) -> dict[str, Any]:
    """Writes weights as one file, and what is in it as `OUT.json`; replaces what is there.

    An ONNX model takes any batch size. A TensorRT engine takes 1 to `batch_size` tiles, and runs
    with the TensorRT version that built it alone: built by `tensorrt`, on this machine's kind of
    GPU; built by TensorRT for RTX where there is no GPU, on any RTX card from Ampere on.

    Args:
        weights: whatever `load_backbone` takes.
        out: the file.
        to: `onnx` or `tensorrt`.
        precision: of weights and arithmetic; fp32 for ONNX and bf16 for TensorRT by default.
        tile: tile edge in pixels; the size that the weights were trained at by default.
        batch_size: largest batch of a TensorRT engine, 256 by default.

    Returns:
        The manifest.

    Raises:
        UsageError: an option is not available, or its packages are not installed.
        WeightsError: the weights cannot be loaded.
        EngineError: TensorRT cannot build the engine.
        OutputError: the files cannot be written.
    """
    out = Path(out)
    too_small = batch_size is not None and batch_size < 1
    if to not in FORMATS or precision not in PRECISIONS or too_small:
        raise UsageError(
            f"export to {to!r}, precision {precision!r}, batch size {batch_size}: use"
            f" {' or '.join(FORMATS)}, {', '.join(PRECISIONS)}, and 1 or more"
        )
    if to == "onnx" and batch_size is not None:
        raise UsageError(
            f"batch size {batch_size} has no meaning for ONNX, which leaves it open: omit it"
        )
    if out.is_dir() or not out.parent.is_dir():
        raise OutputError(f"{out} cannot be written: name a file in a folder that exists as --out")
    backbone = open_backbone(weights)
    if backbone.in_chans != 1:
        raise UsageError(
            f"weights {backbone.name} read {backbone.in_chans} channels at once: use weights with"
            " 1 or 3 input channels"
        )
    if tile is not None:
        backbone = backbone.with_tile(tile)
    kind = _AUTO[to] if precision == "auto" else precision
    manifest = _manifest(backbone, to, kind)
    model = onnx_model(InferenceGraph(backbone).eval(), kind, _metadata(backbone, kind))
    content: bytes | memoryview = model
    if to == "tensorrt":
        content, engine = _engine(model, batch_size or BATCH_SIZE)
        manifest["engine"] = engine
    manifest["sha256"] = hashlib.sha256(content).hexdigest()
    with atomic(out) as temporary:
        temporary.write_bytes(content)
    write_json(manifest, out.with_name(f"{out.name}.json"))
    return manifest


def _engine(model: bytes, batch_size: int) -> tuple[memoryview, dict[str, Any]]:
    """A TensorRT engine for the GPU at hand or, with TensorRT for RTX and without one, for any."""
    has_gpu = torch.cuda.is_available()
    library = load_tensorrt(without_gpu=not has_gpu)
    gpu = None
    if has_gpu:
        gpu = torch.cuda.get_device_name()
        check_gpu(library, gpu, torch.cuda.get_device_capability())
    elif library.flavour == "tensorrt":
        raise UsageError(
            "TensorRT builds engines on the GPU that runs them, and there is none here: export on"
            " such a machine, or pip install 'unidino_fast[tensorrt-rtx]' for RTX cards"
        )
    capability = torch.cuda.get_device_capability() if has_gpu else None
    plan = build_plan(library, model, batch_size=batch_size, capability=capability)
    return plan, {
        "builder": library.flavour,
        "version": library.version,
        "gpu": gpu or "any RTX card from Ampere on",
        "batch_size": {"least": 1, "largest": batch_size},
    }


def _manifest(backbone: Backbone, to: ExportFormat, precision: Precision) -> dict[str, Any]:
    """What a reader of the file has to know; the same for equal arguments and versions."""
    patch = backbone.patch_size
    tokens = (backbone.image_size // patch) ** 2
    return {
        "format": to,
        "weights": {
            "name": backbone.name,
            "digest": backbone.digest,
            "family": backbone.family,
            "licence": backbone.licence,
        },
        "tile": backbone.image_size,
        "patch": patch,
        "precision": precision,
        "input_norm": f"{backbone.input_norm} (inside the file)",
        "input": {
            "name": INPUT_NAME,
            "shape": ["N", tokens, patch * patch],
            "dtype": "float32",
            "layout": _LAYOUT,
        },
        "output": {"name": OUTPUT_NAME, "shape": ["N", backbone.dim], "dtype": "float32"},
        "opset": OPSET,
        "software": {"unidino_fast": __version__, **_versions()},
    }


_LAYOUT = (
    "intensities in [0, 1]; patches row by row from the tile's top left, the pixels of each patch"
    " row by row: tile.reshape(g, p, g, p).transpose(0, 2, 1, 3).reshape(g * g, p * p)"
)


def _metadata(backbone: Backbone, precision: Precision) -> dict[str, str]:
    """The same for the ONNX file's own metadata, for it may lose its manifest."""
    return {
        "unidino_fast.weights": backbone.name,
        "unidino_fast.weights_digest": backbone.digest,
        "unidino_fast.licence": backbone.licence or "unknown",
        "unidino_fast.tile": str(backbone.image_size),
        "unidino_fast.patch": str(backbone.patch_size),
        "unidino_fast.precision": precision,
        "unidino_fast.input_norm": f"{backbone.input_norm} (inside the model)",
        "unidino_fast.input_layout": _LAYOUT,
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found
