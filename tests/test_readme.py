"""Every command and every line of Python in the README, run as it stands there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tifffile
import timm
import torch

from unidino_fast.names import WellName
from unidino_fast.simulate import SimulatedPlate, design_plate

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return [
        "\n".join(line.removeprefix(indent) for line in body.splitlines())
        for indent, body in re.findall(rf"^( *)```{language}\n(.*?)```", README, re.M | re.S)
    ]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the README takes for granted: images, weights, a platemap."""
    folder = tmp_path_factory.mktemp("readme")
    plate = SimulatedPlate(rows=3, columns=5, size=(230, 230), channels=("DNA", "ER"))
    platemap = design_plate(plate)
    platemap.write_csv(folder / "platemap.csv")
    (folder / "images").mkdir()
    (folder / "tiffs").mkdir()
    for index, (well, compound) in enumerate(platemap.select("Well", "Compound").iter_rows()):
        row, column = divmod(index, 5)
        pixels = plate.field(WellName(row, column + 1), compound)
        for channel, plane in enumerate(pixels, start=1):
            name = f"r{row + 1:02d}c{column + 1:02d}f01p01-ch{channel}sk1fk1fl1.tiff"
            tifffile.imwrite(folder / "images" / name, plane)
            tifffile.imwrite(folder / "tiffs" / f"{well}_f1_c{channel}.tif", plane)
    torch.manual_seed(0)
    vit = timm.create_model(
        "vit_small_patch16_224", in_chans=1, embed_dim=64, depth=1, num_heads=1, num_classes=0
    )
    teacher = {f"backbone.{name}": value for name, value in vit.state_dict().items()}
    torch.save({"teacher": teacher, "student": {}, "epoch": 1}, folder / "unidino.pth")
    return folder


def test_shell_commands(desk: Path) -> None:
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.strip()]
    assert len(commands) >= 8
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
    for command in commands:
        words = shlex.split(command, comments=True)
        if words[0] == "make":  # run by whoever runs this test
            assert set(words[1:]) <= set(targets)
            continue
        assert words[0] == "unidino-fast"
        call = [sys.executable, "-m", "unidino_fast", *words[1:]]
        done = subprocess.run(call, cwd=desk, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stderr}"


def test_python(desk: Path) -> None:
    [code] = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=desk, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\d\.\d\d of \d+ wells, by chance \d\.\d\d\n", done.stdout)
