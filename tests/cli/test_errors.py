"""Bad input: one line that names the thing and the remedy, an exit code, nothing left behind."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
import torch

from unidino_fast.writing import PlateWriter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., Any]
    Refuse = Callable[..., str]


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
        "metadata at A/2: is not JSON",
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
    refuse: Refuse, plate_path: Path, tiny_weights: Path, tmp_path: Path, fault: str
) -> None:
    damage, code, said = BAD_PLATES[fault]
    damage(plate_path)
    out = tmp_path / "out"
    options = ("--out", out, "--weights", tiny_weights, "--tile", "32")
    refuse("embed", plate_path, *options, code=code, said=said)
    assert not [p for p in out.rglob("*") if p.name.startswith(".")]
    if fault != "truncated chunk":  # there A01 is finished and stays for the next run
        assert not out.exists()


BAD_OPTIONS: dict[str, tuple[list[str], int, str]] = {
    "no such channel": (["--channels", "DNA,ERR"], 2, "did you mean ER"),
    "tile larger than the field": (["--tile", "96"], 2, "does not fit field A01/0 of 70 x 100 px"),
    "tile of no size": (["--tile", "0"], 2, "tile 0 is not allowed"),
    "z plane": (["--z", "4"], 2, "z plane 4"),
    "z word": (["--z", "median"], 2, "z 'median' is not allowed: use max, mean or the number"),
    "z of another script": (["--z", "\u00b2"], 2, "is not allowed"),
    "stride without end": (["--stride", "9" * 20], 2, "stride"),
    "z below 0": (["--z=-1"], 2, "z '-1' is not allowed"),
    "acquisition": (["--acquisition", "7"], 2, "acquisition 7 is not in the plate"),
    "weights absent": (["--weights", "nowhere.pth"], 1, "nowhere.pth"),
    "platemap absent": (["--metadata", "nowhere.csv"], 1, "nowhere.csv does not exist"),
    "device": (["--device", "abacus"], 2, "abacus"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options(
    refuse: Refuse,
    small_plate: tuple[Path, pl.DataFrame],
    tiny_weights: Path,
    tmp_path: Path,
    case: str,
) -> None:
    options, code, said = BAD_OPTIONS[case]
    out = tmp_path / "out"
    base = ("--out", out, "--weights", tiny_weights, "--tile", "32")
    refuse("embed", small_plate[0], *base, *options, code=code, said=said)
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
    refuse: Refuse, small_plate: tuple[Path, pl.DataFrame], tmp_path: Path, kind: str, said: str
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
    options = ("--out", out, "--weights", file, "--tile", "32")
    assert "w.pth" in refuse("embed", small_plate[0], *options, code=1, said=said)
    assert not out.exists()
    assert not (tmp_path / "ran").exists()


def test_platemap_without_a_well_column(
    refuse: Refuse, small_plate: tuple[Path, pl.DataFrame], tiny_weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "map.csv").write_text("compound,dose\nx,1\n")
    out = tmp_path / "out"
    options = ("--weights", tiny_weights, "--tile", "32", "--metadata", tmp_path / "map.csv")
    said = "map.csv has no well column"
    refuse("embed", small_plate[0], "--out", out, *options, code=1, said=said)
    assert not out.exists()


def test_output_that_cannot_be_written(
    refuse: Refuse, small_plate: tuple[Path, pl.DataFrame], tiny_weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "out"
    options = ("--out", out, "--weights", tiny_weights, "--tile", "32")
    refuse("embed", small_plate[0], *options, code=1, said="cannot be written")


def test_output_in_the_plate(refuse: Refuse, plate_path: Path, tiny_weights: Path) -> None:
    before = sorted(plate_path.rglob("*"))
    options = ("--out", plate_path / "results", "--weights", tiny_weights, "--tile", "32")
    refuse("embed", plate_path, *options, code=2, said="lies in the plate")
    assert sorted(plate_path.rglob("*")) == before


def test_nan_pixels(refuse: Refuse, tiny_weights: Path, tmp_path: Path) -> None:
    pixels = np.full((1, 40, 40), 0.5, np.float32)
    pixels[0, 0, 0] = np.nan
    with PlateWriter(tmp_path / "n.zarr", name="n", channels=["DNA"]) as writer:
        writer.add_field("C7", "0", pixels)
    out = tmp_path / "out"
    options = ("--out", out, "--weights", tiny_weights, "--tile", "32")
    said = "field C07/0, channel DNA: 0.06% of its pixels are NaN or infinite"
    refuse("embed", tmp_path / "n.zarr", *options, code=1, said=said)
    assert not out.exists()


def renamed(plate: Path, name: str) -> Path:
    """A copy of a plate under another name."""
    copy = plate.with_name(f"{name}.zarr")
    shutil.copytree(plate, copy)
    root = json.loads((copy / ".zattrs").read_text())
    root["plate"]["name"] = name
    (copy / ".zattrs").write_text(json.dumps(root))
    return copy


@pytest.mark.parametrize("fault", ["channel", "tile", "platemap", "name", "absent", "results"])
def test_every_plate_is_checked_before_the_first_is_embedded(
    refuse: Refuse, run: Run, plate_path: Path, tiny_weights: Path, tmp_path: Path, fault: str
) -> None:
    last = renamed(plate_path, "last")
    out = tmp_path / "out"
    options = ["--out", out, "--weights", tiny_weights, "--tile", "32"]
    plates, code = [plate_path, last], 2
    if fault == "channel":
        for file in last.glob("*/*/*/.zattrs"):
            file.write_text(file.read_text().replace('"Mito"', '"AGP"'))
        options += ["--channels", "DNA,Mito"]
        said = "channel 'Mito' is not in plate last"
    elif fault == "tile":
        with PlateWriter(tmp_path / "tiny.zarr", name="tiny", channels=["DNA"]) as writer:
            writer.add_field("A1", "0", np.ones((1, 31, 31), np.uint8))
        plates, said = [plate_path, tmp_path / "tiny.zarr"], "tile 32 does not fit field A01/0"
    elif fault == "platemap":
        (tmp_path / "map.csv").write_text("Plate,Well,Dose\nsmall,A01,1\n")
        options += ["--metadata", tmp_path / "map.csv"]
        said, code = "map.csv has no row for plate last", 1
    elif fault == "name":
        plates, said = [plate_path, last, last], "are both named last"
    elif fault == "absent":
        plates, said, code = [plate_path, tmp_path / "gone"], "gone does not exist", 1
    else:
        assert run("embed", last, *options).code == 0
        options += ["--intensity", "none"]
        said, code = "holds results made with options intensity dtype", 1
    refuse("embed", *plates, *options, code=code, said=said)
    assert not (out / "small").exists()


@pytest.mark.parametrize("fault", ["weights", "platemap", "option", "plate", "pixels"])
def test_overwrite_removes_nothing_for_a_run_that_cannot_be(
    run: Run, plate_path: Path, tiny_weights: Path, tmp_path: Path, fault: str
) -> None:
    out = tmp_path / "out"
    options = {"--weights": tiny_weights, "--tile": "32", "--out": out}
    arguments = [part for pair in options.items() for part in pair]
    assert run("embed", plate_path, *arguments).code == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    if fault == "weights":
        (tmp_path / "w.pth").write_bytes(b"rubbish")
        options["--weights"] = tmp_path / "w.pth"
    elif fault == "platemap":
        (tmp_path / "map.csv").write_text("Well,Dose\nP24,1\n")
        options["--metadata"] = tmp_path / "map.csv"
    elif fault == "option":
        options["--channels"] = "DNA,x"
    elif fault == "plate":
        (plate_path / ".zattrs").write_bytes(b"{")
    else:
        (plate_path / "A/1/0/0/0/0/0").write_bytes(b"rubbish")
    arguments = [part for pair in options.items() for part in pair]
    assert run("embed", plate_path, *arguments, "--overwrite").code in (1, 2)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_rerun_does_not_drop_labels_in_silence(
    refuse: Refuse,
    run: Run,
    small_plate: tuple[Path, pl.DataFrame],
    tiny_weights: Path,
    tmp_path: Path,
) -> None:
    path, platemap = small_plate
    platemap.write_csv(tmp_path / "map.csv")
    platemap.drop("MoA").write_csv(tmp_path / "other.csv")
    call = ("embed", path, "--out", tmp_path / "out", "--weights", tiny_weights, "--tile", "32")
    folder = tmp_path / "out/small"
    assert run(*call).code == 0
    assert run(*call, "--metadata", tmp_path / "map.csv").code == 0  # labels that come later
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    refuse(*call, code=1, said="holds results with the labels of map.csv: give it again by --meta")
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before
    assert run(*call, "--metadata", tmp_path / "other.csv").code == 0
    assert "Metadata_MoA" not in pl.read_parquet_schema(folder / "wells.parquet")
    assert run(*call, "--overwrite").code == 0
    assert "Metadata_Compound" not in pl.read_parquet_schema(folder / "wells.parquet")


def test_no_scheduler(
    run: Run, plate_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said before anything is made."""
    monkeypatch.setattr("unidino_fast.cluster.session.CONNECT_SECONDS", 1)
    out = tmp_path / "never"
    shown = run(
        *("embed", plate_path, "--out", out, "--weights", "random:0"),
        *("--scheduler", "tcp://127.0.0.1:9"),
    )
    assert shown.code == 2
    assert shown.err.splitlines()[-1].startswith(
        "unidino-fast: scheduler tcp://127.0.0.1:9 does not answer"
    )
    assert not out.exists()
