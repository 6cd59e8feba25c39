"""Checkpoints of a run: whole or not there, the newest kept, and the best.

`checkpoints/step-00001200.pt` holds the method's networks and centre, the optimiser's state, what
the watch has gathered, the number of steps done and the settings that decide what is learnt. All
random numbers derive from (seed, step) or (seed, epoch, index), so that a checkpoint needs no
generator's state and a run goes on to the bit, also in the middle of an epoch.
"""

from __future__ import annotations

import os
import pickle
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from unidino_fast.errors import OutputError, TrainingError, first_line
from unidino_fast.files import atomic

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FORMAT = 1
_NAME = re.compile(r"step-(\d+)\.pt")
_DAMAGE = (
    OSError,
    RuntimeError,
    EOFError,
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    pickle.UnpicklingError,
)
"""What reading a file raises that is no checkpoint of ours, or no longer one."""


class Stateful(Protocol):
    """A part of a run that a checkpoint keeps."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values, named."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave."""
        ...


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        step: steps done.
        best: lowest mean loss of an epoch so far.
        epoch_loss: sum of losses and steps of the epoch under way.
        best_probe: highest accuracy of the probe so far.
    """

    step: int = 0
    best: float = float("inf")
    epoch_loss: tuple[float, int] = (0.0, 0)
    best_probe: float = float("-inf")

    def add(self, loss: float, *, ends_epoch: bool) -> bool:
        """Takes note of a step's loss; whether an epoch ends with it that is the best so far."""
        total, count = self.epoch_loss[0] + loss, self.epoch_loss[1] + 1
        self.epoch_loss = (0.0, 0) if ends_epoch else (total, count)
        is_best = ends_epoch and total / count < self.best
        if is_best:
            self.best = total / count
        return is_best

    def rate(self, accuracy: float) -> bool:
        """Takes note of the probe's accuracy; whether it is the best so far."""
        is_best = accuracy > self.best_probe
        self.best_probe = max(accuracy, self.best_probe)
        return is_best


class Checkpoints:
    """The checkpoints of an output folder.

    Args:
        folder: of the run.
        decides: settings and data that a run must share with the one it goes on from.
        keep: newest checkpoints to keep.
    """

    def __init__(self, folder: Path, decides: Mapping[str, Any], keep: int) -> None:
        self._folder = folder / "checkpoints"
        self._decides = dict(decides)
        self._keep = keep

    def save(self, progress: Progress, parts: Mapping[str, Stateful], *, best: bool) -> Path:
        """Writes one, removes old ones; with `best` it becomes `best.pt` too."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"step-{progress.step:08d}.pt"
        content = {
            "format": FORMAT,
            "progress": vars(progress),
            "parts": {name: part.state_dict() for name, part in parts.items()},
            "decides": self._decides,
        }
        with atomic(path) as temporary:
            try:
                torch.save(content, temporary)
            except RuntimeError as error:  # torch's own, on a full disk for one
                raise OSError(first_line(error)) from error
        if best:
            self._mark_best(path)
        for _, old in self._listed()[: -self._keep]:
            old.unlink()
        return path

    def load(self, parts: Mapping[str, Stateful], device: torch.device) -> Progress:
        """Takes over the newest one; the start of a run where there is none.

        Raises:
            OutputError: it belongs to a run of other settings or data: names the first difference.
            TrainingError: it is damaged.
        """
        listed = self._listed()
        if not listed:
            return Progress()
        path = listed[-1][1]
        try:
            content = torch.load(path, map_location=device, weights_only=True)
            held, version = content["decides"], content["format"]
        except _DAMAGE as error:
            raise _damaged(path, error) from error
        if version != FORMAT:
            raise TrainingError(f"checkpoint {path} is of format {version}: choose another --out")
        difference = _difference(held, self._decides)
        if difference:
            raise OutputError(
                f"{self._folder.parent} holds a run with {difference}: choose another --out, or"
                " take that setting back"
            )
        try:
            for name, part in parts.items():
                part.load_state_dict(content["parts"][name])
            return Progress(**content["progress"])
        except _DAMAGE as error:
            raise _damaged(path, error) from error

    def _mark_best(self, path: Path) -> None:
        best = self._folder / "best.pt"
        with atomic(best) as temporary:
            try:
                os.link(path, temporary)
            except OSError:  # a file system without links
                shutil.copyfile(path, temporary)

    def _listed(self) -> list[tuple[int, Path]]:
        found = ((_NAME.fullmatch(path.name), path) for path in self._folder.glob("step-*.pt"))
        return sorted((int(match[1]), path) for match, path in found if match)


def _damaged(path: Path, error: Exception) -> TrainingError:
    return TrainingError(
        f"checkpoint {path} cannot be read ({first_line(error)}): remove it, and the run goes on"
        " from the one before"
    )


def _difference(held: Any, wanted: Any, name: str = "") -> str | None:
    """The first setting that differs, in words."""
    if isinstance(held, dict) and isinstance(wanted, dict):
        for key in {**held, **wanted}:
            inner = f"{name}.{key}" if name else str(key)
            found = _difference(held.get(key), wanted.get(key), inner)
            if found:
                return found
        return None
    if held == wanted:
        return None
    return f"{name} {held!r:.100}, not {wanted!r:.100}"
