import polars as pl
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal
from unidino_profile_tables import CONTROLS, correlated_table

from unidino_fast.errors import OutputError, TableError
from unidino_fast.profiles import run_recipe
from unidino_fast.profiles import streaming as module
from unidino_fast.profiles.normalize import Normalisation
from unidino_fast.profiles.recipe import Recipe
from unidino_fast.profiles.streaming import stream_recipe, streams

PLATES = ("p", "q", "r", "s", "t")
PORTION = 4 * 7 * 120  # two plates of 60 wells x 7 features


def recipe(method="mad_robustize", **options):
    return Recipe((Normalisation.of(method, **options),))


def campaign():
    table = correlated_table(plates=PLATES)
    on_r = pl.col("Metadata_Plate") == "r"
    return table.with_columns(
        pl.when(~on_r).then(pl.col("DNA_002")),
        pl.when(on_r).then(0.5).otherwise(pl.col("DNA_003")).cast(pl.Float32).alias("DNA_003"),
    )


@pytest.mark.parametrize("row_group", [7, 60, 300, 1000])
@pytest.mark.parametrize(
    "steps",
    [
        recipe(),
        recipe("standardize", samples=CONTROLS),
        Recipe((*recipe("spherize", by="Metadata_Plate").steps, *recipe("l2").steps)),
    ],
)
def test_the_same_as_in_memory(tmp_path, row_group, steps):
    table = campaign()
    table.write_parquet(tmp_path / "in.parquet", row_group_size=row_group)
    written, report = stream_recipe(
        tmp_path / "in.parquet", tmp_path / "out.parquet", steps, {"a": 1}, portion_bytes=PORTION
    )
    wanted, in_memory = run_recipe(table, steps)
    found = pl.read_parquet(tmp_path / "out.parquet")
    assert_frame_equal(found, wanted, rel_tol=1e-6, abs_tol=1e-6)
    assert (written.n_rows, written.n_features) == (300, 7)
    assert report == in_memory
    assert pl.read_parquet_metadata(tmp_path / "out.parquet")["unidino_fast"] == '{"a": 1}'


@pytest.mark.parametrize("row_group", [7, 300])
def test_rows_alone_stream_in_any_portions(tmp_path, row_group):
    table = campaign().with_columns(pl.lit(None, pl.String).alias("Metadata_Plate"))
    rows = pl.int_range(pl.len())
    features = [name for name in table.columns if not name.startswith("Metadata_")]
    table = table.with_columns(
        pl.when(rows % 100 != 3).then(pl.col(name)).otherwise(0).cast(pl.Float32)
        for name in features
    )
    table.write_parquet(tmp_path / "in.parquet", row_group_size=row_group)
    steps = Recipe((*recipe("none").steps, *recipe("l2").steps))
    _, report = stream_recipe(
        tmp_path / "in.parquet", tmp_path / "out.parquet", steps, {}, portion_bytes=PORTION
    )
    wanted, in_memory = run_recipe(table, steps)
    assert_frame_equal(pl.read_parquet(tmp_path / "out.parquet"), wanted)
    assert report.notes == in_memory.notes == ["3 rows are all zeros and have no direction"]
    with pq.ParquetFile(tmp_path / "out.parquet") as file:
        groups = [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)]
    assert groups == [120, 120, 60]


def test_a_portion_that_lacks_the_float64_feature(tmp_path):
    on_last = pl.col("Metadata_Plate") == "t"
    table = campaign().with_columns(pl.when(on_last).then(0.5).alias("DNA_006"))
    table.write_parquet(tmp_path / "in.parquet")
    steps = Recipe((*recipe("standardize").steps, *recipe("l2").steps))
    stream_recipe(
        tmp_path / "in.parquet", tmp_path / "out.parquet", steps, {}, portion_bytes=PORTION
    )
    wanted, _ = run_recipe(table, steps)
    assert_frame_equal(pl.read_parquet(tmp_path / "out.parquet"), wanted, check_exact=True)


def test_no_more_than_a_portion_is_held(tmp_path, monkeypatch):
    campaign().write_parquet(tmp_path / "in.parquet", row_group_size=50)
    held = []
    monkeypatch.setattr(
        module, "take_apart", lambda frame: held.append(frame.height) or real(frame)
    )
    real = run_recipe.__globals__["take_apart"]
    stream_recipe(
        tmp_path / "in.parquet", tmp_path / "out.parquet", recipe(), {}, portion_bytes=PORTION
    )
    assert held == [120, 120, 60]
    with pq.ParquetFile(tmp_path / "out.parquet") as file:
        groups = [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)]
    assert groups == held


def test_groups_larger_than_a_portion_stay_whole(tmp_path):
    table = campaign()
    table.write_parquet(tmp_path / "in.parquet")
    stream_recipe(tmp_path / "in.parquet", tmp_path / "out.parquet", recipe(), {}, portion_bytes=1)
    assert_frame_equal(pl.read_parquet(tmp_path / "out.parquet"), run_recipe(table, recipe())[0])


def test_scattered_rows_come_out_group_by_group(tmp_path):
    table = campaign().sample(fraction=1, shuffle=True, seed=4)
    table.write_parquet(tmp_path / "in.parquet", row_group_size=40)
    _, report = stream_recipe(
        tmp_path / "in.parquet", tmp_path / "out.parquet", recipe(), {}, scattered_bytes=PORTION
    )
    assert report.notes == [
        "rows of one Metadata_Plate do not lie together: the file was read 3 times, and rows come"
        " out group by group"
    ]
    found = pl.read_parquet(tmp_path / "out.parquet")
    order = list(dict.fromkeys(table["Metadata_Plate"]))
    at = pl.col("Metadata_Plate").replace_strict(order, range(5), return_dtype=pl.Int32)
    held = at // 2  # two plates at a time, in the order in which their rows stood
    wanted = run_recipe(table, recipe())[0].sort(held, maintain_order=True)
    assert_frame_equal(found, wanted)


def test_pandas_row_numbers_are_left_out(tmp_path):
    frame = campaign().to_pandas().iloc[::-1]
    frame.to_parquet(tmp_path / "in.parquet")
    stream_recipe(tmp_path / "in.parquet", tmp_path / "out.parquet", recipe(), {})
    assert pl.read_parquet(tmp_path / "out.parquet").columns == campaign().columns


def test_which_files_stream(tmp_path, monkeypatch):
    wells = tmp_path / "in.parquet"
    campaign().write_parquet(wells)
    out = tmp_path / "o.parquet"
    assert not streams(wells, out, recipe())
    monkeypatch.setattr(module, "_WORTH_BYTES", 300 * 7 * 4)
    assert streams(wells, out, recipe())
    assert not streams(wells, tmp_path / "o.csv", recipe())
    assert not streams(wells, out, recipe("spherize"))
    assert not streams(tmp_path / "none.parquet", out, recipe())
    wells.write_bytes(b"PAR1 and no more")
    assert not streams(wells, out, recipe())


def test_faults_leave_nothing_behind(tmp_path):
    wells, out = tmp_path / "in.parquet", tmp_path / "out.parquet"
    campaign().write_parquet(wells)
    late = recipe(samples="Metadata_Plate != 't'")
    with pytest.raises(TableError, match="no row of t fits"):
        stream_recipe(wells, out, late, {}, portion_bytes=PORTION)
    with pytest.raises(TableError, match=r"no column Metadata_Gate: did .*_Batch"):
        stream_recipe(wells, out, recipe(by="Metadata_Gate"), {})
    with pytest.raises(OutputError, match="cannot be made"):
        stream_recipe(wells, wells / "out.parquet", recipe(), {})
    cut = wells.read_bytes()
    wells.write_bytes(cut[:2000] + bytes(2000) + cut[4000:])
    with pytest.raises(TableError, match="cannot be read as a table"):
        stream_recipe(wells, out, recipe(), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet"]
