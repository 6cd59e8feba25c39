"""What `embed --dry-run` finds out, and that it does nothing else."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

from unidino_fast.lock import FolderLock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import polars as pl

    Run = Callable[..., Any]


def test_dry_run_does_nothing(
    run: Run, small_plate: tuple[Path, pl.DataFrame], tmp_path: Path
) -> None:
    planned = run(
        "embed", small_plate[0], "--out", tmp_path / "out", "--tile", "32", "--dry-run", "--json"
    )
    assert planned.code == 0
    facts = json.loads(planned.out)
    assert facts["n_tiles"] == facts["plates"][0]["n_tiles"] == 6 * 2 * 6 * 3
    assert not (tmp_path / "out").exists()


def test_dry_run_refuses_what_embed_refuses(
    run: Run, plate_path: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    held = sorted(tmp_path.rglob("*"))
    usual = ("--weights", tiny_weights, "--tile", "32")
    on_cpu = (*usual, "--device", "cpu", "--out", tmp_path / "o")
    for words, code, said in (
        ((*usual, "--out", plate_path / "x"), 2, "lies in the plate"),
        ((*usual, "--out", tmp_path / "file"), 1, "file is no folder"),
        (("--weights", tiny_weights, "--tile", "50", "--out", tmp_path / "o"), 2, "not a multiple"),
        (("--weights", tmp_path / "no.pth", "--out", tmp_path / "o"), 1, "no.pth"),
        ((*usual, "--device", "cuda:99", "--out", tmp_path / "o"), 2, "cuda:99"),
        ((*on_cpu, "--engine", "tensorrt"), 2, "engine tensorrt does not run on cpu"),
        ((*on_cpu, "--engine", "tensorrt", "--weights", "no.pth"), 2, "does not run on cpu"),
        ((*on_cpu, "--engine", "tensorrt", "--workers", "2"), 2, "does not run on cpu"),
        ((*on_cpu, "--engine", "onnx", "--precision", "bf16"), 2, "onnx does not compute in bf16"),
        ((*on_cpu, "--engine", "onnx", "--precision", "fp8"), 2, "precision fp8 needs a CUDA"),
    ):
        for more in (("--dry-run",), ()):
            refused = run("embed", plate_path, *words, *more)
            assert (refused.code, refused.out) == (code, "")
            assert said in refused.err
            assert "embedding" not in refused.err
            assert "starting" not in refused.err
    assert sorted(tmp_path.rglob("*")) == held


def test_dry_run_leaves_a_folder_to_the_workers_of_a_cluster(
    run: Run, plate_path: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    call = ("embed", plate_path, "--out", tmp_path, "--weights", tiny_weights, "--tile", "32")
    run(*call)
    cluster = ("--scheduler", "tcp://127.0.0.1:9", "--dry-run")
    found = run(*call, *cluster, "--json")
    assert "small holds results, which are judged when workers are there" in found.err
    facts = json.loads(found.out)
    assert (facts["n_wells"], facts["n_resumed"], facts["n_tiles_left"]) == (6, None, None)
    assert "would embed 216 tiles (at most)" in run(*call, *cluster).out


def test_dry_run_looks_at_what_the_folder_holds(
    run: Run, plate_path: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    call = ("embed", plate_path, "--out", tmp_path, "--weights", tiny_weights, "--tile", "32")
    run(*call)
    for name in ("A02", "B03"):
        (tmp_path / f"small/parts/{name}.parquet").unlink()
    held = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    planned = run(*call, "--dry-run")
    assert planned.out.startswith(
        f"small: 4 of 6 wells are done already; would embed {2 * 2 * 6 * 3} tiles (at most) of"
        " 4 fields in 2 wells, "
    )
    facts = json.loads(run(*call, "--dry-run", "--json").out)
    assert (facts["n_wells"], facts["n_resumed"], facts["n_tiles_left"]) == (6, 4, 2 * 2 * 6 * 3)
    assert (facts["n_tiles"], facts["n_fields_left"]) == (6 * 2 * 6 * 3, 4)
    afresh = json.loads(run(*call, "--dry-run", "--json", "--overwrite").out)
    assert (afresh["n_resumed"], afresh["n_tiles_left"]) == (0, 6 * 2 * 6 * 3)
    shard = json.loads(run(*call, "--dry-run", "--json", "--shard", "2/3").out)  # A02, B02
    assert (shard["n_wells"], shard["n_resumed"]) == (2, 1)
    assert " of 2 fields in 1 well, " in run(*call, "--dry-run", "--shard", "2/3").out
    refused = run(*call, "--dry-run", "--intensity", "percentile")
    assert refused.code == 1
    assert "made with options intensity dtype, now percentile" in refused.err
    chunk = plate_path / "B/2/1/0/1/0/0"
    chunk.write_bytes(chunk.read_bytes())
    changed = run(*call, "--dry-run")
    assert (changed.code, changed.out) == (1, "")
    assert "times of the chunks of well B02 changed" in changed.err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} | held == held
    shutil.rmtree(plate_path / "B/2")
    run(*call)
    assert run(*call, "--dry-run").out.startswith("small: all 5 wells are done already, in ")


def test_dry_run_says_who_else_writes_there(
    run: Run, plate_path: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    call = ("embed", plate_path, "--out", tmp_path, "--weights", tiny_weights, "--tile", "32")
    folder = tmp_path / "small"
    folder.mkdir()
    lock, of_shard = FolderLock(folder / ".lock"), FolderLock(folder / ".lock-2-of-3")
    said = f"note: {folder} was taken by process {os.getpid()} on "
    lock.acquire()
    assert said in run(*call, "--dry-run").err
    assert said in run(*call, "--dry-run", "--shard", "1/3").err
    assert "is in use by process" in run(*call).err
    lock.release()
    of_shard.acquire()
    assert said in run(*call, "--dry-run").err
    assert said in run(*call, "--dry-run", "--shard", "2/3").err
    assert said not in run(*call, "--dry-run", "--shard", "1/3").err
    of_shard.release()
    assert said not in run(*call, "--dry-run").err


def test_dry_run_says_what_is_missing(
    run: Run, plate_path: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    """In the words of a run, whose exit code it has."""
    (plate_path / "A/2/.zattrs").write_bytes(b"{not json")
    (plate_path / "A/1/0/0/1/0/0").unlink()
    shutil.rmtree(plate_path / "B/3")
    gone = tmp_path / "gone.zarr"
    options = ("--weights", tiny_weights, "--tile", "32", "--on-error", "skip")
    for plates, place in (((plate_path,), ""), ((plate_path, gone), "small: ")):
        call = ("embed", *plates, "--out", tmp_path / f"out{len(plates)}", *options)
        planned, done = run(*call, "--dry-run"), run(*call)
        assert planned.code == done.code == 3
        for said in (
            f"warning: {place}well B03 (B/3) is listed but absent",
            f"warning: {place}1 of the plate's ",
            f"left out: {place}well A02: ",
        ):
            assert said in planned.err
            assert said in done.err
        facts = json.loads(run(*call, "--dry-run", "--json").out)
        assert [list(facts["left_out"]), list(facts["failed"])] == [
            ["small"],
            [str(gone)] * (len(plates) - 1),
        ]
        assert list(facts["left_out"]["small"]) == list(facts["plates"][0]["left_out"]) == ["A02"]
