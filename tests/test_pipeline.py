"""Plates into folders: the files, what is left out, provenance."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

import unidino_fast as uf
from unidino_fast import pipeline
from unidino_fast.config import EmbedOptions
from unidino_fast.errors import PixelError, TableError, UsageError
from unidino_fast.names import QUALITY
from unidino_fast.output import TABLES
from unidino_fast.platemap import Platemap

OPTIONS = EmbedOptions(tile=32)


def embed(plate: Path, model: uf.Embedder, out: Path, **changes: Any) -> pipeline.RunSummary:
    options = changes.pop("options", OPTIONS)
    return uf.embed_to_folder(uf.open_plate(plate), model, out, options, **changes)


def test_files_and_columns(
    small_plate: tuple[Path, pl.DataFrame], model: uf.Embedder, tmp_path: Path
) -> None:
    path, platemap = small_plate
    platemap.write_csv(tmp_path / "map.csv")
    table = uf.read_platemap(tmp_path / "map.csv")
    summary = embed(path, model, tmp_path / "out", platemap=Platemap("map.csv", table))
    folder = tmp_path / "out" / "small"
    assert sorted(entry.name for entry in folder.iterdir()) == sorted(
        [*TABLES, "manifest.json", "parts", QUALITY]
    )
    assert sorted(entry.name for entry in (folder / "parts").iterdir()) == [
        f"{row}{column:02d}.parquet" for row in "AB" for column in (1, 2, 3)
    ]
    groups = {name: pq.read_metadata(folder / name).row_group(0).to_dict() for name in TABLES}
    assert {name: group["columns"][-1]["compression"] for name, group in groups.items()} == {
        "fields.parquet": "UNCOMPRESSED", "wells.parquet": "ZSTD", "profiles.parquet": "ZSTD"
    }  # fmt: skip
    fields = pl.read_parquet(folder / "fields.parquet")
    wells = pl.read_parquet(folder / "wells.parquet")
    profiles = pl.read_parquet(folder / "profiles.parquet")
    assert fields.columns[:8] == [
        "Metadata_Plate",
        "Metadata_Well",
        "Metadata_Row",
        "Metadata_Column",
        "Metadata_Site",
        "Metadata_n_fields",
        "Metadata_n_tiles",
        "Metadata_n_tiles_dropped",
    ]
    expected = [f"{c}_{i:03d}" for c in ("DNA", "ER", "Mito") for i in range(64)]
    for frame, rows in ((fields, 12), (wells, 6), (profiles, 6)):
        assert uf.feature_columns(frame) == expected
        assert frame.height == rows
        assert set(frame.select(expected).dtypes) == {pl.Float32}
        assert frame["Metadata_Compound"].null_count() == 0
    assert wells["Metadata_Well"].to_list() == ["A01", "A02", "A03", "B01", "B02", "B03"]
    assert wells["Metadata_n_fields"].to_list() == [2] * 6
    assert wells["Metadata_n_tiles"].to_list() == [12] * 6
    assert "Metadata_Site" not in wells.columns
    assert (summary.n_wells, summary.n_fields, summary.n_tiles) == (6, 12, 6 * 12 * 3)
    assert summary.n_features == 192
    assert {"read", "preprocess", "embed", "write", "total"} == set(summary.seconds)


def test_in_memory_equals_on_disk(
    small_plate: tuple[Path, pl.DataFrame], model: uf.Embedder, tmp_path: Path
) -> None:
    plate = uf.open_plate(small_plate[0])
    fields = uf.embed_plate(plate, model)
    embed(small_plate[0], model, tmp_path)
    assert fields.equals(pl.read_parquet(tmp_path / "small/fields.parquet"))
    wells = uf.aggregate(fields)
    assert wells.equals(pl.read_parquet(tmp_path / "small/wells.parquet"))
    assert uf.normalize(wells).equals(pl.read_parquet(tmp_path / "small/profiles.parquet"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"plate": "p.zarr"}, r"the plate is a str: give what open_plate\(...\) returns"),
        ({"model": "w.pth"}, r"the model is a str: give what load_backbone\(...\) returns"),
        ({"qc": "yes"}, r"qc 'yes': give True, False or what qc.read_thresholds\(...\) returns"),
        ({"options": {"tile": 32}}, r"the options are a dict: give EmbedOptions\(...\)"),
    ],
)
def test_what_is_only_the_name_of_an_argument_is_refused(
    small_plate: tuple[Path, pl.DataFrame],
    model: uf.Embedder,
    tmp_path: Path,
    given: dict[str, Any],
    said: str,
) -> None:
    usual: dict[str, Any] = {"plate": uf.open_plate(small_plate[0]), "model": model}
    with pytest.raises(UsageError, match=said):
        uf.embed_to_folder(**{"options": OPTIONS, **usual, **given}, out=tmp_path / "out")
    assert not any(tmp_path.iterdir())
    if "options" not in given:
        with pytest.raises(UsageError, match=said):
            uf.embed_plate(**{**usual, **given})


def test_pandas_reads_the_files(
    small_plate: tuple[Path, pl.DataFrame], model: uf.Embedder, tmp_path: Path
) -> None:
    import pandas as pd

    embed(small_plate[0], model, tmp_path, qc=False)
    frame = pd.read_parquet(tmp_path / "small/profiles.parquet")
    assert frame.shape == (6, 7 + 192)
    assert frame["Metadata_Well"].iloc[0] == "A01"


def test_provenance_in_files_and_manifest(
    small_plate: tuple[Path, pl.DataFrame], model: uf.Embedder, tmp_path: Path
) -> None:
    embed(small_plate[0], model, tmp_path)
    folder = tmp_path / "small"
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in TABLES:
        held = json.loads(pl.read_parquet_metadata(folder / name)["unidino_fast"])
        assert held == manifest["provenance"]
        shown = pq.read_schema(folder / name).metadata  # where pyarrow and pandas look
        assert json.loads(shown[b"unidino_fast"]) == manifest["provenance"]
    assert held["model"]["weights_digest"] == model.backbone.digest
    assert held["model"]["weights"] == "tiny.safetensors"
    assert held["options"]["intensity"] == "dtype"
    assert held["options"]["stride"] == 32
    assert held["plate"]["digest"] == uf.open_plate(small_plate[0]).digest
    assert {"torch", "timm", "zarr", "python"} <= set(held["software"])
    assert manifest["run"]["status"] == "done"
    assert str(tmp_path) not in json.dumps(held)


def test_provenance_names_platemap_and_normalisation(
    small_plate: tuple[Path, pl.DataFrame], model: uf.Embedder, tmp_path: Path
) -> None:
    table = pl.DataFrame({"Metadata_Well": ["A01"], "Metadata_Dose": [1.0]})
    digests = []
    for dose in (1.0, 2.0):
        changed = Platemap("map.csv", table.with_columns(Metadata_Dose=pl.lit(dose)))
        embed(small_plate[0], model, tmp_path, platemap=changed)
        text = pl.read_parquet_metadata(tmp_path / "small/profiles.parquet")["unidino_fast"]
        held = json.loads(text)
        assert held["platemap"]["name"] == "map.csv"
        assert held["profiles"]["method"] == "mad_robustize"
        digests.append(held["platemap"]["digest"])
    assert digests[0] != digests[1]


def test_weights_are_judged_by_digest(
    small_plate: tuple[Path, pl.DataFrame], tiny_weights: Path, tmp_path: Path
) -> None:
    renamed = Path(shutil.copy(tiny_weights, tmp_path / "renamed.safetensors"))
    for weights in (tiny_weights, renamed):
        model = uf.load_backbone(weights, device="cpu")
        summary = embed(small_plate[0], model, tmp_path / "out")
    assert summary.n_resumed == 6


def test_a_faulty_chunk_fails_or_is_skipped(
    plate_path: Path, model: uf.Embedder, tmp_path: Path
) -> None:
    chunk = plate_path / "A/3/0/0/1/0/0"
    chunk.write_bytes(chunk.read_bytes()[:40])
    out = tmp_path / "out"
    with pytest.raises(PixelError, match=r"A/3/0/0/1/0/0") as caught:
        embed(plate_path, model, out)
    remedies = "restore it from its source; --on-error skip leaves such wells out"
    assert str(caught.value).endswith(f"): {remedies}")
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in (out / "small/parts").iterdir()) == [
        "A01.parquet",
        "A02.parquet",
    ]
    summary = embed(plate_path, model, out, on_error="skip")
    assert list(summary.left_out) == ["A03"]
    assert "--on-error" not in summary.left_out["A03"]
    assert summary.n_resumed == 2
    wells = pl.read_parquet(out / "small/wells.parquet")
    assert wells["Metadata_Well"].to_list() == ["A01", "A02", "B01", "B02", "B03"]
    assert json.loads((out / "small/manifest.json").read_text())["run"]["left_out"].keys() == {
        "A03"
    }


def test_nothing_is_left_behind_when_the_first_well_fails(
    plate_path: Path, model: uf.Embedder, tmp_path: Path
) -> None:
    (plate_path / "A/1/0/0/0/0/0").write_bytes(b"rubbish")
    with pytest.raises(PixelError):
        embed(plate_path, model, tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


def test_every_well_faulty_is_an_error_under_skip_too(
    plate_path: Path, model: uf.Embedder, tmp_path: Path
) -> None:
    for chunk in plate_path.glob("*/*/0/0/0/0/0"):
        chunk.write_bytes(b"rubbish")
    with pytest.raises(PixelError, match="no well could be embedded: chunk"):
        embed(plate_path, model, tmp_path / "out", on_error="skip")
    assert not (tmp_path / "out").exists()


def test_a_platemap_that_does_not_fit_is_said_before_the_work(
    small_plate: tuple[Path, pl.DataFrame], model: uf.Embedder, tmp_path: Path
) -> None:
    table = pl.DataFrame({"Metadata_Well": ["P24"], "Metadata_Dose": [1.0]})
    with pytest.raises(TableError, match="names no well of plate small"):
        embed(small_plate[0], model, tmp_path / "out", platemap=Platemap("map.csv", table))
    assert not (tmp_path / "out").exists()


def test_temporary_files_do_not_stay(
    small_plate: tuple[Path, pl.DataFrame], model: uf.Embedder, tmp_path: Path
) -> None:
    embed(small_plate[0], model, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


def test_time_points_are_rows(model: uf.Embedder, tmp_path: Path) -> None:
    import numpy as np

    from unidino_fast.writing import PlateWriter

    pixels = np.random.default_rng(0).integers(1, 999, (3, 1, 40, 40), dtype=np.uint16)
    with PlateWriter(tmp_path / "t.zarr", name="t", channels=["DNA"]) as writer:
        writer.add_field("A1", "0", pixels, axes="tcyx")
        writer.add_field("A1", "1", pixels[::-1].copy(), axes="tcyx")
    embed(tmp_path / "t.zarr", model, tmp_path / "out")
    fields = pl.read_parquet(tmp_path / "out/t/fields.parquet")
    wells = pl.read_parquet(tmp_path / "out/t/wells.parquet")
    assert fields["Metadata_Time"].to_list() == [0, 1, 2, 0, 1, 2]
    assert wells["Metadata_Time"].to_list() == [0, 1, 2]
    middle = fields.filter(pl.col("Metadata_Time") == 1).select(uf.feature_columns(fields))
    assert middle.row(0) == pytest.approx(middle.row(1), abs=1e-6)
