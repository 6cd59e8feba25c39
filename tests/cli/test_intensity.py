"""Without --intensity, weights that say how they were trained decide; what is typed stands."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import unidino_fast as uf
from unidino_fast.backbones import open_backbone, save_backbone

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS = ("--tile", "32", "--engine", "eager", "--device", "cpu", "--no-qc")


@pytest.fixture
def declaring(tiny_weights: Path, tmp_path: Path) -> Path:
    """The small weights, which say that they were trained by percentiles."""
    backbone = replace(open_backbone(tiny_weights), intensity="percentile")
    save_backbone(backbone, tmp_path / "declaring.safetensors")
    return tmp_path / "declaring.safetensors"


def features(path: Path) -> pl.DataFrame:
    return pl.read_parquet(path).select(pl.exclude("^Metadata_.*$"))


@pytest.mark.parametrize(
    ("declared", "typed", "used", "said"),
    [
        (True, None, "percentile", "note: intensity is percentile, as weights declaring."),
        (True, "dtype", "dtype", "note: weights declaring.safetensors were trained with intensity"),
        (True, "percentile", "percentile", None),
        (False, None, "dtype", None),
        (False, "percentile", "percentile", None),
    ],
)
def test_which_intensity_is_used(
    declared: bool, typed: str | None, used: Any, said: str | None, run: Any, plate_path: Path,
    declaring: Path, tiny_weights: Path, tmp_path: Path,
) -> None:  # fmt: skip
    weights = declaring if declared else tiny_weights
    given = () if typed is None else ("--intensity", typed)
    call = ("embed", plate_path, "--out", tmp_path / "r", "--weights", weights, *OPTIONS, *given)
    done = run(*call)
    assert done.code == 0, done.err
    lines = [line for line in done.err.splitlines() if "were trained" in line]
    assert [line.startswith(str(said)) for line in lines] == [True] * (said is not None)
    [folder] = [path.parent for path in (tmp_path / "r").glob("*/manifest.json")]
    assert (
        json.loads((folder / "manifest.json").read_text())["provenance"]["options"]["intensity"]
        == used
    )
    model = uf.load_backbone(weights, engine="eager", device="cpu")
    direct = uf.embed_plate(uf.open_plate(str(plate_path)), model, intensity=used)
    wanted = direct.select(pl.exclude("^Metadata_.*$"))
    assert_frame_equal(features(folder / "fields.parquet"), wanted, check_exact=True)


def test_going_on_compares_what_was_used(
    run: Any, refuse: Any, plate_path: Path, declaring: Path, tmp_path: Path
) -> None:
    call = ("embed", plate_path, "--out", tmp_path / "r", "--weights", declaring, *OPTIONS)
    assert run(*call).code == 0
    assert run(*call, "--intensity", "percentile").code == 0
    refuse(*call, "--intensity", "dtype", code=1, said="options intensity")


def test_the_library_takes_dtype_unless_told(plate_path: Path, declaring: Path) -> None:
    model = uf.load_backbone(declaring, engine="eager", device="cpu")
    plate = uf.open_plate(str(plate_path))
    by_default, by_dtype = (uf.embed_plate(plate, model, **i) for i in ({}, {"intensity": "dtype"}))
    assert_frame_equal(by_default, by_dtype, check_exact=True)
    assert model.backbone.intensity == "percentile"
