"""The package's own weights file: safetensors, with a JSON header in its metadata.

The header lies under the one metadata key `unidino_fast` (one, because safetensors writes several
in no fixed order): format name and version, architecture, input normalisation, where the weights
are from, and a digest that the reader checks.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import safetensors.torch

from unidino_fast.backbones.backbone import state_digest
from unidino_fast.backbones.checkpoint import shown
from unidino_fast.backbones.vit import infer_shape, vit_heads
from unidino_fast.choices import Intensity
from unidino_fast.errors import OutputError, WeightsError, first_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from unidino_fast.backbones.backbone import Backbone, InputNorm

FORMAT = "unidino_fast.backbone"
VERSION = 1
_KEY = "unidino_fast"


@dataclass(frozen=True)
class SavedHeader:
    """What a file of our own says about its weights."""

    heads: int
    input_norm: InputNorm
    digest: str
    licence: str | None
    notes: tuple[str, ...]
    intensity: Intensity | None


def save_backbone(
    backbone: Backbone,
    path: str | os.PathLike[str],
    provenance: Mapping[str, str] | None = None,
    *,
    half: bool = False,
) -> None:
    """Writes a backbone as one safetensors file, whole or not at all.

    The same backbone and provenance give the same bytes. `open_backbone` gives it back with the
    family `unidino_fast`, its digest (unless `with_tile` came between), licence, notes and
    intensity.

    Args:
        backbone: what to write.
        path: the file; one that is there is replaced.
        provenance: anything worth knowing later, such as training data and commit.
        half: store float16, half the size; the digest is then that of the rounded weights, which
            are float32 again when they are loaded.

    Raises:
        WeightsError: `half` of weights that are too large for float16.
        OutputError: the place cannot be written.
    """
    path = Path(path)
    state = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in backbone.module.state_dict().items()
    }
    if half:
        state = {name: _rounded(name, tensor) for name, tensor in state.items()}
    heads = vit_heads(backbone.module)
    architecture = asdict(infer_shape(state, backbone.name, heads=heads))
    if not architecture["n_registers"]:  # as files had it before there were any: the same bytes
        del architecture["n_registers"]
    header = {
        "format": FORMAT,
        "version": VERSION,
        "architecture": architecture,
        "input_norm": backbone.input_norm,
        "digest": state_digest(state, backbone.input_norm, heads=heads),
        "origin": {"name": backbone.name, "family": backbone.family, "digest": backbone.digest},
        "licence": backbone.licence,
        "notes": list(backbone.notes),
        "intensity": backbone.intensity,
        "provenance": dict(provenance or {}),
    }
    stored = {name: tensor.half() for name, tensor in state.items()} if half else state
    content = safetensors.torch.save(stored, metadata={_KEY: json.dumps(header, sort_keys=True)})
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(
            f"{path} cannot be written ({error.strerror or first_line(error)}): "
            "choose another place for the weights"
        ) from error


def _rounded(name: str, tensor: Tensor) -> Tensor:
    """Float32 weights that float16 holds exactly."""
    rounded = tensor.half().float()
    if not rounded.isfinite().all():
        raise WeightsError(f"{name} holds weights above 65504: save it without half")
    return rounded


def read_header(metadata: Mapping[str, str], label: str) -> SavedHeader | None:
    """The header of a file of our own; None for any other safetensors file.

    Raises:
        WeightsError: the header is damaged, or of a later version of the format.
    """
    if _KEY not in metadata:
        return None
    try:
        header: Any = json.loads(metadata[_KEY])
        version = int(header["version"])
        known = header["format"] == FORMAT and version == VERSION
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(label) from error
    if not known:
        raise WeightsError(
            f"{label} is of format {shown(str(header['format']), 40)} version {version}, this "
            f"package reads {FORMAT} version {VERSION}: update unidino_fast"
        )
    try:
        norm, heads = header["input_norm"], int(header["architecture"]["heads"])
        licence, notes = header["licence"], tuple(shown(str(note), 300) for note in header["notes"])
        digest = str(header["digest"])
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(label) from error
    if norm not in ("identity", "per_tile") or heads < 1:
        raise _damaged(label)
    intensity = _intensity(header)
    if intensity is not None:  # older files advise it in a note; by now it is done and said
        notes = tuple(note for note in notes if f"--intensity {intensity}" not in note)
    shown_licence = None if licence is None else shown(str(licence))
    return SavedHeader(heads, norm, digest, shown_licence, notes, intensity)


def _intensity(header: Any) -> Intensity | None:
    """How planes were scaled in training, if it was one way.

    It is the header's own word, or in files from before it had one that of the training's datasets.
    """
    said = header.get("intensity")
    if said is None:
        try:
            data = json.loads(header["provenance"]["config"])["data"]
            [said] = {source["intensity"] for source in data}
        except (KeyError, TypeError, ValueError, RecursionError):
            return None
    return said if said in get_args(Intensity) else None


def _damaged(label: str) -> WeightsError:
    return WeightsError(f"{label} has a damaged unidino_fast header: copy it again")
