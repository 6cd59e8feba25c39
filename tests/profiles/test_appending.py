"""Parquet files that grow: their row groups, whatever the number of those."""

import gc
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from unidino_fast.errors import TableError
from unidino_fast.profiles.appending import RowGroups
from unidino_fast.profiles.table import Profiles
from unidino_fast.tables import provenance_in


def portions(count):
    rng = np.random.default_rng(count)
    return [
        pl.DataFrame(
            {
                "Metadata_Well": [f"A{at:02d}"] * (at % 3 + 1),
                "DNA_000": rng.normal(size=at % 3 + 1).astype("f4"),
                "DNA_001": rng.normal(size=at % 3 + 1).astype("f4"),
            }
        )
        for at in range(count)
    ]


@pytest.mark.parametrize("count", [1, 7, 8, 9, 16, 21])  # descriptions are taken off at each 8th
def test_each_table_is_a_row_group(tmp_path, count):
    tables = portions(count)
    path = tmp_path / "t.parquet"
    with RowGroups(path, {"made": "by"}) as file:
        for table in tables:
            file.write(table)
    assert file.columns == ("Metadata_Well", "DNA_000", "DNA_001")
    found = pq.ParquetFile(path)
    assert found.num_row_groups == count
    for at, table in enumerate(tables):
        assert pl.from_arrow(found.read_row_group(at)).equals(table)
    assert pl.read_parquet(path).equals(pl.concat(tables))
    assert provenance_in(path) == {"made": "by"}


@pytest.mark.parametrize(("plain", "of_features"), [(True, "UNCOMPRESSED"), (False, "ZSTD")])
def test_features_can_be_left_uncompressed(tmp_path, plain, of_features):
    path = tmp_path / "t.parquet"
    with RowGroups(path, {}, plain=plain) as file:
        file.write(portions(1)[0])
    group = pq.ParquetFile(path).metadata.row_group(0)
    kinds = {column.path_in_schema: column.compression for column in map(group.column, range(3))}
    assert kinds == {"Metadata_Well": "ZSTD", "DNA_000": of_features, "DNA_001": of_features}


def of_another_kind():
    yield portions(1)[0]
    yield portions(1)[0].rename({"DNA_001": "ER_001"})


def that_cannot_be_made():
    yield portions(1)[0]
    raise KeyError("mine")


def write_all(tables, path):
    with RowGroups(path, {}) as file:
        for table in tables:
            file.write(table)


def profiles(values, **more):
    metadata = pl.DataFrame({"Metadata_Well": ["A01", "B02"], "Metadata_Site": [1, 2]})
    return Profiles(metadata, ("DNA_000", "DNA_001", "DNA_002"), values, **more)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("hole", [0.5, np.nan])
@pytest.mark.parametrize("order", [(), ("DNA_002", "Metadata_Site", "DNA_000")])
@pytest.mark.parametrize("layout", ["C", "F"])
def test_arrow_has_what_polars_has(dtype, hole, order, layout):
    values = np.array([[1, 2], [3, 4], [5, hole]], dtype, order=layout)
    taken = profiles(values, order=order)
    assert taken.to_arrow().equals(taken.frame().to_arrow())
    assert taken.to_arrow()["DNA_002"].null_count == int(np.isnan(hole))


def test_arrow_has_rows_and_features_where_there_are_none():
    empty = Profiles(pl.DataFrame({"Metadata_Well": ["A01"]}), (), np.empty((0, 1), np.float32))
    assert empty.to_arrow().equals(empty.frame().to_arrow())


@pytest.mark.parametrize("value", [np.inf, 1e39])
def test_arrow_is_not_given_what_float32_does_not_hold(value):
    with pytest.raises(TableError, match="feature DNA_001 of the result is beyond"):
        profiles(np.array([[1, 2], [3, value], [5, 6]])).to_arrow()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a full device")
def test_a_full_disk_is_told_once(tmp_path, capfd):
    path = tmp_path / "t.parquet"
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        write_all(portions(21), path)
    gc.collect()
    assert capfd.readouterr() == ("", "")


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("tables", "error"), [(of_another_kind, ValueError), (that_cannot_be_made, KeyError)]
)
def test_whatever_ends_it_is_what_is_raised(tmp_path, tables, error):
    """And what Arrow has begun is closed: nothing complains later."""
    with pytest.raises(error):
        write_all(tables(), tmp_path / "t.parquet")
    gc.collect()
