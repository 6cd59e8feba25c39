"""Plates into folders: the files, resuming, what is left out, provenance."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from result_files import tables_of

import unidino_fast as uf
from unidino_fast import pipeline
from unidino_fast.config import EmbedOptions
from unidino_fast.engines import choose
from unidino_fast.errors import OutputError, PixelError, TableError
from unidino_fast.output import QUALITY, TABLES
from unidino_fast.pipeline import prepare_run
from unidino_fast.planning import plan_plate
from unidino_fast.platemap import Platemap

if TYPE_CHECKING:
    from unidino_fast.planning import WellTask

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


class Stop(Exception):
    """Stands for a run that is killed."""


def stop_after(n: int) -> Any:
    seen = []

    def count(task: WellTask) -> None:
        seen.append(task.name)
        if len(seen) == n:
            raise Stop

    return count


def test_resume_computes_the_rest_alone_and_gives_the_same_bytes(
    plate_path: Path, model: uf.Embedder, tmp_path: Path
) -> None:
    embed(plate_path, model, tmp_path / "whole")
    with pytest.raises(Stop):
        embed(plate_path, model, tmp_path / "cut", on_well=stop_after(2))
    folder = tmp_path / "cut" / "small"
    parts = sorted(p.name for p in (folder / "parts").iterdir())
    assert parts[:2] == ["A01.parquet", "A02.parquet"]  # and what was embedded by then
    assert not (folder / "profiles.parquet").exists()
    part = folder / "parts/A02.parquet"
    part.write_bytes(part.read_bytes()[:-100])  # torn
    embedded: list[str] = []
    summary = embed(
        plate_path, model, tmp_path / "cut", on_well=lambda task: embedded.append(task.name)
    )
    wells = ["A01", "A02", "A03", "B01", "B02", "B03"]
    assert embedded == [n for n in wells if f"{n}.parquet" not in parts or n == "A02"]
    assert summary.n_resumed == len(parts) - 1
    assert tables_of(folder) == tables_of(tmp_path / "whole" / "small")
    assert embed(plate_path, model, tmp_path / "cut").n_resumed == 6


def test_changes_stop_a_resume(plate_path: Path, model: uf.Embedder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    embed(plate_path, model, out)
    before = tables_of(out / "small")
    with pytest.raises(OutputError, match=r"options intensity dtype, now percentile.*--overwrite"):
        embed(plate_path, model, out, options=EmbedOptions(tile=32, intensity="percentile"))
    other = uf.load_backbone("random:0", device="cpu", tile=32)
    with pytest.raises(OutputError, match=r"model weights tiny.safetensors, now random:0"):
        embed(plate_path, other, out)
    chunk = plate_path / "B/2/1/0/1/0/0"
    chunk.write_bytes(chunk.read_bytes())
    with pytest.raises(OutputError, match=r"times of the chunks of well B02 changed.*add --verify"):
        embed(plate_path, model, out)
    assert tables_of(out / "small") == before
    again = embed(plate_path, model, out, overwrite=True)
    assert again.n_resumed == 0
    assert tables_of(out / "small") == before


def test_metadata_that_were_mended_are_done_and_nothing_else(
    plate_path: Path, model: uf.Embedder, tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    embed(plate_path, model, whole)
    texts = {
        path: path.read_text()
        for path in (plate_path / "A/2/1/.zattrs", plate_path / "B/1/.zattrs")
    }
    for path in texts:
        path.write_text("{")
    faulty = uf.open_plate(plate_path, on_error="skip")
    first = uf.embed_to_folder(faulty, model, out, OPTIONS, on_error="skip")
    assert (first.n_wells, first.n_fields, set(first.left_out)) == (5, 9, {"field A02/1", "B01"})
    for path, text in texts.items():
        path.write_text(text)
    done: list[str] = []
    again = embed(plate_path, model, out, on_well=lambda task: done.append(task.name))
    assert (again.n_resumed, again.n_wells, again.left_out) == (4, 6, {})
    assert sorted(done) == ["A02", "B01"]
    assert tables_of(out / "small") == tables_of(whole / "small")


def test_metadata_that_say_otherwise_stop_a_resume(
    plate_path: Path, model: uf.Embedder, tmp_path: Path
) -> None:
    """Channels that change places: the pixels' files stay as they are."""
    embed(plate_path, model, tmp_path)
    path = plate_path / "A/2/1/.zattrs"
    attributes = json.loads(path.read_text())
    attributes["omero"]["channels"].reverse()
    path.write_text(json.dumps(attributes))
    with pytest.raises(OutputError, match=r"metadata of field A02/1 changed since .*A02.parquet"):
        embed(plate_path, model, tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.glob("small/**/*") if file.is_file()}
    with pytest.raises(OutputError, match=r"A02.parquet was written: remove that file and run"):
        embed(plate_path, model, tmp_path, verify=True)
    after = {file: file.read_bytes() for file in tmp_path.glob("small/**/*") if file.is_file()}
    assert after == before  # the manifest too
    assert json.loads((tmp_path / "small/manifest.json").read_text())["run"]["status"] == "done"
    (tmp_path / "small/parts/A02.parquet").unlink()  # as both say
    assert embed(plate_path, model, tmp_path).n_resumed == 5
    embed(plate_path, model, tmp_path / "whole")
    assert tables_of(tmp_path / "small") == tables_of(tmp_path / "whole/small")


def test_pixels_of_another_type_in_the_same_bytes_stop_verifying(
    plate_path: Path, model: uf.Embedder, tmp_path: Path
) -> None:
    """Their checksum is the same, what they mean is not."""
    embed(plate_path, model, tmp_path)
    path = plate_path / "A/2/0/0/.zarray"
    path.write_text(path.read_text().replace("<u2", "<i2"))
    with pytest.raises(OutputError, match=r"metadata of field A02/0 changed since .*A02.parquet"):
        embed(plate_path, model, tmp_path, verify=True)


def test_a_channel_that_was_misspelt_is_mended_in_its_well_alone(
    plate_path: Path, model: uf.Embedder, tmp_path: Path
) -> None:
    path = plate_path / "A/2/1/.zattrs"
    text = path.read_text()
    path.write_text(text.replace('"Mito"', '"Mitu"'))
    assert path.read_text() != text
    out = tmp_path / "out"
    assert embed(plate_path, model, out).n_features == 4 * 64
    path.write_text(text)
    with pytest.raises(OutputError, match=r"metadata of field A02/1 changed since"):
        embed(plate_path, model, out)
    (out / "small/parts/A02.parquet").unlink()
    again = embed(plate_path, model, out)
    assert (again.n_resumed, again.n_features) == (5, 3 * 64)
    embed(plate_path, model, tmp_path / "whole")
    assert tables_of(out / "small") == tables_of(tmp_path / "whole/small")


def test_a_plate_that_grows_keeps_its_engine(
    plate_path: Path,
    tiny_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """`auto` goes by the tiles of the whole job, which has more when a well was mended."""
    model = uf.load_backbone(tiny_weights, device="cpu")
    n_tiles = plan_plate(uf.open_plate(plate_path), OPTIONS).n_tiles
    monkeypatch.setitem(choose.PAYS_FROM_TILES, "onnx", n_tiles)
    path = plate_path / "B/1/.zattrs"
    text = path.read_text()
    path.write_text("{")
    faulty = uf.open_plate(plate_path, on_error="skip")
    uf.embed_to_folder(faulty, model, tmp_path, OPTIONS, on_error="skip")
    path.write_text(text)
    caplog.clear()
    caplog.set_level("INFO", "unidino_fast")
    prepare_run(uf.open_plate(plate_path), model, tmp_path, OPTIONS)
    assert embed(plate_path, model, tmp_path).n_resumed == 5
    begun = n_tiles * 5 // 6
    assert caplog.messages == [
        f"engine auto is eager: {begun} tiles when its folder was begun, in fp32 on cpu, onnx pays"
        f" from {n_tiles}"
    ]
    held = json.loads((tmp_path / "small/manifest.json").read_text())
    assert held["provenance"]["model"]["engine"] == "eager"
    embed(plate_path, model, tmp_path, overwrite=True)
    held = json.loads((tmp_path / "small/manifest.json").read_text())
    assert held["provenance"]["model"]["engine"] == "onnx"


def test_parts_of_wells_that_are_no_more_are_told_of(
    plate_path: Path, model: uf.Embedder, tmp_path: Path
) -> None:
    embed(plate_path, model, tmp_path)
    root = json.loads((plate_path / ".zattrs").read_text())
    root["plate"]["wells"] = [well for well in root["plate"]["wells"] if well["path"] != "A/2"]
    (plate_path / ".zattrs").write_text(json.dumps(root))
    assert embed(plate_path, model, tmp_path).warnings == (
        f"{tmp_path}/small/parts holds wells that the plate does not hold now (A02): they are in no"
        " table",
    )


def test_metadata_that_say_the_same_in_other_words_are_the_same(
    plate_path: Path, model: uf.Embedder, tmp_path: Path
) -> None:
    embed(plate_path, model, tmp_path)
    path = plate_path / "A/2/1/.zattrs"
    attributes = json.loads(path.read_text())
    attributes["omero"]["channels"][0]["color"] = "00FF00"
    path.write_text(json.dumps(attributes, indent=9))
    assert embed(plate_path, model, tmp_path).n_resumed == 6


def test_all_channels_by_name_are_all_channels(
    small_plate: tuple[Path, pl.DataFrame], model: uf.Embedder, tmp_path: Path
) -> None:
    named = EmbedOptions(tile=32, channels=("DNA", "ER", "Mito"))
    embed(small_plate[0], model, tmp_path)
    before = tables_of(tmp_path / "small")
    assert embed(small_plate[0], model, tmp_path, options=named).n_resumed == 6
    assert tables_of(tmp_path / "small") == before
    held = json.loads((tmp_path / "small/manifest.json").read_text())["provenance"]
    assert held["options"]["channels"] == ["DNA", "ER", "Mito"]
    swapped = EmbedOptions(tile=32, channels=("ER", "DNA", "Mito"))
    with pytest.raises(OutputError, match="made with options channels"):
        embed(small_plate[0], model, tmp_path, options=swapped)


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
