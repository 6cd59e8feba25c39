"""Bad input: one line that names the thing and the remedy, an exit code, nothing left behind."""

from __future__ import annotations

import os
import pickle
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from unidino_fast.writing import PlateWriter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import polars as pl

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


def test_unknown_option_shows_the_usage(run: Run, tmp_path: Path) -> None:
    failed = run("embed", "plate.zarr", "--out", tmp_path / "out", "--colour", "red")
    assert failed.code == 2
    assert "--colour" in failed.err
    assert "Traceback" not in failed.err


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
