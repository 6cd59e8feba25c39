"""Shards of a plate and their merge: the same files as one run, and nothing missing unsaid."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from result_files import tables_of

import unidino_fast as uf
from unidino_fast.cli import app
from unidino_fast.config import EmbedOptions
from unidino_fast.errors import OutputError, UsageError
from unidino_fast.output import TABLES
from unidino_fast.platemap import Platemap
from unidino_fast.shards import Shard, merge

if TYPE_CHECKING:
    import polars as pl

OPTIONS = EmbedOptions(tile=32)


@pytest.fixture
def platemap(small_plate: tuple[Path, pl.DataFrame], tmp_path: Path) -> Platemap:
    small_plate[1].write_csv(tmp_path / "map.csv")
    return Platemap("map.csv", uf.read_platemap(tmp_path / "map.csv"))


@pytest.fixture
def sharded(
    small_plate: tuple[Path, pl.DataFrame], model: uf.Embedder, platemap: Platemap, tmp_path: Path
) -> Path:
    """The folder of a plate of which three shards are done, in no order."""
    for index in (3, 1, 2):
        plate = uf.open_plate(small_plate[0])
        summary = uf.embed_to_folder(
            plate, model, tmp_path / "out", OPTIONS, platemap=platemap, shard=Shard(index, 3)
        )
        assert summary.n_wells == 2
    assert not any((tmp_path / "out/small" / name).exists() for name in TABLES)
    return tmp_path / "out/small"


def test_merged_files_are_those_of_one_run(
    small_plate: tuple[Path, pl.DataFrame],
    model: uf.Embedder,
    platemap: Platemap,
    sharded: Path,
    tmp_path: Path,
) -> None:
    plate = uf.open_plate(small_plate[0])
    uf.embed_to_folder(plate, model, tmp_path / "whole", OPTIONS, platemap=platemap)
    moved = Path(shutil.move(sharded, tmp_path / "elsewhere"))
    summary = merge(moved, platemap)
    assert tables_of(moved) == tables_of(tmp_path / "whole/small")
    assert (summary["n_wells"], summary["n_shards"]) == (6, 3)
    assert json.loads((moved / "manifest.json").read_text())["run"]["status"] == "done"
    assert not (moved / ".lock").exists()


def test_a_missing_shard_is_refused_and_named(sharded: Path, platemap: Platemap) -> None:
    (sharded / "shards/2-of-3.json").unlink()
    with pytest.raises(OutputError, match="lacks shard 2 of 3: run embed with --shard 2/3"):
        merge(sharded, platemap)
    assert not (sharded / "fields.parquet").exists()


def test_a_missing_or_damaged_part_is_named(sharded: Path, platemap: Platemap) -> None:
    part = sharded / "parts/A02.parquet"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1  # a bit that rotted
    part.write_bytes(content)
    with pytest.raises(
        OutputError, match=r"lacks well A02, or its part is damaged: .* --shard 2/3"
    ):
        merge(sharded, platemap)
    part.unlink()
    with pytest.raises(OutputError, match="lacks well A02"):
        merge(sharded, platemap)


def test_shards_of_different_options_do_not_mix(
    small_plate: tuple[Path, pl.DataFrame], model: uf.Embedder, sharded: Path, platemap: Platemap
) -> None:
    plate = uf.open_plate(small_plate[0])
    other = EmbedOptions(tile=32, stride=16)
    said = "stride 32, now 16: remove that folder, or choose another --out for all shards"
    with pytest.raises(OutputError, match=f"holds results made with options {said}"):
        uf.embed_to_folder(
            plate, model, sharded.parent, other, platemap=platemap, shard=Shard(1, 3)
        )
    record = sharded / "shards/2-of-3.json"
    document = json.loads(record.read_text())
    document["provenance"]["options"]["stride"] = 16
    record.write_text(json.dumps(document))
    with pytest.raises(OutputError, match=r"different ways \(options stride: 32 and 16\)"):
        merge(sharded, platemap)
    record.write_text("{")
    with pytest.raises(OutputError, match="no readable record: run embed with --shard 2/3"):
        merge(sharded, platemap)


def test_shards_of_changed_metadata_do_not_mix(sharded: Path, platemap: Platemap) -> None:
    record = sharded / "shards/2-of-3.json"
    document = json.loads(record.read_text())
    document["provenance"]["plate"]["digest"] = "ab" * 32
    record.write_text(json.dumps(document))
    document["layout"]["wells"].pop()  # as where a well was left out
    record.write_text(json.dumps(document))
    with pytest.raises(OutputError, match=r"between shards 1 and 2 .*: run embed with --shard ag"):
        merge(sharded, platemap)
    document["provenance"]["plate"] = json.loads((sharded / "shards/1-of-3.json").read_text())[
        "provenance"
    ]["plate"]
    document["layout"]["wells"] = [f"A{number:02d}" for number in range(1, 99)]
    record.write_text(json.dumps(document))
    with pytest.raises(OutputError, match=r"different ways \(wells: \['A01', .*…\): start") as e:
        merge(sharded, platemap)
    assert len(str(e.value)) < 500


def test_shards_of_weights_under_another_name_mix(sharded: Path, platemap: Platemap) -> None:
    record = sharded / "shards/2-of-3.json"
    held = json.loads(record.read_text())
    held["provenance"]["model"]["weights"] = "copy.safetensors"
    held["provenance"]["software"]["python"] = "3.99"
    record.write_text(json.dumps(held))
    said = merge(sharded, platemap)["warnings"]
    assert [line for line in said if "different software or devices" in line]


def test_what_a_shard_says(
    small_plate: tuple[Path, pl.DataFrame],
    tiny_weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It names itself, and never advises `--overwrite`, which shards cannot use."""
    call = ["embed", str(small_plate[0]), "--out", str(tmp_path), "--weights", str(tiny_weights)]
    call += ["--device", "cpu", "--shard", "2/3", "--json"]
    app([*call, "--tile", "32"], standalone_mode=False)
    summary = json.loads(capsys.readouterr().out)
    assert summary["shard"] == {"index": 2, "count": 3}
    assert summary["n_wells"] == 2
    with pytest.raises(OutputError, match="now 48: remove that folder") as caught:
        app([*call, "--tile", "48"], standalone_mode=False)
    assert "--overwrite" not in str(caught.value)
    (tmp_path / "small/manifest.json").write_text("{")
    with pytest.raises(OutputError, match="cannot be read: remove that folder"):
        app([*call, "--tile", "32"], standalone_mode=False)


def test_the_platemap_of_the_shards_is_asked_for(sharded: Path) -> None:
    with pytest.raises(UsageError, match=r"platemap map\.csv: give it by --metadata"):
        merge(sharded)


def test_another_number_of_shards_is_refused_at_once(
    small_plate: tuple[Path, pl.DataFrame], model: uf.Embedder, sharded: Path, platemap: Platemap
) -> None:
    plate = uf.open_plate(small_plate[0])
    with pytest.raises(OutputError, match="holds shards of 3, this is one of 2: use --shard I/3"):
        uf.embed_to_folder(
            plate, model, sharded.parent, OPTIONS, platemap=platemap, shard=Shard(1, 2)
        )


def test_a_shard_that_runs_again_leaves_the_merged_manifest(
    small_plate: tuple[Path, pl.DataFrame], model: uf.Embedder, sharded: Path, platemap: Platemap
) -> None:
    (sharded / "parts/.A01.parquet.dead.tmp").touch()  # of a shard that was killed
    merge(sharded, platemap)
    assert not list(sharded.rglob("*.tmp"))
    before = (sharded / "manifest.json").read_bytes()
    plate = uf.open_plate(small_plate[0])
    uf.embed_to_folder(plate, model, sharded.parent, OPTIONS, platemap=platemap, shard=Shard(1, 3))
    assert (sharded / "manifest.json").read_bytes() == before


def test_the_folder_above_is_told_apart(sharded: Path, platemap: Platemap) -> None:
    with pytest.raises(OutputError, match=r"give the folder of a plate in it, such as .*small"):
        merge(sharded.parent, platemap)
    other = sharded.parent / "other"
    other.mkdir()
    (other / "profiles.parquet").touch()  # of a plate without shards
    with pytest.raises(OutputError, match=r"give the folder of a plate in it, such as .*small"):
        merge(sharded.parent, platemap)


def test_no_shards(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="holds no finished shard"):
        merge(tmp_path)
    plate = tmp_path / "plate"
    plate.mkdir()
    (plate / "profiles.parquet").touch()
    for path in (plate, tmp_path):
        with pytest.raises(OutputError, match="no shards: there is nothing to merge"):
            merge(path)
    for path in (tmp_path / "none", plate / "profiles.parquet"):
        with pytest.raises(OutputError, match=r"is no folder: give that of a plate, OUT/PLATE"):
            merge(path)


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "-1/2", "1/0", ""])
def test_what_is_no_shard(text: str) -> None:
    with pytest.raises(UsageError, match="is no shard: use I/N"):
        Shard.parse(text)
    assert Shard.parse("2/3").of(range(7)) == range(1, 7, 3)
