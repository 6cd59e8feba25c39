"""What goes wrong in a run is named in one line, and what was learnt before it is kept."""

from __future__ import annotations

import os
import re
import resource
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
import torch

from unidino_fast.errors import OutputError, TrainingError, UsageError
from unidino_fast.training.loop import train
from unidino_fast.training.sources import ImageSource
from unidino_fast.training.watch import read_log

if TYPE_CHECKING:
    from pathlib import Path


def test_nan_names_step_and_dataset(make_config: Any, tmp_path: Path) -> None:
    """Of many images eight are looked at beforehand: another may still be broken."""
    generator = np.random.default_rng(0)
    (tmp_path / "bad").mkdir()
    for index in range(15):
        image = generator.random((40, 40), dtype=np.float32)
        if index % 2:  # those with even numbers are looked at
            image[20] = np.nan
        tifffile.imwrite(tmp_path / "bad" / f"{index:02}.tif", image)
    good = make_config().data[0].model_dump()
    bad = {"name": "bad", "path": str(tmp_path / "bad")}
    with pytest.raises(TrainingError) as caught:
        train(make_config(data=[good, bad]), tmp_path / "r")
    message = str(caught.value)
    assert message.startswith("step 1: the loss is not finite, in images of dataset bad: look at")
    [named] = re.findall(r"such as (.*\.tif)$", message)
    assert np.isnan(tifffile.imread(named)).any()


def test_what_was_learnt_before_a_broken_image_is_kept(
    whole: Path, make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN pixels, then a file that cannot be read; mended, the run is the one without them."""
    sound = ImageSource.plane

    def reading(broken: Any, at: int) -> Any:
        calls = iter(range(1000))

        def plane(self: Any, index: int) -> Any:
            return broken(sound(self, index)) if next(calls) == at else sound(self, index)

        return plane

    def nan(pixels: Any) -> Any:
        return np.full(pixels.shape, np.nan, np.float32)

    def unreadable(pixels: Any) -> Any:
        raise TrainingError("dataset large: gone.tif cannot be read")

    looks = 5 + 8  # the survey's
    with monkeypatch.context() as patch:
        patch.setattr(ImageSource, "plane", reading(nan, looks + 2 * 6 + 1))
        with pytest.raises(TrainingError, match="step 3: the loss is not finite, in images of dat"):
            train(make_config(), tmp_path / "r")
    assert newest(tmp_path / "r") == "step-00000002.pt"
    with monkeypatch.context() as patch:
        patch.setattr(ImageSource, "plane", reading(unreadable, looks + 2 * 6 + 1))
        with pytest.raises(TrainingError, match=r"gone\.tif cannot be read"):
            train(make_config(), tmp_path / "r")
    assert newest(tmp_path / "r") == "step-00000004.pt"
    train(make_config(), tmp_path / "r")
    logs = [read_log(folder / "log.csv") for folder in (whole, tmp_path / "r")]
    assert [row["loss"] for row in logs[0]] == [row["loss"] for row in logs[1]]
    weights = [folder / "teacher.safetensors" for folder in (whole, tmp_path / "r")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def newest(folder: Path) -> str:
    return max(path.name for path in (folder / "checkpoints").glob("step-*.pt"))


def test_diverging_weights_keep_the_last_checkpoint(
    make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(make_config(), tmp_path / "r", stop_after=2)
    from unidino_fast.training.dino import Dino

    sound = Dino.losses

    def broken(self: Any, *arguments: Any) -> Any:
        outcome = sound(self, *arguments)
        return type(outcome)(outcome.losses * np.inf, outcome.features, outcome.probabilities)

    monkeypatch.setattr(Dino, "losses", broken)
    with pytest.raises(TrainingError, match="step 3: the loss is not finite, in images of all"):
        train(make_config(), tmp_path / "r")
    monkeypatch.undo()
    assert train(make_config(), tmp_path / "r").first_step == 2


def test_another_run_is_not_continued(whole: Path, make_config: Any) -> None:
    with pytest.raises(OutputError) as caught:
        train(make_config(dino__out_dim=33), whole)
    assert "holds a run with dino.out_dim 32, not 33: choose another --out" in str(caught.value)
    fewer = make_config().data[:1]
    with pytest.raises(OutputError, match="holds a run with data"):
        train(make_config(data=[one.model_dump() for one in fewer], optim__batch=5), whole)
    train(make_config(machine__log_steps=1), whole)  # the machine's settings may change


def test_damaged_checkpoint_is_one_line(whole: Path, make_config: Any) -> None:
    path = max((whole / "checkpoints").glob("step-*.pt"))
    sound = path.read_bytes()
    content = torch.load(path, weights_only=True)
    for damage in (
        lambda: path.write_bytes(sound[:1000]),
        lambda: path.write_bytes(b""),
        lambda: torch.save([1, 2], path),
        lambda: torch.save({**content, "parts": {}}, path),
        lambda: torch.save({**content, "progress": {"step": 3, "more": 1}}, path),
        lambda: torch.save({**content, "parts": {**content["parts"], "optimizer": {}}}, path),
    ):
        damage()
        with pytest.raises(TrainingError, match=r"step-00000006\.pt cannot be read .*: remove it"):
            train(make_config(), whole)


class Harmful:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_checkpoint_runs_no_code(whole: Path, make_config: Any, tmp_path: Path) -> None:
    path = max((whole / "checkpoints").glob("step-*.pt"))
    harm = Harmful(tmp_path / "harm")
    torch.save({**torch.load(path, weights_only=True), "decides": harm}, path)
    with pytest.raises(TrainingError, match=r"step-00000006\.pt cannot be read"):
        train(make_config(), whole)
    assert not (tmp_path / "harm").exists()


def test_a_full_disk_is_one_line(make_config: Any, tmp_path: Path) -> None:
    """Files that may not grow stand for it: first the checkpoint does not fit, then the log."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit, what in ((100_000, r"step-00000003\.pt"), (300, r"log\.csv")):
        out = tmp_path / str(limit)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, former[1]))
            with pytest.raises(OutputError, match=f"{what} cannot be written .*: free the disk"):
                train(make_config(), out)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, former)
        assert list((out / "checkpoints").glob("*")) == []  # nothing half-written


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optim__batch": 100}, "an epoch of 18 images is shorter than optim.batch 100"),
        ({"machine__tensorboard": True}, "tensorboard is not installed"),
    ],
)
def test_misfits_are_said(
    changes: dict[str, Any], said: str, make_config: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(UsageError, match=said):
        train(make_config(**changes), tmp_path / "r")
