"""A run that begins with weights: exactly those, or an error."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from unidino_fast.backbones import open_backbone
from unidino_fast.backbones.random_weights import random_vit
from unidino_fast.backbones.vit import VIT_SMALL_16
from unidino_fast.errors import OutputError, UsageError, WeightsError
from unidino_fast.training.initial import open_initial
from unidino_fast.training.loop import train
from unidino_fast.training.prepare import prepare
from unidino_fast.training.processes import Processes

if TYPE_CHECKING:
    from pathlib import Path


def test_student_and_teacher_begin_with_them(
    make_config: Any, tiny_weights: Path, tmp_path: Path
) -> None:
    config = make_config(model__patch=16, model__mlp_ratio=4, init=str(tiny_weights))
    plain = config.model_copy(update={"init": None})
    drawn, begun = (
        prepare(one, tmp_path / "r", Processes(torch.device("cpu")), print).method
        for one in (plain, config)
    )
    wanted = open_backbone(tiny_weights).module.state_dict()
    student = begun.trained.state_dict()
    for held in (student, {f"backbone.{k}": v for k, v in begun.exported().state_dict().items()}):
        assert all(torch.equal(held[f"backbone.{name}"], wanted[name]) for name in wanted)
    heads = {k: v for k, v in drawn.trained.state_dict().items() if k.startswith("head.")}
    assert heads
    assert all(torch.equal(student[name], heads[name]) for name in heads)


def test_a_run_goes_on_from_another(make_config: Any, tmp_path: Path) -> None:
    train(make_config(), tmp_path / "first")
    weights = tmp_path / "first" / "teacher.safetensors"
    # a teacher that stands still is still what the run began with
    still = {"dino__teacher_momentum": 1.0, "optim__epochs": 1}
    train(make_config(init=str(weights), **still), tmp_path / "second")
    one, other = load_file(weights), load_file(tmp_path / "second" / "teacher.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(OutputError, match="holds a run with init"):
        train(make_config(**still), tmp_path / "second")


def test_positions_are_resampled_to_the_views(
    make_config: Any, tiny_weights: Path, tmp_path: Path
) -> None:
    config = make_config(
        model__patch=16, model__mlp_ratio=4, views__global_size=16, init=str(tiny_weights)
    )
    backbone = open_initial(config)
    assert backbone is not None
    assert backbone.image_size == 16
    prepare(config, tmp_path / "r", Processes(torch.device("cpu")), print)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model__dim": 128, "model__heads": 2}, "dim 64, the configuration 128: set model.dim"),
        ({"model__depth": 3}, "depth 2, the configuration 3: set model.depth to 2"),
        ({"model__heads": 2}, "heads 1, the configuration 2"),
        ({"model__mlp_ratio": 2}, "mlp_dim 256, the configuration 128: set model.dim times"),
        ({"model__patch": 8}, "patch_size 16, the configuration 8: set model.patch to 16"),
    ],
)
def test_another_architecture_is_refused(
    changes: dict[str, Any], said: str, make_config: Any, tiny_weights: Path
) -> None:
    fitting = {"model__patch": 16, "model__mlp_ratio": 4, **changes}
    with pytest.raises(UsageError, match=said):
        open_initial(make_config(init=str(tiny_weights), **fitting))


def test_registers_are_refused(make_config: Any, tmp_path: Path) -> None:
    module = random_vit(0, replace(VIT_SMALL_16, dim=64, depth=1, heads=1, n_registers=2))
    torch.save(module.state_dict(), tmp_path / "registers.pth")
    with pytest.raises(UsageError, match=r"registers\.pth has 2 registers, which training"):
        open_initial(make_config(init=str(tmp_path / "registers.pth")))


def test_no_such_weights(make_config: Any) -> None:
    assert open_initial(make_config()) is None
    with pytest.raises(WeightsError):
        open_initial(make_config(init="/none.safetensors"))
