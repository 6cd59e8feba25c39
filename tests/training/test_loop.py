"""Whole runs: the curve is the same however a run is cut, and what goes wrong is named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors
import torch

from unidino_fast.backbones import open_backbone
from unidino_fast.training.loop import StepReport, train
from unidino_fast.training.watch import read_log

if TYPE_CHECKING:
    from pathlib import Path

    from unidino_fast.training.config import TrainConfig

SECONDS = "images_per_s"


def curve(folder: Path) -> list[dict[str, str]]:
    """All that is logged but the speed, as written: float's shortest exact form."""
    rows = read_log(folder / "log.csv")
    return [{name: value for name, value in row.items() if name != SECONDS} for row in rows]


def losses(folder: Path) -> list[float]:
    return [float(row["loss"]) for row in curve(folder)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    with safetensors.safe_open(folder / "teacher.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def assert_same_run(one: Path, other: Path) -> None:
    assert curve(one) == curve(other)
    held, wanted = weights(one), weights(other)
    assert held.keys() == wanted.keys()
    assert all(torch.equal(held[name], wanted[name]) for name in held)


def test_a_run_leaves_what_it_promises(whole: Path, make_config: Any) -> None:
    rows = curve(whole)
    assert [int(row["step"]) for row in rows] == list(range(6))
    assert all(np.isfinite(float(row["loss"])) for row in rows)
    assert [bool(row["feature_rank"]) for row in rows] == [True, False, True, False, True, True]
    names = sorted(path.name for path in (whole / "checkpoints").iterdir())
    assert names in (
        ["best.pt", "step-00000003.pt", "step-00000006.pt"],
        ["best.pt", "step-00000006.pt"],
    )
    backbone = open_backbone(whole / "teacher.safetensors")
    assert backbone.dim == 64
    assert backbone.intensity == "dtype"
    with safetensors.safe_open(whole / "teacher.safetensors", "pt") as file:
        header = json.loads(file.metadata()["unidino_fast"])
    assert header["provenance"]["steps"] == "6 of 6"
    assert json.loads(header["provenance"]["config"]) == make_config().what_decides()
    assert not (whole / ".lock").exists()


def test_frozen_last_layer_and_moving_rest(make_config: Any, tmp_path: Path) -> None:
    def last_layer(steps: int) -> torch.Tensor:
        train(make_config(), tmp_path / "r", stop_after=steps)
        newest = max((tmp_path / "r" / "checkpoints").glob("step-*.pt"))
        state = torch.load(newest, weights_only=True)["parts"]["method"]["student"]
        tensor: torch.Tensor = state["head.last_layer.weight"]
        return tensor

    first, epoch_end, later = last_layer(1), last_layer(2), last_layer(1)
    assert torch.equal(first, epoch_end)  # frozen for the first epoch of 3 steps
    assert not torch.equal(epoch_end, later)


def test_stopped_and_resumed_to_the_bit(whole: Path, make_config: Any, tmp_path: Path) -> None:
    for steps in (1, 3, 1, None):  # in the middle of epochs too
        train(make_config(), tmp_path / "cut", stop_after=steps)
    assert_same_run(whole, tmp_path / "cut")


def test_finished_run_stays_finished(whole: Path, make_config: Any) -> None:
    before = curve(whole)
    summary = train(make_config(), whole)
    assert (summary.first_step, summary.steps, summary.loss) == (6, 6, None)
    assert curve(whole) == before


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from unidino_fast.training.config import TrainConfig
from unidino_fast.training.loop import train
torch.set_num_threads(1)
def die(report):
    if report.step == 4:
        os.kill(os.getpid(), signal.SIGKILL)
train(TrainConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2]), report=die)
"""


@pytest.mark.slow
def test_killed_and_resumed_to_the_bit(whole: Path, make_config: Any, tmp_path: Path) -> None:
    config = make_config(machine__checkpoint_minutes=0.0)  # after every step
    call = [sys.executable, "-c", KILLED, config.model_dump_json(), str(tmp_path / "cut")]
    done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "cut" / "teacher.safetensors").exists()
    left = tmp_path / "cut" / "checkpoints" / ".step-00000004.pt.0123456789ab.tmp"
    left.write_bytes(b"half")  # as of a run that was killed while it wrote
    summary = train(make_config(), tmp_path / "cut")
    assert not left.exists()
    assert summary.first_step == 3  # the fourth step was logged, its checkpoint not yet written
    assert_same_run(whole, tmp_path / "cut")


def test_interrupted_after_the_step(whole: Path, make_config: Any, tmp_path: Path) -> None:
    def interrupt(report: StepReport) -> None:
        if report.step == 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(make_config(), tmp_path / "cut", report=interrupt)
    assert len(losses(tmp_path / "cut")) == 3  # the step that was under way is finished
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    train(make_config(), tmp_path / "cut")
    assert_same_run(whole, tmp_path / "cut")


def test_parts_of_a_batch_equal_the_batch(make_config: Any, tmp_path: Path) -> None:
    """Without stochastic depth, which draws for each part."""
    for parts in (1, 3):
        config = make_config(model__drop_path=0.0, machine__accumulate=parts)
        train(config, tmp_path / f"{parts}")
    # float32 sums in another order, amplified by six steps of training at a high rate
    np.testing.assert_allclose(losses(tmp_path / "3"), losses(tmp_path / "1"), rtol=1e-4)
    one, other = weights(tmp_path / "1"), weights(tmp_path / "3")
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-2, atol=1e-3)


RUN = """
import sys
from pathlib import Path
from unidino_fast.training.config import TrainConfig
from unidino_fast.training.loop import train
config, out, stop = sys.argv[1:]
train(TrainConfig.model_validate_json(config), Path(out), stop_after=int(stop) or None)
"""


def run_by_two(config: TrainConfig, out: Path, stop_after: int = 0) -> None:
    """Two gloo processes, to the end or for so many steps."""
    script = out.parent / "run.py"
    script.write_text(RUN)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    call = [str(script), config.model_dump_json(), str(out), str(stop_after)]
    done = subprocess.run(
        [sys.executable, *launch, *call],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_two_processes_equal_one(make_config: Any, tmp_path: Path) -> None:
    """Two gloo processes of half a batch each against one, without stochastic depth."""
    config = make_config(model__drop_path=0.0)
    train(config, tmp_path / "one")
    run_by_two(config, tmp_path / "two")
    # float32 gradients are summed in another order, and six steps at a high rate amplify that
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-4)
    assert len(losses(tmp_path / "two")) == 6


@pytest.mark.slow
def test_two_processes_that_share_the_weights_out_equal_one(
    make_config: Any, tmp_path: Path
) -> None:
    """FSDP2 over gloo; clipping needs whole norms.

    It goes on from a checkpoint of one process, and one process from its own, within epochs.
    """
    options = {"model__drop_path": 0.0, "optim__clip_norm": 0.5}
    one = make_config(**options)
    train(one, tmp_path / "one")
    train(one, tmp_path / "two", stop_after=1)
    two = make_config(**options, machine__parallel="fsdp")
    run_by_two(two, tmp_path / "two", stop_after=4)
    shared = weights(tmp_path / "two")
    assert train(one, tmp_path / "two").first_step == 5
    assert any(not torch.equal(shared[n], v) for n, v in weights(tmp_path / "two").items())
    assert open_backbone(tmp_path / "two" / "teacher.safetensors").dim == 64
    # as above
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-4)
    norms = [[float(row["grad_norm"]) for row in curve(tmp_path / n)] for n in ("one", "two")]
    np.testing.assert_allclose(norms[1], norms[0], rtol=1e-3)
    exported, wanted = weights(tmp_path / "two"), weights(tmp_path / "one")
    for name, tensor in wanted.items():
        torch.testing.assert_close(exported[name], tensor, rtol=1e-2, atol=1e-3)


def test_cut_into_bf16_it_still_runs(make_config: Any, tmp_path: Path) -> None:
    config = make_config(machine__precision="bf16", model__drop_path=0.0)
    train(config, tmp_path / "half")
    train(make_config(model__drop_path=0.0), tmp_path / "full")
    # eight bits of mantissa: the curves are near, not equal
    np.testing.assert_allclose(losses(tmp_path / "half"), losses(tmp_path / "full"), rtol=0.15)
    assert losses(tmp_path / "half") != losses(tmp_path / "full")


def test_training_learns(make_config: Any, tmp_path: Path) -> None:
    """With a teacher that stands still, the student comes to give its answers."""
    config = make_config(
        dino__teacher_momentum=1.0,
        dino__centre_momentum=1.0,
        dino__teacher_temperature_start=0.04,
        optim__epochs=20,
        optim__warmup_epochs=2,
    )
    train(config, tmp_path / "r")
    found = losses(tmp_path / "r")
    assert np.mean(found[-6:]) < np.mean(found[:6]) - 0.2


def test_compiled_it_learns_the_same(
    make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Captured and differentiated as for the compiler, but run by torch: code takes a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    options = {"model__depth": 1, "optim__epochs": 1, "views__n_local": 0}
    train(make_config(**options), tmp_path / "plain")
    train(make_config(**options, machine__compile=True), tmp_path / "compiled")
    # operations are taken apart otherwise
    np.testing.assert_allclose(losses(tmp_path / "compiled"), losses(tmp_path / "plain"), rtol=1e-4)
    held, wanted = weights(tmp_path / "compiled"), weights(tmp_path / "plain")
    assert held.keys() == wanted.keys()


def test_tensorboard_has_the_numbers_of_the_log(make_config: Any, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install it")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = make_config(machine__tensorboard=True)
    for steps in (2, None):  # what a resumed run does again is told apart
        train(config, tmp_path / "r", stop_after=steps)
    events = EventAccumulator(str(tmp_path / "r" / "tensorboard"))
    events.Reload()
    for name in ("loss", "feature_rank", "centre_norm"):
        wanted = [(int(r["step"]), float(r[name])) for r in curve(tmp_path / "r") if r[name]]
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in found] == [step for step, _ in wanted]
        # TensorBoard stores float32
        np.testing.assert_allclose([v for _, v in found], [v for _, v in wanted], rtol=1e-6)
