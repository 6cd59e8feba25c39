"""The command line as a user meets it: what each command gives, and how runs end."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., Any]


def test_from_plate_to_accuracy(
    run: Run, small_plate: tuple[Path, pl.DataFrame], tiny_weights: Path, tmp_path: Path
) -> None:
    path, platemap = small_plate
    platemap.write_csv(tmp_path / "map.csv")
    out = tmp_path / "out"
    embedded = run(
        "embed", path, "--out", out, "--weights", tiny_weights, "--tile", "32",
        "--metadata", tmp_path / "map.csv", "--json",
    )  # fmt: skip
    assert embedded.code == 0, embedded.err
    assert embedded.err.count("note: engine auto is eager: ") == 1
    summary = json.loads(embedded.out)
    assert (summary["n_wells"], summary["n_fields"], summary["n_features"]) == (6, 12, 192)
    assert summary["plates"][0]["plate"] == "small"
    assert summary["peak_memory_mb"] > 0
    made = run(
        "profile", out / "small/wells.parquet", "--out", tmp_path / "p.csv",
        "--method", "standardize", "--samples", "Metadata_Compound == 'DMSO'",
    )  # fmt: skip
    assert made.code == 0, made.err
    controls = pl.read_csv(tmp_path / "p.csv").filter(pl.col("Metadata_Compound") == "DMSO")
    assert controls["DNA_000"].mean() == pytest.approx(0, abs=1e-5)
    evaluated = run(
        "evaluate", out / "small/profiles.parquet", "--label", "Metadata_MoA",
        "--not-same", "Metadata_Well", "--json",
    )  # fmt: skip
    assert evaluated.code == 0, evaluated.err
    result = json.loads(evaluated.out)
    assert {"accuracy", "n_queries", "n_without_candidate", "rule"} <= set(result)
    assert result["rule"] == "strict"
    text = run("evaluate", out / "small/profiles.parquet", "--label", "MoA")
    assert text.out.startswith("accuracy ")


def test_profile_repeats_what_embed_wrote(
    run: Run, small_plate: tuple[Path, pl.DataFrame], tiny_weights: Path, tmp_path: Path
) -> None:
    run("embed", small_plate[0], "--out", tmp_path, "--weights", tiny_weights, "--tile", "32")
    run("profile", tmp_path / "small/wells.parquet", "--out", tmp_path / "again.parquet")
    again = pl.read_parquet(tmp_path / "again.parquet")
    assert again.equals(pl.read_parquet(tmp_path / "small/profiles.parquet"))


def test_profile_spares_the_table_that_it_reads(
    run: Run, small_plate: tuple[Path, pl.DataFrame], tmp_path: Path
) -> None:
    wells = tmp_path / "wells.csv"
    wells.write_text("Metadata_Plate,Metadata_Well,DNA_000\np,A01,1.5\np,A02,2.5\n")
    before = wells.read_bytes()
    (tmp_path / "other").mkdir()
    (tmp_path / "link.csv").symlink_to(wells)
    for name in ("wells.csv", "other/../wells.csv", "link.csv"):
        refused = run("profile", wells, "--out", tmp_path / name)
        assert refused.code == 2
        assert refused.err.endswith("is the table that is read: name another file\n")
    assert wells.read_bytes() == before
    assert run("profile", wells, "--out", tmp_path / "p.csv").code == 0


def test_several_plates_share_a_call(
    run: Run, plate_path: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.zarr"
    shutil.copytree(plate_path, other)
    root = json.loads((other / ".zattrs").read_text())
    root["plate"]["name"] = "other"
    (other / ".zattrs").write_text(json.dumps(root))
    options = ("--out", tmp_path / "out", "--weights", tiny_weights, "--tile", "32")
    planned = json.loads(run("embed", plate_path, other, *options, "--dry-run", "--json").out)
    assert [p["plate"] for p in planned["plates"]] == ["small", "other"]
    assert planned["n_tiles"] == 2 * 6 * 2 * 6 * 3
    done = run("embed", plate_path, other, *options, "--json")
    assert done.code == 0, done.err
    assert [p["plate"] for p in json.loads(done.out)["plates"]] == ["small", "other"]
    shards = tmp_path / "shards"
    run("embed", plate_path, other, "--out", shards, *options[2:], "--shard", "1/1")
    merged = run("merge", shards / "small", shards / "other", "--json")
    assert [p["plate"] for p in json.loads(merged.out)["plates"]] == ["small", "other"]
    assert json.loads(run("merge", shards / "small", "--json").out)["plate"] == "small"
    (other / "B/2/0/0/1/0/0").write_bytes(b"rubbish")
    skipped = (*options[2:], "--out", tmp_path / "skip", "--on-error", "skip")
    assert run("embed", plate_path, other, *skipped, "--shard", "1/1").code == 3
    merged = run("merge", tmp_path / "skip/small", tmp_path / "skip/other")
    assert merged.code == 3
    assert [line[:47] for line in merged.err.splitlines() if line.startswith("left out")] == [
        "left out: other: well B02: chunk B/2/0/0/1/0/0 "
    ]
    clash = run("embed", plate_path, plate_path, *options)
    assert clash.code == 2
    assert "both named small" in clash.err
    gone = tmp_path / "gone.zarr"
    skipped = run("embed", gone, plate_path, *options, "--on-error", "skip", "--json")
    assert skipped.code == 3
    assert list(json.loads(skipped.out)["failed"]) == [str(gone)]


def test_skip_names_what_it_left_out_and_exits_with_3(
    run: Run, plate_path: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    (plate_path / "A/2/0/0/0/0/0").write_bytes(b"rubbish")
    shutil.rmtree(plate_path / "B/3")
    done = run(
        "embed", plate_path, "--out", tmp_path / "out", "--weights", tiny_weights,
        "--tile", "32", "--on-error", "skip",
    )  # fmt: skip
    assert done.code == 3
    assert "left out: well A02: chunk A/2/0/0/0/0/0" in done.err
    assert "warning: well B03 (B/3) is listed but absent" in done.err
    other = tmp_path / "other.zarr"
    shutil.copytree(plate_path, other)
    (other / "A/1/0/0/.zarray").write_text("{")
    root = json.loads((other / ".zattrs").read_text())
    root["plate"]["name"] = "other"
    (other / ".zattrs").write_text(json.dumps(root))
    options = ("--out", tmp_path / "both", "--weights", tiny_weights, "--tile", "32")
    both = run("embed", plate_path, other, *options, "--on-error", "skip")
    assert both.code == 3
    for line in (
        "left out: small: well A02: chunk A/2/0/0/0/0/0",
        "left out: other: array of field A01/0: metadata at A/1/0/0: is not JSON",
        "warning: other: well B03 (B/3) is listed but absent",
    ):
        assert line in both.err
    shutil.copy(plate_path / "A/1/0/0/.zarray", other / "A/1/0/0/.zarray")
    failed = run("embed", other, plate_path, *options[2:], "--out", tmp_path / "fail")
    assert failed.code == 1
    assert f"{other}: chunk A/2/0/0/0/0/0 cannot be read" in failed.err
    wells = pl.read_parquet(tmp_path / "out/small/wells.parquet")
    assert wells["Metadata_Well"].to_list() == ["A01", "A03", "B01", "B02"]


def test_a_plate_is_summed_up_when_it_is_done(
    run: Run, plate_path: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    """Also where a later one ends the run."""
    other = tmp_path / "other.zarr"
    shutil.copytree(plate_path, other)
    (other / "A/2/0/0/0/0/0").write_bytes(b"rubbish")
    root = json.loads((other / ".zattrs").read_text())
    root["plate"]["name"] = "other"
    (other / ".zattrs").write_text(json.dumps(root))
    options = ("--out", tmp_path / "out", "--weights", tiny_weights, "--tile", "32")
    done = run("embed", plate_path, other, *options)
    assert done.code == 1
    assert done.out.startswith("small: 6 wells")
    assert "other" not in done.out


def test_skip_counts_faulty_metadata_as_left_out(
    run: Run, plate_path: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    (plate_path / "A/2/.zattrs").write_bytes(b"{not json")
    options = ("--out", tmp_path / "out", "--weights", tiny_weights, "--tile", "32")
    done = run("embed", plate_path, *options, "--on-error", "skip", "--json")
    assert done.code == 3
    assert list(json.loads(done.out)["left_out"]["small"]) == ["A02"]


def test_absent_chunks_are_said(
    run: Run, plate_path: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    (plate_path / "A/2/0/0/1/0/0").unlink()
    (tmp_path / "map.csv").write_text("Well,Dose\nA01,1\n")
    options = ("--out", tmp_path / "out", "--weights", tiny_weights, "--tile", "32")
    done = run("embed", plate_path, *options, "--metadata", tmp_path / "map.csv")
    assert done.code == 0
    warning = (
        "warning: 1 of the plate's 36 chunks is absent and reads as the fill value, the first in"
        " A/2/0/0: is the copy of the plate complete?"
    )
    assert warning in done.err
    assert "warning: map.csv: 5 wells have no row" in done.err


def test_a_damaged_chunk_ends_the_process(
    plate_path: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    """The thread that reads ahead must not keep the interpreter from leaving."""
    (plate_path / "A/1/0/0/1/0/0").write_bytes(b"rubbish")
    call = [
        sys.executable, "-m", "unidino_fast", "embed", str(plate_path), "--out",
        str(tmp_path / "out"), "--weights", str(tiny_weights), "--tile", "32",
    ]  # fmt: skip
    for _ in range(3):
        done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=90)
        assert done.returncode == 1
        assert "Exception ignored" not in done.stderr


def test_demo_spares_the_files_of_others(run: Run, plate_path: Path) -> None:
    before = sorted(plate_path.parent.rglob("*"))
    refused = run("demo", "--out", plate_path.parent)
    assert refused.code == 1
    assert "holds files that no demo wrote" in refused.err
    assert sorted(plate_path.parent.rglob("*")) == before


def test_traceback_is_shown_when_asked_for(tmp_path: Path) -> None:
    call = [sys.executable, "-m", "unidino_fast", "info", str(tmp_path / "no"), "--traceback"]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "PlateError" in done.stderr


def test_info_for_people_and_programs(run: Run, small_plate: tuple[Path, pl.DataFrame]) -> None:
    text = run("info", small_plate[0])
    assert text.code == 0
    assert "DNA, ER, Mito" in text.out
    facts = json.loads(run("info", small_plate[0], "--json").out)
    assert facts["n_wells"] == 6
    assert facts["channels"] == ["DNA", "ER", "Mito"]


def test_convert(run: Run, tmp_path: Path) -> None:
    import tifffile

    source = tmp_path / "images"
    source.mkdir()
    for well in ("A01", "B02"):
        for channel in (1, 2):
            tifffile.imwrite(source / f"{well}_c{channel}.tif", np.full((8, 9), channel, np.uint8))
    done = run(
        "convert", source, "--out", tmp_path / "p.zarr",
        "--pattern", r"(?P<well>[A-Z]\d+)_c(?P<channel>\d)", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert json.loads(done.out)["n_wells"] == 2
    facts = json.loads(run("info", tmp_path / "p.zarr", "--json").out)
    assert facts["image_size"] == [[8, 9]]
    again = run("convert", source, "--out", tmp_path / "p.zarr", "--pattern", r"(?P<well>A01)")
    assert again.code == 1
    assert "--overwrite" in again.err


def test_version_and_help(run: Run) -> None:
    assert run("--version").out.strip() == "0.1.0"
    shown = run("--help").out
    for command in ("demo", "info", "convert", "embed", "profile", "evaluate"):
        assert command in shown
        assert run(command, "--help").code == 0
