"""`unidino-fast train` as it is typed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = """
name = "typed"
[[data]]
name = "spots"
[model]
dim = 64
depth = 1
heads = 1
[views]
global_size = 32
local_size = 16
n_local = 1
[dino]
out_dim = 16
hidden_dim = 16
bottleneck_dim = 8
[optim]
epochs = 2
batch = 4
warmup_epochs = 1
[machine]
device = "cpu"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "spots").mkdir()
    generator = np.random.default_rng(0)
    for index in range(8):
        image = generator.integers(0, 256, (40, 40), dtype=np.uint8)
        tifffile.imwrite(tmp_path / "spots" / f"{index}.tif", image)
    (tmp_path / "run.toml").write_text(CONFIG)
    return tmp_path / "run.toml"


def test_train_and_embed(
    run: Any, config: Path, small_plate: tuple[Path, object], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    spots = f"spots={tmp_path / 'spots'}"
    done = run("train", config, "--out", out, "--data", spots, "--json")
    assert done.code == 0, done.err
    summary = json.loads(done.out)
    assert (summary["steps"], summary["n_steps"], summary["first_step"]) == (4, 4, 0)
    assert "step 4/4 (epoch 2/2): loss" in done.err
    assert (out / "curves.png").is_file()
    again = run("train", config, "--out", out, "--data", spots)
    assert again.out == f"{out}/teacher.safetensors: step 4 of 4, for --weights\n"
    embedded = run(
        "embed", small_plate[0], "--out", tmp_path / "e", "--weights", out / "teacher.safetensors",
        "--tile", "32", "--engine", "eager", "--device", "cpu", "--json",
    )  # fmt: skip
    assert embedded.code == 0, embedded.err


def test_a_probe_is_told(
    run: Any, config: Path, small_plate: tuple[Path, Any], tmp_path: Path
) -> None:
    plate, platemap = small_plate
    platemap.write_csv(tmp_path / "map.csv")
    config.write_text(config.read_text() + '[probe]\nlabel = "Role"\nevery_epochs = 1\n')
    given = {"spots": tmp_path / "spots", "probe": plate, "probe.platemap": tmp_path / "map.csv"}
    data = [text for name, path in given.items() for text in ("--data", f"{name}={path}")]
    done = run("train", config, "--out", tmp_path / "out", *data)
    assert done.code == 0, done.err
    told = [line for line in done.err.splitlines() if "probe 1-NN" in line]
    assert [line.split(":")[0] for line in told] == [
        "step 2/4 (epoch 1/2)",
        "step 4/4 (epoch 2/2)",
    ]


def test_a_file_is_no_folder_of_a_run(refuse: Any, config: Path, tmp_path: Path) -> None:
    data = ("--data", f"spots={tmp_path / 'spots'}")
    for out in (config, config / "below"):
        refuse("train", config, "--out", out, *data, code=1, said=f"{out} cannot be made (")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "dataset spots of"),
        (["--data", "spots"], 2, "--data 'spots' is no NAME=PATH"),
        (["--data", "spots=/a", "--data", "spots=/b"], 2, "--data names a dataset twice"),
        (["--data", "spots=/none"], 1, "dataset spots: /none is no folder"),
    ],
)
def test_refusals(
    arguments: list[str], code: int, said: str, refuse: Any, config: Path, tmp_path: Path
) -> None:
    refuse("train", config, "--out", tmp_path / "out", *arguments, code=code, said=said)
