"""Runs that go on in a folder: what is kept, what is done again, what stops them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from result_files import tables_of

import unidino_fast as uf
from unidino_fast import pipeline, plate_run
from unidino_fast.config import EmbedOptions
from unidino_fast.engines import choose
from unidino_fast.errors import OutputError
from unidino_fast.output import OutputFolder
from unidino_fast.pipeline import prepare_run
from unidino_fast.planning import plan_plate

if TYPE_CHECKING:
    from pathlib import Path

    from unidino_fast.names import WellName
    from unidino_fast.planning import WellTask
    from unidino_fast.results import WellResult

OPTIONS = EmbedOptions(tile=32)


def embed(plate: Path, model: uf.Embedder, out: Path, **changes: Any) -> pipeline.RunSummary:
    options = changes.pop("options", OPTIONS)
    return uf.embed_to_folder(uf.open_plate(plate), model, out, options, **changes)


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


def test_features_are_kept_for_the_tables_as_far_as_they_fit(
    plate_path: Path, model: uf.Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_back = []

    def read(folder: OutputFolder, position: WellName) -> WellResult:
        read_back.append(str(position))
        return read_whole_part(folder, position)

    read_whole_part = OutputFolder.read_whole_part
    monkeypatch.setattr(OutputFolder, "read_whole_part", read)
    embed(plate_path, model, tmp_path / "all")
    assert read_back == []
    fields = pl.read_parquet(tmp_path / "all/small/fields.parquet")
    [first, *others] = fields["Metadata_Well"].unique(maintain_order=True)
    n_fields = fields["Metadata_Well"].eq(first).sum()
    n_bytes = n_fields * len(uf.feature_columns(fields)) * 4
    monkeypatch.setattr(plate_run, "_HELD_BYTES", n_bytes)
    embed(plate_path, model, tmp_path / "one")
    assert read_back == others
    assert tables_of(tmp_path / "one" / "small") == tables_of(tmp_path / "all" / "small")


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
    assert embed(small_plate[0], model, tmp_path, options=swapped).n_resumed == 6
    fewer = EmbedOptions(tile=32, channels=("ER", "DNA"))
    with pytest.raises(OutputError, match="made with options channels"):
        embed(small_plate[0], model, tmp_path, options=fewer)
