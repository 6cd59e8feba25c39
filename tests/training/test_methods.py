"""Whole runs of every method but DINO, which `test_loop` has: they learn, go on, and export."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors
import tifffile
import torch

from unidino_fast.backbones import open_backbone
from unidino_fast.errors import OutputError, TrainingError, UsageError
from unidino_fast.training.config import parse_config
from unidino_fast.training.loop import train
from unidino_fast.training.watch import Watch, read_log

if TYPE_CHECKING:
    from pathlib import Path

SMALL: dict[str, dict[str, Any]] = {
    "simclr": {"hidden_dim": 32, "out_dim": 16},
    "supcon": {"hidden_dim": 32, "out_dim": 16},
    "mae": {"decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 2},
    "ibot": {
        "out_dim": 32,
        "hidden_dim": 48,
        "bottleneck_dim": 16,
        "teacher_temperature_epochs": 2,
        "freeze_last_layer_epochs": 1,
    },
}
METHODS = list(SMALL)
SECONDS = "images_per_s"


@pytest.fixture
def make(make_config: Any, make_labelled: Any) -> Any:
    def made(method: str, **changes: Any) -> Any:
        of_method = {**SMALL[method], **changes.pop("of_method", {})}
        given = {"method": method, method: of_method, **changes}
        return make_labelled(**given) if method == "supcon" else make_config(**given)

    return made


def curve(folder: Path) -> list[dict[str, str]]:
    rows = read_log(folder / "log.csv")
    return [{name: value for name, value in row.items() if name != SECONDS} for row in rows]


def losses(folder: Path) -> list[float]:
    return [float(row["loss"]) for row in curve(folder)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    with safetensors.safe_open(folder / "teacher.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("method", METHODS)
def test_stopped_and_resumed_to_the_bit(method: str, make: Any, tmp_path: Path) -> None:
    config = make(method)
    train(config, tmp_path / "whole")
    for steps in (1, 2, None):
        train(config, tmp_path / "cut", stop_after=steps)
    assert len(losses(tmp_path / "whole")) >= 4
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")
    held, wanted = weights(tmp_path / "cut"), weights(tmp_path / "whole")
    assert held.keys() == wanted.keys()
    assert all(torch.equal(held[name], wanted[name]) for name in held)
    backbone = open_backbone(tmp_path / "whole" / "teacher.safetensors")
    assert backbone.dim == 64
    assert bool(backbone.module(torch.rand(2, 1, 32, 32)).isfinite().all())
    with safetensors.safe_open(tmp_path / "whole" / "teacher.safetensors", "pt") as file:
        header = json.loads(file.metadata()["unidino_fast"])
    recorded = json.loads(header["provenance"]["config"])
    assert recorded["method"] == method
    assert {"dino", *METHODS} & set(recorded) == {method}


@pytest.mark.parametrize("method", METHODS)
def test_training_learns(method: str, make: Any, tmp_path: Path) -> None:
    """The loss falls on a few images, and features do not collapse."""
    still = {"teacher_momentum": 1.0, "centre_momentum": 1.0, "patch_centre_momentum": 1.0}
    config = make(
        method,
        of_method=still if method == "ibot" else {},
        optim__epochs=25,
        optim__warmup_epochs=2,
        optim__images_per_epoch=24,
        optim__batch=12,
        optim__lr=0.05,
        views__shift=0.0,
        views__gamma_low=1.0,
        views__gamma_high=1.0,
        model__drop_path=0.0,
    )
    train(config, tmp_path / "r")
    found = losses(tmp_path / "r")
    # contrastive methods begin near the logarithm of the number of candidates, MAE near 1
    enough = {"simclr": 0.3, "supcon": 0.3, "mae": 0.05, "ibot": 0.3}[method]
    assert np.mean(found[-6:]) < np.mean(found[:3]) - enough
    assert float(curve(tmp_path / "r")[-1]["feature_rank"]) > 2


RUN = """
import json, os, sys
from pathlib import Path
from unidino_fast.training.config import TrainConfig
from unidino_fast.training.loop import train
for number, (port, text) in enumerate(json.loads(sys.stdin.read())):
    os.environ["MASTER_PORT"] = str(port)
    train(TrainConfig.model_validate_json(text), Path(sys.argv[1]) / str(number))
"""


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


@pytest.mark.slow
def test_two_processes_equal_one(make: Any, tmp_path: Path) -> None:
    """Two gloo processes of half a batch each against one; contrastive ones see all negatives.

    Each with all weights (DDP), and with a share of them (FSDP2), going on from a checkpoint of one
    process and computing again what blocks hold.
    """
    ways = [(method, parallel) for method in METHODS for parallel in ("ddp", "fsdp")]
    texts = []
    for number, (method, parallel) in enumerate(ways):
        config = make(method, model__drop_path=0.0, optim__batch=8, optim__clip_norm=2.0)
        if parallel == "ddp":
            train(config, tmp_path / "one" / method)
        else:
            train(config, tmp_path / "two" / str(number), stop_after=1)
        change = {"parallel": parallel, "recompute": parallel == "fsdp"}
        machine = config.machine.model_copy(update=change)
        texts.append(config.model_copy(update={"machine": machine}).model_dump_json())
    given = json.dumps(list(zip(free_ports(len(texts)), texts, strict=True)))
    where = {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", RUN, str(tmp_path / "two")],
            env={**os.environ, **where, "RANK": rank, "LOCAL_RANK": rank},
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    with ThreadPoolExecutor() as pool:
        said = list(pool.map(lambda one: one.communicate(given, timeout=240)[1], both))
    assert [one.returncode for one in both] == [0, 0], said
    for number, (method, parallel) in enumerate(ways):
        folders = tmp_path / "one" / method, tmp_path / "two" / str(number)
        one, two = map(losses, folders)
        assert len(one) == len(two) >= 3
        way = f"{method} {parallel}"
        assert two[0] == pytest.approx(one[0], rel=2e-6), way  # before any update
        # float32 gradients are summed in another order, and a high rate amplifies that
        np.testing.assert_allclose(two, one, rtol=1e-4, err_msg=way)
        norms = [[float(row["grad_norm"]) for row in curve(folder)] for folder in folders]
        np.testing.assert_allclose(norms[1], norms[0], rtol=1e-2, err_msg=way)
        wanted, held = map(weights, folders)
        for name, tensor in wanted.items():
            torch.testing.assert_close(held[name], tensor, rtol=1e-2, atol=2e-3)


@pytest.mark.parametrize("method", ["dino", *METHODS])
def test_recomputing_changes_no_bit(
    method: str, make: Any, make_config: Any, tmp_path: Path
) -> None:
    for recompute in (False, True):
        made = make_config if method == "dino" else partial(make, method)
        config = made(model__drop_path=0.3, machine__recompute=recompute)
        train(config, tmp_path / str(recompute))
    assert curve(tmp_path / "True") == curve(tmp_path / "False")
    wanted, held = weights(tmp_path / "False"), weights(tmp_path / "True")
    assert all(torch.equal(held[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize("method", ["mae", "ibot"])
def test_parts_of_a_batch_equal_the_batch(method: str, make: Any, tmp_path: Path) -> None:
    for parts in (1, 3):
        config = make(method, model__drop_path=0.0, machine__accumulate=parts)
        train(config, tmp_path / f"{parts}")
    # float32 sums in another order, amplified by training at a high rate
    np.testing.assert_allclose(losses(tmp_path / "3"), losses(tmp_path / "1"), rtol=1e-4)


def test_other_labels_are_another_run(make: Any, tmp_path: Path, labelled_folder: Path) -> None:
    config = make("supcon")
    train(config, tmp_path / "r", stop_after=1)
    lines = ["Plate,Well,drug"]
    for plate in ("p1", "p2"):
        lines += [f"{plate},{row}0{column},{row}" for row in "ABC" for column in (1, 2)]
    (tmp_path / "map.csv").write_text("\n".join(lines))
    [data] = config.data
    moved = data.model_copy(update={"platemap": str(tmp_path / "map.csv"), "label": "drug"})
    with pytest.raises(OutputError, match=r"holds a run with data"):
        train(config.model_copy(update={"data": (moved,)}), tmp_path / "r")
    first = config.model_copy(update={"data": (moved,)})
    train(first, tmp_path / "mapped", stop_after=1)
    (tmp_path / "map.csv").write_text("\n".join(lines).replace("A02,A", "A02,B"))
    with pytest.raises(OutputError, match="holds a run with labels"):
        train(first, tmp_path / "mapped")


def test_nan_names_its_dataset_alone(make_config: Any, tmp_path: Path) -> None:
    """Though all images of a contrastive batch meet."""
    generator = np.random.default_rng(0)
    (tmp_path / "bad").mkdir()
    for index in range(15):
        image = generator.random((40, 40), dtype=np.float32)
        if index % 2:  # those with even numbers are looked at beforehand
            image[20] = np.nan
        tifffile.imwrite(tmp_path / "bad" / f"{index:02}.tif", image)
    good = make_config().data[0].model_dump()
    bad = {"name": "bad", "path": str(tmp_path / "bad")}
    with pytest.raises(TrainingError) as caught:
        train(make_config(data=[good, bad], method="simclr"), tmp_path / "r")
    assert str(caught.value).startswith("step 1: the loss is not finite, in images of dataset bad:")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": "simclr", "machine": {"accumulate": 2}}, "own negatives, which method simclr"),
        ({"method": "simclr", "optim": {"batch": 1}}, "optim.batch 1 has no negatives"),
        ({"method": "mae", "mae": {"mask_share": 0.999}}, "hides all patches of a view: lower it"),
        ({"method": "mae", "mae": {"decoder_heads": 3}}, "512 is not a multiple of decoder_heads"),
        ({"method": "mae", "model": {"dim": 6, "heads": 3}}, "dim 6 is no multiple of 4"),
        ({"method": "ibot", "ibot": {"mask_spread": 0.4}}, "lower mask_spread"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_config({"data": [{"name": "a", "path": "x"}], **change})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_supcon_takes_whole_groups_and_batches(make_labelled: Any) -> None:
    with pytest.raises(UsageError, match=r"optim.batch 6 is no multiple of supcon.replicates 4"):
        make_labelled(supcon__replicates=4)
    with pytest.raises(UsageError, match="its own negatives"):
        make_labelled(machine__accumulate=2)


def test_other_methods_decide_nothing(make_config: Any) -> None:
    """What a run of one method is does not change with the settings of another."""
    plain = make_config().what_decides()
    assert make_config(simclr={"temperature": 0.5}).what_decides() == plain
    assert "simclr" not in plain
    assert make_config(method="simclr").what_decides()["simclr"]["temperature"] == 0.1


def test_advice_names_the_section_of_the_method() -> None:
    watch = Watch("ibot")
    [even] = watch.judge({"feature_rank": 9.0, "teacher_entropy": 0.9999})
    assert "lower ibot.teacher_temperature or ibot.teacher_momentum" in even
    [centre] = watch.judge({"feature_rank": 9.0, "patch_centre_norm": 0.7})
    assert "the centre has grown to 0.70" in centre
    [alike] = Watch("simclr").judge({"feature_rank": 9.0, "negative_cosine": 0.995})
    assert "cosine of 0.995" in alike
    assert "simclr.temperature" in alike
    assert Watch("simclr").judge({"feature_rank": 9.0, "negative_cosine": math.nan}) == []
