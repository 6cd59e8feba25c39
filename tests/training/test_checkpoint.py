"""Checkpoints: whole or not there, the newest kept, and the best."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import torch

from unidino_fast.errors import OutputError, TrainingError
from unidino_fast.training.checkpoint import Checkpoints, Progress

if TYPE_CHECKING:
    from pathlib import Path

CPU = torch.device("cpu")


class Part:
    def __init__(self, value: float) -> None:
        self.value = torch.tensor([value])

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_the_best_epoch_has_the_lowest_mean() -> None:
    progress = Progress()
    epochs = [[3.0, 1.0], [4.0, 2.0], [0.0, 3.0], [1.0, 2.0]]  # means 2, 3, 1.5, 1.5
    best = [
        progress.add(loss, ends_epoch=last)
        for epoch in epochs
        for loss, last in zip(epoch, (False, True), strict=True)
    ]
    assert best == [False, True, False, False, False, True, False, False]
    assert progress.best == 1.5


def test_newest_and_best_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, {"a": 1}, keep=2)
    for step in range(1, 6):
        checkpoints.save(Progress(step), {"part": Part(step)}, best=step in (1, 3))
    assert names(tmp_path) == ["best.pt", "step-00000004.pt", "step-00000005.pt"]
    part = Part(0)
    progress = checkpoints.load({"part": part}, CPU)
    assert (progress.step, part.value.item()) == (5, 5.0)
    best = torch.load(tmp_path / "checkpoints" / "best.pt", weights_only=True)
    assert best["progress"]["step"] == 3


def test_progress_comes_back_to_the_bit(tmp_path: Path) -> None:
    progress = Progress(7, best=1 / 3, epoch_loss=(2 / 7, 3))
    Checkpoints(tmp_path, {}, keep=1).save(progress, {}, best=False)
    assert Checkpoints(tmp_path, {}, keep=1).load({}, CPU) == progress
    assert Checkpoints(tmp_path / "none", {}, keep=1).load({}, CPU) == Progress()


def test_a_write_that_fails_leaves_the_former(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path, {}, keep=1)
    checkpoints.save(Progress(1), {}, best=True)

    def full(content: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match=r"step-00000002\.pt cannot be written \(No space left"):
        checkpoints.save(Progress(2), {}, best=False)
    assert names(tmp_path) == ["best.pt", "step-00000001.pt"]


def test_the_best_is_copied_where_there_are_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refused)
    Checkpoints(tmp_path, {}, keep=1).save(Progress(1), {}, best=True)
    assert names(tmp_path) == ["best.pt", "step-00000001.pt"]
    files = [(tmp_path / "checkpoints" / name).read_bytes() for name in names(tmp_path)]
    assert files[0] == files[1]


def test_other_settings_are_named(tmp_path: Path) -> None:
    held = {"model": {"dim": 3, "depth": 2}, "images": {"a": 4}}
    Checkpoints(tmp_path, held, keep=1).save(Progress(1), {}, best=False)
    for wanted, said in (
        ({**held, "model": {"dim": 3, "depth": 1}}, "a run with model.depth 2, not 1"),
        ({**held, "images": {"a": 5}}, "a run with images.a 4, not 5"),
        ({**held, "images": {"a": 4, "b": 1}}, "a run with images.b None, not 1"),
    ):
        with pytest.raises(OutputError, match=said):
            Checkpoints(tmp_path, wanted, keep=1).load({}, CPU)


def test_checkpoints_run_no_code(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    torch.save({"format": 1, "decides": Progress()}, folder / "step-00000001.pt")
    with pytest.raises(TrainingError, match=r"step-00000001\.pt cannot be read"):
        Checkpoints(tmp_path, {}, keep=1).load({}, CPU)
