"""Checkpoint layouts: whose file it is, which tensors are the backbone's, what they expect."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

import torch

from unidino_fast.backbones.checkpoint import shown
from unidino_fast.backbones.dinov2 import SCALED, as_plain
from unidino_fast.backbones.folding import Statistics
from unidino_fast.errors import UsageError, WeightsError, first_line

if TYPE_CHECKING:
    from pathlib import Path

    from unidino_fast.backbones.backbone import InputNorm
    from unidino_fast.backbones.checkpoint import Checkpoint

Branch = Literal["student", "teacher"]

_PREFIXES = ("module.", "_orig_mod.", "backbone.")
_HEADS = (
    "head.",
    "dino_head.",
    "ibot_head.",
    "pre_logits.",
    "cls_reducer.0.",
    "cls_reducer.3.",
)
_BRANCHES = ("teacher", "student")  # in the order of preference
_WRAPPERS = ("model", "state_dict")
_UNTOLD = (
    "one input channel and nothing that says how it was trained: taken to expect intensities in "
    "[0, 1] (input_norm identity)"
)


@dataclass(frozen=True)
class TimmConfig:
    """What a timm `config.json` says about a file beside it."""

    statistics: Statistics | None
    licence: str | None


@dataclass(frozen=True)
class Layout:
    """A recognised checkpoint: the backbone's tensors under their bare names, and its habits."""

    state: dict[str, torch.Tensor]
    family: str
    input_norm: InputNorm
    statistics: Statistics | None
    dropped: tuple[str, ...]
    notes: tuple[str, ...]


def recognise(
    checkpoint: Checkpoint, label: str, *, branch: Branch | None, config: TimmConfig | None
) -> Layout:
    """Finds the backbone in a checkpoint.

    Args:
        checkpoint: what the file holds.
        label: how messages name the file.
        branch: which network of a training checkpoint; None takes the teacher where there is one.
        config: the timm configuration beside the file, where there is one.

    Raises:
        WeightsError: there is no state dict in it.
        UsageError: it has no such branch.
    """
    entries = checkpoint.entries
    flat = any(isinstance(value, torch.Tensor) for value in entries.values())
    branches = [] if flat else [name for name in _BRANCHES if name in entries]
    if branch is not None and branch not in branches:
        remedy = f"use #{branches[0]} or leave it out" if branches else "leave it out"
        raise UsageError(f"{label} has no {branch}: {remedy}")
    choices = [branch] if branch else [*branches, *_wrappers(entries)]
    taken = choices[0] if choices and not flat else None
    if not flat and taken is None:
        held = ", ".join(shown(name, 40) for name in list(entries)[:8]) or "nothing"
        raise WeightsError(f"{label} has no state dict in it (it has {held}): save one")
    state = _tensors(entries if taken is None else entries[taken], label)
    state, dropped = _without_heads(_stripped(state, label))
    state, training, is_dinov2 = as_plain(state)
    others = () if taken is None else tuple(shown(name) for name in entries if name != taken)
    if branches:  # a config.json beside a training checkpoint is about something else
        config = None
    family, norm, notes = _habits(
        state, branches, told=config is not None, safetensors=checkpoint.kind == "safetensors"
    )
    return Layout(
        state=state,
        family="dinov2" if is_dinov2 else family,
        input_norm=norm,
        statistics=None if config is None else config.statistics,
        dropped=dropped + training + others,
        notes=(*notes, SCALED) if is_dinov2 else notes,
    )


def read_timm_config(path: Path) -> TimmConfig | None:
    """What a timm or Hugging Face `config.json` says, or None where it is not timm's.

    Raises:
        WeightsError: it is not JSON, or its mean or std is not made of usable numbers.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path} cannot be read: {first_line(error)}") from error
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightsError(
            f"{path} is not JSON ({first_line(error)}): repair it or move it away"
        ) from error
    pretrained = config.get("pretrained_cfg") if isinstance(config, dict) else None
    if not isinstance(pretrained, dict):
        return None
    licence = pretrained.get("license")
    return TimmConfig(
        statistics=parse_statistics(pretrained, str(path)),
        licence=licence if isinstance(licence, str) else None,
    )


def parse_statistics(pretrained: Mapping[str, Any], label: str) -> Statistics | None:
    """Mean and std of a timm `pretrained_cfg`; None where it has none."""
    mean, std = pretrained.get("mean"), pretrained.get("std")
    if mean is None and std is None:
        return None
    if not _numbers(mean) or not _numbers(std) or len(mean) != len(std) or min(std) <= 0:
        raise WeightsError(
            f"{label}: mean {shown(str(mean))} and std {shown(str(std))} are not one number a "
            "channel with std above 0: correct pretrained_cfg"
        )
    return Statistics(tuple(map(float, mean)), tuple(map(float, std)))


def _numbers(values: object) -> TypeGuard[Sequence[float]]:
    return (
        isinstance(values, list | tuple)
        and len(values) > 0
        and all(isinstance(x, int | float) and math.isfinite(x) for x in values)
    )


def input_channels(state: Mapping[str, torch.Tensor]) -> int | None:
    """Channels of the patch embedding, where the state dict has one."""
    patches = state.get("patch_embed.proj.weight")
    return None if patches is None or patches.ndim != 4 else patches.shape[1]


def _habits(
    state: Mapping[str, torch.Tensor], branches: list[str], *, told: bool, safetensors: bool
) -> tuple[str, InputNorm, tuple[str, ...]]:
    """Family, input normalisation and notes, from the layout and the number of channels."""
    channels = input_channels(state)
    if branches == ["student"] and channels == 1:
        return "morphem", "per_tile", ()
    if branches:
        return {1: "unidino", 5: "cellpaintssl"}.get(channels or 0, "dino"), "identity", ()
    if channels == 1 and not told:
        return "dino", "identity", (_UNTOLD,)
    return "timm" if told or safetensors else "dino", "identity", ()


def _wrappers(entries: Mapping[str, object]) -> list[str]:
    return [name for name in _WRAPPERS if isinstance(entries.get(name), Mapping)]


def _tensors(content: object, label: str) -> dict[str, torch.Tensor]:
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"{label} has a {type(content).__name__} where a state dict belongs: save one"
        )
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise WeightsError(
                f"{label}: {shown(str(name))} is a {type(value).__name__}, not a tensor: "
                "save a state dict of tensors alone"
            )
    return dict(content)


def _stripped(state: dict[str, torch.Tensor], label: str) -> dict[str, torch.Tensor]:
    """Bare names: the wrappers' prefixes taken off, as prefixes only."""
    bare = {name: _without_prefixes(name) for name in state}
    twice = [name for name, count in Counter(bare.values()).items() if count > 1]
    if twice:
        raise WeightsError(
            f"{label} holds {shown(twice[0])} more than once, with and without a prefix: "
            "save one network's state dict"
        )
    return {bare[name]: tensor for name, tensor in state.items()}


def _without_prefixes(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _without_heads(
    state: dict[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    heads = Counter(prefix for name in state for prefix in _HEADS if name.startswith(prefix))
    body = {name: tensor for name, tensor in state.items() if not name.startswith(_HEADS)}
    dropped = (
        f"{prefix}* ({count} tensor{'s' if count > 1 else ''})"
        for prefix, count in sorted(heads.items())
    )
    return body, tuple(dropped)
