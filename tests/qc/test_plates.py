"""From pixels to flags: simulated plates with planted faults, and without."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

import unidino_fast as uf
from unidino_fast.config import EmbedOptions
from unidino_fast.platemap import Platemap
from unidino_fast.simulate import Faults, simulate_plate

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS = EmbedOptions(tile=32, stride=192)
PLATE: dict[str, Any] = {"size": (224, 224), "edge_effect": 0.0}
FAULTS = Faults(
    defocused=("B03", "E06"),
    saturated=("A05", "F02"),
    saturated_channel="AGP",
    dead_rows=("D",),
    swapped=("C07", "E02"),
    swapped_channels=("DNA", "Mito"),
    bright_edge=1.0,
)
CHANNELS = ("DNA", "ER", "RNA", "AGP", "Mito")


def judged(
    folder: Path, model: uf.Embedder, **settings: Any
) -> tuple[dict[str, Any], pl.DataFrame, tuple[str, ...]]:
    """qc.json, wells and warnings of a simulated plate with its labels."""
    simulate_plate(folder / "p.zarr", **{**PLATE, **settings}).write_csv(folder / "map.csv")
    platemap = Platemap("map.csv", uf.read_platemap(folder / "map.csv"))
    plate = uf.open_plate(folder / "p.zarr")
    summary = uf.embed_to_folder(plate, model, folder / "out", OPTIONS, platemap=platemap)
    report = json.loads((folder / "out/p/qc.json").read_text())
    return report, pl.read_parquet(folder / "out/p/wells.parquet"), summary.warnings


def found(report: dict[str, Any]) -> set[tuple[str, str | None]]:
    """What is wrong with the plate; replicates left out, whose features a random network made."""
    checks = (check for check in report["checks"] if check["check"] != "replicates")
    return {(check["check"], check["where"]) for check in checks if check["found"]}


@pytest.mark.parametrize(("seed", "size"), [(0, (6, 8)), (1, (4, 6)), (2, (4, 6))])
def test_a_clean_plate(
    tmp_path: Path, model: uf.Embedder, seed: int, size: tuple[int, int]
) -> None:
    report, wells, warnings = judged(tmp_path, model, seed=seed, rows=size[0], columns=size[1])
    assert report["wells"] == []
    assert set(report["counts"].values()) == {0}
    assert found(report) == set()
    assert not [line for line in warnings if line.startswith("qc:") and "replicates" not in line]
    assert not wells["Metadata_QC_Flagged"].any()
    assert set(wells["Metadata_QC_Flags"]) == {""}


def test_every_planted_fault_and_nothing_else(tmp_path: Path, model: uf.Embedder) -> None:
    report, wells, warnings = judged(tmp_path, model, faults=FAULTS, seed=1)
    everywhere = ";".join
    wanted = {
        **{well: everywhere(f"defocused:{c}" for c in CHANNELS) for well in FAULTS.defocused},
        **dict.fromkeys(FAULTS.saturated, "saturated:AGP"),
        **dict.fromkeys(FAULTS.swapped, "swapped:DNA;swapped:Mito"),
        **{f"D{i:02d}": everywhere(f"empty:{c}" for c in CHANNELS) for i in range(1, 9)},
    }
    told = zip(wells["Metadata_Well"], wells["Metadata_QC_Flags"], strict=True)
    assert {well: flags for well, flags in told if flags} == wanted
    assert wells.filter("Metadata_QC_Flagged")["Metadata_Well"].to_list() == sorted(wanted)
    assert report["n_flagged"] == len(wanted)
    assert found(report) == {("row", "D"), ("edge", None)}
    assert [line for line in warnings if line.startswith("qc:")] == report["warnings"]
    assert report["warnings"][:5] == [
        "qc: 2 wells are out of focus: B03, E06",
        "qc: 2 wells are saturated: A05, F02",
        "qc: 8 wells are empty: D01, D02, D03, D04, D05, D06, D07, D08",
        "qc: 2 wells are suspected of swapped channels: C07, E02",
        "qc: row D: 8 of 8 wells are flagged",
    ]
    assert report["warnings"][5].startswith("qc: wells at the rim have ")
    manifest = json.loads((tmp_path / "out/p/manifest.json").read_text())
    assert set(report["warnings"]) <= set(manifest["run"]["warnings"])
    assert report["not_assessed"].keys() == {"controls"}  # the platemap has no positive ones


def test_light_from_one_side(tmp_path: Path, model: uf.Embedder) -> None:
    report, *_ = judged(
        tmp_path, model, rows=4, columns=6, channels=("DNA", "ER"), faults=Faults(unevenness=1.8)
    )
    assert report["wells"] == []
    assert found(report) == {("illumination", "right")}


@pytest.mark.real_data
def test_a_real_plate(real_data_dir: Path, model: uf.Embedder, tmp_path: Path) -> None:
    """BBBC013's kind: sound wells, and controls that their light does not show."""
    pattern = r"Channel(?P<channel>\d)-\d+-(?P<row>[A-H])-(?P<column>\d+)\.tif"
    uf.convert_plate(real_data_dir / "sbs_plate/images", tmp_path / "sbs.zarr", pattern=pattern)
    fields = uf.embed_plate(uf.open_plate(tmp_path / "sbs.zarr"), model, stride=600)
    assert fields.height == 96
    assert not fields["Metadata_QC_Flagged"].any()
