"""`profile --drop-qc`: flagged wells have no say in anything, and the file says which they were."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from quality_tables import change, plate

import unidino_fast as uf
from unidino_fast.cli import app
from unidino_fast.errors import TableError
from unidino_fast.profiles import streaming
from unidino_fast.profiles.quality import left_out, unflagged

if TYPE_CHECKING:
    from pathlib import Path


def wells_table(n_plates: int = 2) -> pl.DataFrame:
    """Plates with features and two flagged wells each; those have features far off."""
    rng = np.random.default_rng(0)
    plates = []
    for number in range(n_plates):
        frame = plate(seed=number, name=f"p{number}")
        frame = change(frame, ["B03"], "Focus", "DNA", -20)
        frame = change(frame, ["B03", "C04"], "Saturated", "ER", 0.2)
        frame = change(frame, ["D05"], "Background", "ER", 5000)  # flagged, but not to be dropped
        plates.append(uf.flag_wells(frame))
    whole = pl.concat(plates)
    features = rng.normal(size=(whole.height, 6)).astype(np.float32)
    features[whole["Metadata_QC_Flagged"].to_numpy()] += 1000
    return whole.with_columns(pl.Series(f"DNA_{i:03d}", features[:, i]) for i in range(6))


def profile(wells: Path, out: Path, capsys: pytest.CaptureFixture[str], *more: str) -> Any:
    app(["profile", str(wells), "--out", str(out), *more, "--json"], standalone_mode=False)
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_flagged_wells_have_no_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    frame = wells_table()
    wells, out = tmp_path / f"wells{suffix}", tmp_path / "out.parquet"
    frame.write_csv(wells) if suffix == ".csv" else frame.write_parquet(wells)
    printed = profile(wells, out, capsys, "--method", "standardize", "--drop-qc")
    found = pl.read_parquet(out)
    kept = frame.filter(~pl.col("Metadata_QC_Flagged"))
    assert found["Metadata_Well"].to_list() == kept["Metadata_Well"].to_list()
    assert "D05" in found["Metadata_Well"]
    names = uf.feature_columns(frame)
    values = kept.filter(Metadata_Plate="p0").select(names).to_numpy().astype(np.float64)
    wanted = (values - values.mean(axis=0)) / values.std(axis=0)
    shown = found.filter(Metadata_Plate="p0").select(names).to_numpy()
    np.testing.assert_allclose(shown, wanted, rtol=0, atol=1e-5)  # float32
    gone = {
        "n_rows": 4,
        "of": 192,
        "kinds": {"defocused": 2, "saturated": 4},
        "rows": ["p0 B03", "p0 C04", "p1 B03", "p1 C04"],
    }
    assert printed["drop_qc"] == gone
    assert json.loads(pl.read_parquet_metadata(out)["unidino_fast"])["drop_qc"] == gone


def test_without_the_option_nothing_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wells_table().write_parquet(tmp_path / "wells.parquet")
    printed = profile(tmp_path / "wells.parquet", tmp_path / "out.parquet", capsys)
    assert printed["n_rows"] == 192
    assert "drop_qc" not in printed
    app(
        ["profile", str(tmp_path / "wells.parquet"), "--out", str(tmp_path / "o.csv"), "--drop-qc"],
        standalone_mode=False,
    )
    said = capsys.readouterr().out
    assert "left out by quality control: 4 of 192 rows (defocused 2, saturated 4)" in said


def test_streamed_tables_fare_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where all wells of a plate, and so of a portion, are flagged."""
    frame = wells_table(3)
    whole = pl.col("Metadata_Plate") == "p1"
    frame = frame.with_columns(Metadata_QC_Flagged=pl.col("Metadata_QC_Flagged") | whole)
    frame.write_parquet(tmp_path / "wells.parquet")
    at_once = profile(tmp_path / "wells.parquet", tmp_path / "a.parquet", capsys, "--drop-qc")
    monkeypatch.setattr(streaming, "_WORTH_BYTES", 0)
    real = streaming.stream_recipe
    monkeypatch.setattr(
        streaming, "stream_recipe", lambda *args, **more: real(*args, portion_bytes=1, **more)
    )
    streamed = profile(tmp_path / "wells.parquet", tmp_path / "b.parquet", capsys, "--drop-qc")
    assert (at_once.pop("streamed"), streamed.pop("streamed")) == (False, True)
    assert {**streamed, "out": 0} == {**at_once, "out": 0}
    assert pl.read_parquet(tmp_path / "b.parquet").equals(pl.read_parquet(tmp_path / "a.parquet"))
    assert streamed["n_rows"] == 2 * 94


def test_tables_that_say_nothing_of_quality() -> None:
    frame = wells_table()
    with pytest.raises(TableError, match="no column Metadata_QC_Flagged: embed the plate without"):
        left_out(frame.drop("Metadata_QC_Flagged"))
    with pytest.raises(TableError, match="is String: it must be true or false"):
        unflagged(frame.with_columns(Metadata_QC_Flagged=pl.lit("no")))
    with pytest.raises(TableError, match="all 192 rows are flagged by quality control"):
        left_out(frame.with_columns(Metadata_QC_Flagged=True))
    open_ = frame.with_columns(Metadata_QC_Flagged=pl.lit(None, pl.Boolean))
    assert unflagged(open_).height == 192


def test_consensus_takes_nothing_over() -> None:
    """What is said of single wells is no property of a compound."""
    frame = wells_table().with_columns(Metadata_Compound=pl.lit("x"))
    found = uf.consensus(frame, "Compound")
    assert not [name for name in found.columns if name.startswith("Metadata_QC_")]
    one = uf.consensus(frame, ["Plate", "Well"])
    assert not [name for name in one.columns if name.startswith("Metadata_QC_")]
