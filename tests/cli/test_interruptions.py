"""Ctrl-C and SIGTERM: one line, the exit code of a shell, nothing half-written left behind."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

import unidino_fast as uf
from unidino_fast.cli.plates import how_it_ended
from unidino_fast.config import EmbedOptions
from unidino_fast.console import WellProgress
from unidino_fast.embed_command import how_to_go_on
from unidino_fast.planning import plan_plate
from unidino_fast.shards import Shard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def interrupt(
    call: list[str], number: signal.Signals, ready: Callable[[], bool]
) -> tuple[int, list[str]]:
    """Starts a command, sends it a signal as soon as `ready`; exit code and what it said."""
    with subprocess.Popen(
        [sys.executable, "-m", "unidino_fast", *call],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            deadline = time.monotonic() + 60
            while not ready():
                assert process.poll() is None, process.stderr
                assert time.monotonic() < deadline
                time.sleep(0.005)
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert out == ""
    assert "Traceback" not in err
    return process.returncode, err.splitlines()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_convert_leaves_nothing(tmp_path: Path, number: signal.Signals, code: int) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    pixels = np.random.default_rng(0).integers(0, 60_000, (512, 512), dtype=np.uint16)
    tifffile.imwrite(source / "A01_s0_w1.tif", pixels)
    for site in range(1, 600):
        (source / f"A01_s{site}_w1.tif").hardlink_to(source / "A01_s0_w1.tif")
    plate = out / "p.zarr"
    ended = interrupt(
        ["convert", str(source), "--out", str(plate)],
        number,
        lambda: any(out.glob(".p.zarr.*.partial/A/1/2")),
    )
    assert ended == (code, [f"interrupted: {plate} is not written; run it again to start over"])
    assert list(out.iterdir()) == []


def test_what_is_said_of_a_converted_plate(tmp_path: Path) -> None:
    """An interruption that comes when the plate is renamed to its place comes too late."""
    out = tmp_path / "p.zarr"
    said = how_it_ended(out)
    assert said() == f"{out} is not written; run it again to start over"
    out.mkdir()
    assert said() == f"{out} is written, whole"
    said = how_it_ended(out)  # with --overwrite
    assert said() == f"{out} is not written; run it again to start over"
    (tmp_path / "new").mkdir()
    out.rename(tmp_path / "old")
    (tmp_path / "new").rename(out)
    assert said() == f"{out} is written, whole"


def test_demo_leaves_no_partial_plate(tmp_path: Path, tiny_weights: Path) -> None:
    out = tmp_path / "demo"
    code, said = interrupt(
        ["demo", "--out", str(out), "--weights", str(tiny_weights)],
        signal.SIGTERM,
        lambda: any(out.glob(".plate.zarr.*.partial/A")),
    )
    assert (code, said[-1]) == (143, f"interrupted: run it again to start {out} over")
    assert [path.name for path in out.iterdir()] == [".unidino_fast_demo"]


@pytest.fixture
def slow_run(
    plate_path: Path, tiny_weights: Path, tmp_path: Path
) -> Iterator[subprocess.Popen[str]]:
    """`embed` in a process of its own, with work for some seconds."""
    for well in ("C", "D", "E", "F", "G", "H"):
        shutil.copytree(plate_path / "A", plate_path / well)
    root = json.loads((plate_path / ".zattrs").read_text())
    root["plate"]["wells"] += [
        {"path": f"{row}/{column}", "rowIndex": 0, "columnIndex": 0}
        for row in "CDEFGH"
        for column in (1, 2, 3)
    ]
    (plate_path / ".zattrs").write_text(json.dumps(root))
    call = [
        sys.executable, "-m", "unidino_fast", "embed", str(plate_path), "--out",
        str(tmp_path / "out"), "--weights", str(tiny_weights), "--tile", "32", "--stride", "6",
        "--json",
    ]  # fmt: skip
    with subprocess.Popen(
        call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_embed_keeps_finished_wells_and_says_how_to_go_on(
    slow_run: subprocess.Popen[str], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    parts = tmp_path / "out/small/parts"
    deadline = time.monotonic() + 60
    while len(list(parts.glob("*.parquet"))) < 2:
        assert slow_run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    slow_run.send_signal(number)
    _, err = slow_run.communicate(timeout=30)
    assert slow_run.returncode == code
    said = f"interrupted: {tmp_path}/out keeps the finished wells; run it again to go on"
    assert err.splitlines()[-1] == said
    assert "Traceback" not in err
    n_kept = len(list(parts.glob("*.parquet")))
    assert not list(tmp_path.rglob("out/**/.*"))
    again = subprocess.run(
        [str(argument) for argument in slow_run.args],  # type: ignore[union-attr]
        capture_output=True,
        text=True,
        check=True,
    )
    summary = json.loads(again.stdout)
    assert summary["n_resumed"] == n_kept
    assert summary["n_wells"] == 24


def test_nothing_is_kept_where_no_well_was_finished(tmp_path: Path) -> None:
    def how(*, overwrite: bool = False) -> str:
        return how_to_go_on(tmp_path, overwrite=overwrite)

    assert how().startswith("no well was finished yet")
    (tmp_path / "p/parts").mkdir(parents=True)
    assert how().startswith("no well was finished yet")
    (tmp_path / "p/parts/A01.parquet").touch()
    kept = f"{tmp_path} keeps the finished wells; run it again "
    assert how() == f"{kept}to go on"
    assert how(overwrite=True) == f"{kept}without --overwrite, which starts over, to go on"


def test_a_run_says_what_is_left_to_do(
    plate_path: Path, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = uf.load_backbone(str(tiny_weights), device="cpu")

    def said(out: Path = tmp_path, shard: Shard | None = None) -> list[str]:
        with WellProgress() as progress:
            uf.embed_to_folder(
                uf.open_plate(plate_path), model, out, EmbedOptions(tile=32),
                shard=shard, on_start=progress.start,
            )  # fmt: skip
        lines = capsys.readouterr().err.splitlines()
        return [line for line in lines if not line.startswith("note: ")]  # which others switch on

    n_tiles = plan_plate(uf.open_plate(plate_path), EmbedOptions(tile=32)).n_tiles
    assert said() == [f"embedding {n_tiles} tiles of 6 wells"]
    assert said() == ["all 6 wells are done already"]
    (tmp_path / "small/parts/B02.parquet").unlink()
    assert said() == [
        "going on: 5 of 6 wells are done already",
        f"embedding {n_tiles // 6} tiles of 1 well",
    ]
    assert said(tmp_path / "shards", Shard(7, 7)) == ["no well falls to this shard"]
