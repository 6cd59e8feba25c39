"""The command line as a user meets it: results, one-line errors, exit codes."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import polars as pl
import pytest
import torch

from unidino_fast import cli
from unidino_fast.writing import PlateWriter

if TYPE_CHECKING:
    from collections.abc import Iterator


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


class Run(Protocol):
    def __call__(self, *arguments: str | Path) -> Outcome: ...


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["unidino-fast", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as leave:
            code = leave.code if isinstance(leave.code, int) else 1
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture
def plate_path(small_plate: tuple[Path, pl.DataFrame], tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_plate[0], tmp_path / "small.zarr"))


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


def test_dry_run_does_nothing(
    run: Run, small_plate: tuple[Path, pl.DataFrame], tmp_path: Path
) -> None:
    planned = run(
        "embed", small_plate[0], "--out", tmp_path / "out", "--tile", "32", "--dry-run", "--json"
    )
    assert planned.code == 0
    assert json.loads(planned.out)["n_tiles"] == 6 * 2 * 6 * 3
    assert not (tmp_path / "out").exists()


def test_several_plates_share_a_call(
    run: Run, plate_path: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.zarr"
    shutil.copytree(plate_path, other)
    root = json.loads((other / ".zattrs").read_text())
    root["plate"]["name"] = "other"
    (other / ".zattrs").write_text(json.dumps(root))
    options = ("--out", tmp_path / "out", "--weights", tiny_weights, "--tile", "32")
    done = run("embed", plate_path, other, *options, "--json")
    assert done.code == 0, done.err
    assert [p["plate"] for p in json.loads(done.out)["plates"]] == ["small", "other"]
    clash = run("embed", plate_path, plate_path, *options)
    assert clash.code == 2
    assert "both named small" in clash.err
    gone = tmp_path / "gone.zarr"
    skipped = run("embed", gone, plate_path, *options, "--on-error", "skip", "--json")
    assert skipped.code == 3
    assert list(json.loads(skipped.out)["failed"]) == [str(gone)]


def damaged(path: Path, name: str, content: bytes) -> None:
    (path / name).write_bytes(content)


BAD_PLATES = {
    "absent": (lambda path: shutil.rmtree(path), 1, "does not exist"),
    "not a plate": (
        lambda path: [p.unlink() for p in (path / ".zattrs", path / ".zgroup")],
        1,
        "is not an OME-Zarr plate",
    ),
    "no well on disk": (
        lambda path: [shutil.rmtree(path / row) for row in "AB"],
        1,
        "has no readable well",
    ),
    "metadata not JSON": (
        lambda path: damaged(path, "A/2/.zattrs", b"{not json"),
        1,
        "A/2 is not JSON",
    ),
    "root not JSON": (lambda path: damaged(path, ".zattrs", b"\xff\xfe"), 1, "is not JSON"),
    "truncated chunk": (
        lambda path: damaged(path, "A/2/0/0/0/0/0", (path / "A/2/0/0/0/0/0").read_bytes()[:99]),
        1,
        "A/2/0/0/0/0/0",
    ),
    "corrupt chunk": (lambda path: damaged(path, "A/1/0/0/0/0/0", b"\0" * 999), 1, "A/1/0/0/0/0/0"),
    "climbs out": (
        lambda path: damaged(
            path, ".zattrs", (path / ".zattrs").read_bytes().replace(b"A/2", b"../../secret")
        ),
        1,
        "leaves the plate",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD_PLATES)
def test_bad_plates(
    run: Run, plate_path: Path, tiny_weights: Path, tmp_path: Path, fault: str
) -> None:
    damage, code, said = BAD_PLATES[fault]
    damage(plate_path)
    out = tmp_path / "out"
    failed = run("embed", plate_path, "--out", out, "--weights", tiny_weights, "--tile", "32")
    assert_one_line(failed, code, said)
    assert not [p for p in out.rglob("*") if p.name.startswith(".")]
    if fault != "truncated chunk":  # there A01 is finished and stays for the next run
        assert not out.exists()


BAD_OPTIONS: dict[str, tuple[list[str], int, str]] = {
    "no such channel": (["--channels", "DNA,ERR"], 2, "did you mean ER"),
    "tile larger than the field": (["--tile", "96"], 2, "does not fit field A01/0 of 70 x 100 px"),
    "tile of no size": (["--tile", "0"], 2, "tile 0 is not allowed"),
    "z plane": (["--z", "4"], 2, "z plane 4"),
    "z word": (["--z", "median"], 2, "z 'median' is not allowed"),
    "acquisition": (["--acquisition", "7"], 1, "has no readable well"),
    "weights absent": (["--weights", "nowhere.pth"], 1, "nowhere.pth"),
    "platemap absent": (["--metadata", "nowhere.csv"], 1, "nowhere.csv does not exist"),
    "device": (["--device", "abacus"], 2, "abacus"),
    "unknown option": (["--colour", "red"], 2, "colour"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options(
    run: Run,
    small_plate: tuple[Path, pl.DataFrame],
    tiny_weights: Path,
    tmp_path: Path,
    case: str,
) -> None:
    options, code, said = BAD_OPTIONS[case]
    out = tmp_path / "out"
    base = ["--weights", str(tiny_weights), "--tile", "32"]
    failed = run("embed", small_plate[0], "--out", out, *base, *options)
    assert failed.code == code
    assert said in failed.err
    assert "Traceback" not in failed.err
    if case != "unknown option":  # typer shows the usage there
        assert_one_line(failed, code, said)
    assert not out.exists()


class Touch:
    """Pickled code: runs a command when it is unpickled by a careless loader."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("code", "refused"),
        ("lfs", "git-LFS pointer"),
        ("empty", "empty"),
        ("other", "architecture"),
    ],
)
def test_bad_weights(
    run: Run, small_plate: tuple[Path, pl.DataFrame], tmp_path: Path, kind: str, said: str
) -> None:
    file = tmp_path / "w.pth"
    if kind == "code":
        file.write_bytes(pickle.dumps({"teacher": Touch(tmp_path / "ran")}))
    elif kind == "lfs":
        file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    elif kind == "empty":
        file.touch()
    else:
        torch.save({"conv1.weight": torch.zeros(8, 3, 7, 7), "fc.bias": torch.zeros(5)}, file)
    out = tmp_path / "out"
    failed = run("embed", small_plate[0], "--out", out, "--weights", file, "--tile", "32")
    assert_one_line(failed, 1, said)
    assert "w.pth" in failed.err
    assert not out.exists()
    assert not (tmp_path / "ran").exists()


def test_platemap_without_a_well_column(
    run: Run, small_plate: tuple[Path, pl.DataFrame], tiny_weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "map.csv").write_text("compound,dose\nx,1\n")
    out = tmp_path / "out"
    failed = run(
        "embed", small_plate[0], "--out", out, "--weights", tiny_weights, "--tile", "32",
        "--metadata", tmp_path / "map.csv",
    )  # fmt: skip
    assert_one_line(failed, 1, "map.csv has no well column")
    assert not out.exists()


def test_output_that_cannot_be_written(
    run: Run, small_plate: tuple[Path, pl.DataFrame], tiny_weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    failed = run(
        "embed", small_plate[0], "--out", tmp_path / "file" / "out",
        "--weights", tiny_weights, "--tile", "32",
    )  # fmt: skip
    assert_one_line(failed, 1, "cannot be written")


def test_nan_pixels(run: Run, tiny_weights: Path, tmp_path: Path) -> None:
    pixels = np.full((1, 40, 40), 0.5, np.float32)
    pixels[0, 0, 0] = np.nan
    with PlateWriter(tmp_path / "n.zarr", name="n", channels=["DNA"]) as writer:
        writer.add_field("C7", "0", pixels)
    out = tmp_path / "out"
    failed = run("embed", tmp_path / "n.zarr", "--out", out, "--weights", tiny_weights, "--tile=32")
    assert_one_line(failed, 1, "field C07/0, channel DNA: 0.06% of its pixels are NaN or infinite")
    assert not out.exists()


def test_skip_names_what_it_left_out_and_exits_with_3(
    run: Run, plate_path: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    damaged(plate_path, "A/2/0/0/0/0/0", b"rubbish")
    shutil.rmtree(plate_path / "B/3")
    done = run(
        "embed", plate_path, "--out", tmp_path / "out", "--weights", tiny_weights,
        "--tile", "32", "--on-error", "skip",
    )  # fmt: skip
    assert done.code == 3
    assert "left out: well A02: chunk A/2/0/0/0/0/0" in done.err
    assert "warning: well B03 (B/3) is listed but absent" in done.err
    wells = pl.read_parquet(tmp_path / "out/small/wells.parquet")
    assert wells["Metadata_Well"].to_list() == ["A01", "A03", "B01", "B02"]


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
    assert_one_line(again, 1, "--overwrite")


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
        str(tmp_path / "out"), "--weights", str(tiny_weights), "--tile", "32", "--stride", "2",
        "--json",
    ]  # fmt: skip
    with subprocess.Popen(
        call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def test_ctrl_c_keeps_finished_wells_and_says_how_to_go_on(
    slow_run: subprocess.Popen[str], tmp_path: Path
) -> None:
    parts = tmp_path / "out/small/parts"
    deadline = time.monotonic() + 60
    while len(list(parts.glob("*.parquet"))) < 2:
        assert slow_run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    slow_run.send_signal(signal.SIGINT)
    _, err = slow_run.communicate(timeout=30)
    assert slow_run.returncode == 130
    assert "interrupted" in err
    assert "run it again to go on" in err
    assert "Traceback" not in err
    n_kept = len(list(parts.glob("*.parquet")))
    assert not [p for p in parts.iterdir() if p.name.startswith(".")]
    again = subprocess.run(
        [str(argument) for argument in slow_run.args],  # type: ignore[union-attr]
        capture_output=True,
        text=True,
        check=True,
    )
    summary = json.loads(again.stdout)
    assert summary["n_resumed"] == n_kept
    assert summary["n_wells"] == 24


def test_version_and_help(run: Run) -> None:
    assert run("--version").out.strip() == "0.1.0"
    shown = run("--help").out
    for command in ("demo", "info", "convert", "embed", "profile", "evaluate"):
        assert command in shown
        assert run(command, "--help").code == 0


def assert_one_line(outcome: Outcome, code: int, said: str) -> None:
    """The error is the last thing on standard error: one line, by our name, without a traceback."""
    assert outcome.code == code, outcome.err
    assert outcome.out == ""
    lines = [line for line in outcome.err.splitlines() if not line.startswith("note: ")]
    errors = [line for line in lines if line.startswith("unidino-fast: ")]
    assert len(errors) == 1, outcome.err
    assert errors[0] == lines[-1]
    assert said in errors[0]
    assert "Traceback" not in outcome.err
