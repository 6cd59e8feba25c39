"""Quality in runs: left out, resumed, sharded, with other limits; and on the command line."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from result_files import tables_of

import unidino_fast as uf
from unidino_fast.cli import app
from unidino_fast.config import EmbedOptions
from unidino_fast.errors import OutputError, TableError, UsageError
from unidino_fast.output import TABLES
from unidino_fast.parts import read_whole_part
from unidino_fast.qc import MEASURES, measure_planes, quality_columns, thresholds_of
from unidino_fast.reading import FieldReader
from unidino_fast.shards import Shard, merge

OPTIONS = EmbedOptions(tile=32)


def embed(plate: Path, model: uf.Embedder, out: Path, **changes: Any) -> Any:
    return uf.embed_to_folder(uf.open_plate(plate), model, out, OPTIONS, **changes)


def plain(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in TABLES}


def test_columns_are_the_measures_of_the_pixels(
    small_plate: tuple[Path, pl.DataFrame], model: uf.Embedder
) -> None:
    plate = uf.open_plate(small_plate[0])
    reader = FieldReader(plate.storage)
    table = uf.embed_plate(plate, model, channels=["Mito", "DNA"])
    columns = quality_columns(table)
    assert list(columns) == [(m, c) for c in ("DNA", "Mito") for m in MEASURES]
    fields = [field for well in plate.wells for field in well.fields]
    for row, field in zip(table.iter_rows(named=True), fields, strict=True):
        pixels = reader.read(field, time=0, channels=(0, 2), z="max")
        wanted = measure_planes(pixels).reshape(-1)
        found = [row[name] for name in columns.values()]
        assert [None if value != value else value for value in wanted.tolist()] == found
    names = table.columns
    first, last = names.index("Metadata_QC_Intensity_DNA"), names.index("Metadata_QC_Flagged")
    assert names[first - 1] == "Metadata_n_tiles_dropped"
    assert names[last + 1] == "DNA_000"
    assert last - first == 2 * len(MEASURES) + 1
    bare = uf.embed_plate(plate, model, channels=["Mito", "DNA"], qc=False)
    assert table.drop(names[first : last + 1]).equals(bare)


def test_keep_empty_reads_other_channels(
    small_plate: tuple[Path, pl.DataFrame], model: uf.Embedder
) -> None:
    plate = uf.open_plate(small_plate[0])
    tables = [
        uf.embed_plate(plate, model, channels=["Mito"], keep_empty=keep) for keep in (False, True)
    ]
    names = list(quality_columns(tables[0]).values())
    assert tables[0].select(names).equals(tables[1].select(names))


def test_runs_without(
    small_plate: tuple[Path, pl.DataFrame], model: uf.Embedder, tmp_path: Path
) -> None:
    embed(small_plate[0], model, tmp_path, qc=False)
    folder = tmp_path / "small"
    assert not (folder / "qc.json").exists()
    wells = pl.read_parquet(folder / "wells.parquet")
    assert not [name for name in wells.columns if name.startswith("Metadata_QC_")]
    assert json.loads((folder / "manifest.json").read_text())["provenance"]["qc"] is None


def test_wells_of_a_run_without_are_measured_later_and_not_embedded_again(
    small_plate: tuple[Path, pl.DataFrame],
    model: uf.Embedder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And back: measures in parts do no harm to a run without."""
    path = small_plate[0]
    embed(path, model, tmp_path / "with")
    embed(path, model, tmp_path / "without", qc=False)
    bare = plain(tmp_path / "without/small")
    with monkeypatch.context() as patch:
        patch.setattr(
            type(model), "packer", lambda self: pytest.fail("embedded again"), raising=True
        )
        patch.setattr("unidino_fast.plate_run.embed_wells", lambda *args, **_: iter_nothing(args))
        again = embed(path, model, tmp_path / "without")
    assert again.n_resumed == 6
    assert "6 wells were embedded without quality control and read again to be measured" in (
        again.warnings
    )
    assert tables_of(tmp_path / "without/small") == tables_of(tmp_path / "with/small")
    assert "measure" not in embed(path, model, tmp_path / "without").seconds
    embed(path, model, tmp_path / "without", qc=False)
    assert plain(tmp_path / "without/small") == bare
    assert not (tmp_path / "without/small/qc.json").exists()


def iter_nothing(args: Any) -> Any:
    """A generator for no wells, as the run has none left."""
    assert not args[0], "wells are left to embed"
    yield from ()


def test_pixels_that_changed_are_not_measured(
    plate_path: Path, model: uf.Embedder, tmp_path: Path
) -> None:
    """By their checksums, where a copy has the sizes and times of the files."""
    embed(plate_path, model, tmp_path / "out", qc=False)
    one, other = (plate_path / f"B/{column}/0/0/0/0/0" for column in (1, 2))
    part = tmp_path / "out/small/parts/B02.parquet"
    shutil.copyfile(one, other)
    from unidino_fast import plate_run

    with pytest.MonkeyPatch.context() as patch:
        real = plate_run.stamps_before
        patch.setattr(plate_run, "stamps_before", lambda *args: dict.fromkeys(real(*args), None))
        before = part.read_bytes()
        with pytest.raises(OutputError, match="the pixels of field B02/0 differ"):
            embed(plate_path, model, tmp_path / "out")
    assert part.read_bytes() == before


def test_pixels_that_cannot_be_measured_leave_their_well_out(
    plate_path: Path, model: uf.Embedder, tmp_path: Path
) -> None:
    embed(plate_path, model, tmp_path / "out", qc=False)
    chunk = plate_path / "B/2/0/0/0/0/0"
    status = chunk.stat()
    chunk.write_bytes(bytes(status.st_size))  # as a disk may give back
    os.utime(chunk, ns=(status.st_atime_ns, status.st_mtime_ns))
    summary = embed(plate_path, model, tmp_path / "out", on_error="skip")
    assert (summary.n_resumed, list(summary.left_out)) == (5, ["B02"])
    assert any(line.startswith("5 wells were embedded without") for line in summary.warnings)


def test_other_limits_embed_nothing_again(
    small_plate: tuple[Path, pl.DataFrame], model: uf.Embedder, tmp_path: Path
) -> None:
    embed(small_plate[0], model, tmp_path)
    limits = thresholds_of({"saturated": {"share": 0.0}, "drop": ["saturated"]}, "x")
    again = embed(small_plate[0], model, tmp_path, qc=limits)
    assert again.n_resumed == 6
    wells = pl.read_parquet(tmp_path / "small/wells.parquet")
    assert wells["Metadata_QC_Flagged"].all()
    assert wells["Metadata_QC_Flags"][0] == "saturated:DNA;saturated:ER;saturated:Mito"
    held = json.loads(pl.read_parquet_metadata(tmp_path / "small/wells.parquet")["unidino_fast"])
    assert held["qc"]["saturated"]["share"] == 0
    report = json.loads((tmp_path / "small/qc.json").read_text())
    assert report["thresholds"] == held["qc"]
    assert report["n_flagged"] == 6


def test_measures_in_parts_are_under_their_digest(
    small_plate: tuple[Path, pl.DataFrame], model: uf.Embedder, tmp_path: Path
) -> None:
    embed(small_plate[0], model, tmp_path)
    made_by = json.loads(
        pl.read_parquet_metadata(tmp_path / "small/parts/A01.parquet")["unidino_fast"]
    )
    part = tmp_path / "small/parts/A01.parquet"
    position = uf.open_plate(small_plate[0]).wells[0].position
    found = read_whole_part(tmp_path / "small/parts", position, made_by["made_by"])
    assert found is not None
    assert all(field.quality is not None for field in found.fields)
    frame = pl.read_parquet(part)
    changed = frame["quality"].to_numpy().copy()
    changed[0, 0] += 1
    frame = frame.with_columns(pl.Series("quality", changed, frame["quality"].dtype))
    frame.write_parquet(part, metadata={"unidino_fast": json.dumps(made_by)})
    assert read_whole_part(tmp_path / "small/parts", position, made_by["made_by"]) is None
    older = {**made_by, "measures": ["Intensity"]}  # of a version that measured otherwise
    frame = pl.read_parquet(part).with_columns(
        pl.Series("quality", found_quality(found), frame["quality"].dtype)
    )
    frame.write_parquet(part, metadata={"unidino_fast": json.dumps(older)})
    old = read_whole_part(tmp_path / "small/parts", position, made_by["made_by"])
    assert old is not None
    assert all(field.quality is None for field in old.fields)


def found_quality(result: Any) -> Any:
    import numpy as np

    return np.concatenate([field.quality for field in result.fields])


def test_shards_carry_their_limits(
    small_plate: tuple[Path, pl.DataFrame], model: uf.Embedder, tmp_path: Path
) -> None:
    limits = thresholds_of({"saturated": {"share": 0.0}}, "x")
    embed(small_plate[0], model, tmp_path / "whole", qc=limits)
    for index in (1, 2):
        embed(small_plate[0], model, tmp_path / "out", qc=limits, shard=Shard(index, 2))
    merge(tmp_path / "out/small")
    assert tables_of(tmp_path / "out/small") == tables_of(tmp_path / "whole/small")
    embed(small_plate[0], model, tmp_path / "out", shard=Shard(2, 2))
    with pytest.raises(OutputError, match=r"shards 1 and 2 .* made in different ways \(qc: "):
        merge(tmp_path / "out/small")
    record = tmp_path / "out/small/shards/1-of-2.json"
    document = json.loads(record.read_text())
    for path in ("1-of-2", "2-of-2"):
        document["provenance"]["qc"] = {"edge": 7}
        document["shard"]["index"] = int(path[0])
        (record.parent / f"{path}.json").write_text(json.dumps(document))
    with pytest.raises(OutputError, match="limits of quality control that are not understood"):
        merge(tmp_path / "out/small")


def test_a_part_without_measures_is_no_part_of_a_merge(
    small_plate: tuple[Path, pl.DataFrame], model: uf.Embedder, tmp_path: Path
) -> None:
    embed(small_plate[0], model, tmp_path / "bare", qc=False)
    for index in (1, 2):
        embed(small_plate[0], model, tmp_path / "out", shard=Shard(index, 2))
    shutil.copy(tmp_path / "bare/small/parts/A02.parquet", tmp_path / "out/small/parts")
    with pytest.raises(OutputError, match=r"lacks well A02.*run embed with --shard 2/2"):
        merge(tmp_path / "out/small")
    embed(small_plate[0], model, tmp_path / "out", shard=Shard(2, 2))
    merge(tmp_path / "out/small")


def test_queries_that_do_not_fit_are_said_before_the_work(
    small_plate: tuple[Path, pl.DataFrame], model: uf.Embedder, tmp_path: Path
) -> None:
    wrong = thresholds_of({"controls": {"negative": 'Metadata_Compound == "DMSO"'}}, "x")
    with pytest.raises(TableError, match="Metadata_Compound"):
        embed(small_plate[0], model, tmp_path / "out", qc=wrong)
    assert not (tmp_path / "out").exists()
    right = thresholds_of({"controls": {"negative": "Metadata_Column == 1"}}, "x")
    embed(small_plate[0], model, tmp_path / "out", qc=right)


def call(*arguments: str) -> None:
    app(list(arguments), standalone_mode=False)


def test_the_command_line(
    small_plate: tuple[Path, pl.DataFrame],
    tiny_weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Three plates in one folder, one with other light: compared, in JSON and in a file."""
    plates = []
    for name in ("a", "b", "c"):
        target = Path(shutil.copytree(small_plate[0], tmp_path / f"{name}.zarr"))
        document = json.loads((target / ".zattrs").read_text())
        document["plate"]["name"] = name
        (target / ".zattrs").write_text(json.dumps(document))
        plates.append(str(target))
    rest = ["--weights", str(tiny_weights), "--device", "cpu", "--tile", "32", "--json"]
    call("embed", *plates, "--out", str(tmp_path / "out"), *rest)
    printed = json.loads(capsys.readouterr().out)
    assert printed["qc"] == json.loads((tmp_path / "out/qc.json").read_text())
    assert printed["qc"]["plates"] == ["a", "b", "c"]
    assert printed["qc"]["checks"] == []
    call("embed", plates[0], "--out", str(tmp_path / "none"), "--no-qc", *rest)
    assert not (tmp_path / "none/a/qc.json").exists()
    (tmp_path / "q.toml").write_text("[saturated]\nshare = 0.0\n")
    config = ["--qc-config", str(tmp_path / "q.toml")]
    capsys.readouterr()
    call("embed", plates[0], "--out", str(tmp_path / "own"), *config, *rest)
    assert "warning: qc: 6 wells are saturated: A01, A02" in capsys.readouterr().err
    with pytest.raises(UsageError, match="--no-qc and --qc-config exclude each other"):
        call("embed", plates[0], "--out", str(tmp_path / "x"), "--no-qc", *config, *rest)
    (tmp_path / "q.toml").write_text("[saturated]\nshar = 0.0\n")
    with pytest.raises(TableError, match=r"saturated\.shar is no threshold: did you mean share"):
        call("embed", plates[0], "--out", str(tmp_path / "x"), *config, *rest)
    assert not (tmp_path / "x").exists()


def test_platemaps_may_not_bring_columns_of_quality(tmp_path: Path) -> None:
    for name in ("QC_Flagged", "Metadata_QC_Focus_DNA"):
        (tmp_path / "map.csv").write_text(f"Well,{name}\nA01,1\n")
        with pytest.raises(TableError, match="which is taken: rename it"):
            uf.read_platemap(tmp_path / "map.csv")
    (tmp_path / "map.csv").write_text("Well,QC_passed\nA01,1\n")
    assert "Metadata_QC_passed" in uf.read_platemap(tmp_path / "map.csv").columns
