"""`open_backbone`: from what the user typed to a loaded backbone."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from unidino_fast.backbones import hub, registry
from unidino_fast.backbones.backbone import Backbone, InputNorm, state_digest
from unidino_fast.backbones.checkpoint import read_checkpoint, shown
from unidino_fast.backbones.dinov2 import SCALED, as_plain
from unidino_fast.backbones.folding import IMAGENET, Statistics, fold_to_one_channel
from unidino_fast.backbones.layouts import (
    Branch,
    Layout,
    parse_statistics,
    read_timm_config,
    recognise,
)
from unidino_fast.backbones.random_weights import random_vit
from unidino_fast.backbones.saving import SavedHeader, read_header
from unidino_fast.backbones.vit import load_vit, vit_heads
from unidino_fast.errors import UsageError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Mapping

NormChoice = Literal["auto", "identity", "imagenet", "per_tile"]

_CHOICES = ("auto", "identity", "imagenet", "per_tile")
_SHIPPED = Path(__file__).parent / "shipped" / "default.safetensors"
"""See docs/default-backbone.md."""


@dataclass(frozen=True)
class _Source:
    """How the user named the weights, and how to call them."""

    label: str  # in messages
    name: str  # in results: no folders
    asked: NormChoice


def open_backbone(weights: str | os.PathLike[str], *, input_norm: NormChoice = "auto") -> Backbone:
    """Loads a backbone strictly, for inference, without running code from its file.

    Args:
        weights: a file (uniDINO, CellPaintSSL, DINO or MorphEm checkpoint, timm weights, or what
            `save_backbone` wrote, told by its bytes); `FILE#student` or `FILE#teacher` of a
            training checkpoint (the teacher is the default); `timm:NAME`;
            `hf:REPO[@REVISION][:FILENAME]`; `random[:SEED]`; `default`; a name in
            `registry.NAMES`.
        input_norm: `auto` takes what belongs to the weights. `imagenet` folds ImageNet's mean
            and std into RGB weights, `identity` and `per_tile` fold none; `per_tile` asks the
            caller to standardise each tile.

    Returns:
        The backbone. RGB weights come as a one-channel ViT that equals the RGB one on a channel
        replicated three times.

    Raises:
        WeightsError: no such weights, unsafe or damaged ones, or another architecture.
        UsageError: a seed, branch or input normalisation that does not fit.
    """
    if input_norm not in _CHOICES:
        raise UsageError(f"input_norm {input_norm!r} is unknown: use {', '.join(_CHOICES)}")
    text = os.fspath(weights)
    if not text.strip():
        raise UsageError(f"weights {text!r} name nothing: use {registry.FORMS}")
    label = shown(text, 4096)
    source = _Source(label=label, name=label, asked=input_norm)
    if not isinstance(weights, str):
        return _from_file(Path(text), None, replace(source, name=Path(text).name))
    scheme, _, rest = text.partition(":")
    if text == "default":
        return _from_file(_SHIPPED, None, source)
    if scheme == "random":
        return _random(_seed(rest if ":" in text else "0", text), source)
    if text in registry.NAMES:
        return replace(open_backbone(registry.NAMES[text], input_norm=input_norm), name=text)
    if scheme == "timm":
        return _from_timm(rest, source)
    if scheme == "hf":
        return _from_hub(rest, source)
    path, branch = _split_branch(text)
    if not _is_there(path) and path.name == str(path) and not path.suffix:
        raise WeightsError(
            f"weights {text!r} are neither a file nor a known name: use {registry.FORMS}"
        )
    name = path.name if branch is None else f"{path.name}#{branch}"
    return _from_file(path, branch, replace(source, name=name))


def _seed(text: str, label: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise UsageError(f"{label}: seed {text!r} is no whole number: use random:0, random:1, ...")
    return int(text)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # such as a name too long to be one
        return False


def _split_branch(text: str) -> tuple[Path, Branch | None]:
    """A file and the branch after its `#`; a file whose own name has a `#` is taken whole."""
    head, mark, tail = text.rpartition("#")
    if not mark or _is_there(Path(text)):
        return Path(text), None
    if tail in ("student", "teacher"):
        return Path(head), "student" if tail == "student" else "teacher"
    if _is_there(Path(head)):
        raise UsageError(f"{text}: {tail!r} is no branch: use {head}#teacher or {head}#student")
    return Path(text), None


def _random(seed: int, source: _Source) -> Backbone:
    module = random_vit(seed)
    note = f"random weights (seed {seed}): a baseline, not a trained backbone"
    layout = Layout({}, "random", "identity", None, (), (note,))
    return _finish(module, layout, replace(source, name=f"random:{seed}"))


def _from_file(
    path: Path, branch: Branch | None, source: _Source, origin: registry.Origin | None = None
) -> Backbone:
    checkpoint = read_checkpoint(path, source.label)
    header = read_header(checkpoint.metadata, source.label)
    config = None if header else read_timm_config(path.parent / "config.json")
    layout = recognise(checkpoint, source.label, branch=branch, config=config)
    licence = config.licence if config else None
    if header is not None:
        return _from_own(layout, header, source)
    if origin is not None:
        layout = replace(layout, family=origin.family, input_norm=origin.input_norm, notes=())
        licence = origin.licence
    return _finish(load_vit(layout.state, source.label), layout, source, licence)


def _from_own(layout: Layout, header: SavedHeader, source: _Source) -> Backbone:
    module = load_vit(layout.state, source.label, heads=header.heads)
    if state_digest(module.state_dict(), header.input_norm, heads=header.heads) != header.digest:
        raise WeightsError(
            f"{source.label} is damaged: its weights do not have the digest in its header; "
            "copy it again"
        )
    layout = replace(
        layout, family="unidino_fast", input_norm=header.input_norm, notes=header.notes
    )
    return replace(_finish(module, layout, source, header.licence), intensity=header.intensity)


def _from_hub(spec: str, source: _Source) -> Backbone:
    file = hub.fetch(spec, source.label)
    return _from_file(file.path, None, source, registry.ORIGINS.get(file.repository.lower()))


def _from_timm(name: str, source: _Source) -> Backbone:
    original = hub.create_timm(name, source.label)
    config: Mapping[str, Any] = original.pretrained_cfg
    first = next(iter(getattr(original, "blocks", ())), None)
    heads = getattr(getattr(first, "attn", None), "num_heads", None)
    state, _, is_dinov2 = as_plain(original.state_dict())
    module = load_vit(state, source.label, heads=heads)
    _check_same_function(module, original.eval(), source.label)
    statistics = parse_statistics(config, source.label)
    notes = (SCALED,) if is_dinov2 else ()
    layout = Layout(state, "timm", "identity", statistics, (), notes)
    return _finish(module, layout, source, config.get("license"))


def _check_same_function(module: Any, original: Any, label: str) -> None:
    """Tensors alone do not tell activation, epsilon or pooling: one tile through both does."""
    shape = (1, module.patch_embed.proj.in_channels, *module.patch_embed.img_size)
    tile = torch.linspace(-2.0, 2.0, steps=int(torch.Size(shape).numel())).reshape(shape)
    with torch.no_grad():
        ours, theirs = module(tile), original(tile)
    if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4):
        raise WeightsError(
            f"{label} computes something other than a plain ViT's class token (activation, "
            "pooling or norm differ): another architecture, which cannot be loaded"
        )


def _finish(module: Any, layout: Layout, source: _Source, licence: str | None = None) -> Backbone:
    norm, notes = _normalise_input(module, layout, source)
    heads = vit_heads(module)
    return Backbone(
        module=module,
        dim=module.embed_dim,
        in_chans=module.patch_embed.proj.in_channels,
        patch_size=module.patch_embed.patch_size[0],
        image_size=module.patch_embed.img_size[0],
        input_norm=norm,
        name=source.name,
        family=layout.family,
        digest=state_digest(module.state_dict(), norm, heads=heads),
        licence=licence,
        dropped=layout.dropped,
        notes=notes,
    )


def _normalise_input(
    module: Any, layout: Layout, source: _Source
) -> tuple[InputNorm, tuple[str, ...]]:
    """Folds mean and std in where they belong; gives what is left for the caller to do."""
    channels, asked = int(module.patch_embed.proj.in_channels), source.asked
    if asked == "imagenet" and channels != 3:
        raise UsageError(
            f"input_norm imagenet needs weights of 3 channels, {source.label} has {channels}: "
            "use auto, identity or per_tile"
        )
    norm: InputNorm = layout.input_norm
    if asked in ("identity", "per_tile"):
        norm = "identity" if asked == "identity" else "per_tile"
    statistics = _statistics(layout, channels, source)
    if channels not in (1, 3) or (channels == 1 and statistics is None):
        return norm, layout.notes
    fold_to_one_channel(module, statistics)
    scaling = "no mean/std" if statistics is None else str(statistics)
    assumed = " (ImageNet's, assumed: no config.json beside the file)"
    guessed = layout.family == "timm" and asked == "auto" and layout.statistics is None
    what = "RGB weights summed to one channel, " if channels == 3 else ""
    return norm, (*layout.notes, f"{what}{scaling}{assumed if guessed else ''} folded in")


def _statistics(layout: Layout, channels: int, source: _Source) -> Statistics | None:
    if source.asked in ("identity", "per_tile") or layout.input_norm == "per_tile":
        return None
    if source.asked == "imagenet":
        return IMAGENET
    own = layout.statistics
    if channels == 3 and own is None:
        return IMAGENET
    if own is None or channels not in (1, 3):
        return None
    if len(own.mean) != channels:
        raise WeightsError(
            f"{source.label}: config.json gives mean/std for {len(own.mean)} channels, the weights "
            f"have {channels}: correct it, or choose input_norm identity or per_tile"
        )
    return own
