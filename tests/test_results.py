import io
import time

import numpy as np
import pandas as pd
import polars as pl
import pytest

from unidino_fast.assembly import Layout
from unidino_fast.names import WellName
from unidino_fast.results import FieldResult, WellResult, feature_columns

METADATA = {
    "Metadata_Plate": pl.String,
    "Metadata_Well": pl.String,
    "Metadata_Row": pl.String,
    "Metadata_Column": pl.Int64,
    "Metadata_Site": pl.String,
    "Metadata_Time": pl.Int64,
    "Metadata_n_fields": pl.Int64,
    "Metadata_n_tiles": pl.Int64,
    "Metadata_n_tiles_dropped": pl.Int64,
}


def field(labels, dim, *, site="0", time=0, kept=4, dropped=0, seed=0):
    rng = np.random.default_rng([seed, time])
    features = rng.normal(size=(len(labels), dim)).astype("f4")
    return FieldResult(
        site, time, tuple(labels), kept, dropped, features, checksum=seed, metadata_digest="ab"
    )


WELLS = [
    WellResult(WellName(0, 1), (field("BA", 3, site="f0"), field("A", 3, site="f1", kept=2))),
    WellResult(WellName(27, 12), (field("AB", 3, site="0", time=7, dropped=5, seed=1),)),
]


def fields_frame(wells, *, channels, dim, has_time):
    names = tuple(str(well.position) for well in wells)
    layout = Layout("p", names, tuple(channels), dim, has_time)
    return layout.fields(dict(zip(names, wells, strict=True)))


@pytest.mark.parametrize("has_time", [False, True])
def test_columns_types_and_values(has_time):
    found = fields_frame(WELLS, channels=["A", "B"], dim=3, has_time=has_time)
    schema = {k: v for k, v in METADATA.items() if has_time or k != "Metadata_Time"}
    names = ["A_000", "A_001", "A_002", "B_000", "B_001", "B_002"]
    assert list(found.schema.items()) == [*schema.items(), *((name, pl.Float32) for name in names)]
    assert feature_columns(found) == names
    wanted = [
        ("p", "A01", "A", 1, "f0", 0, 1, 4, 0),
        ("p", "A01", "A", 1, "f1", 0, 1, 2, 0),
        ("p", "AB12", "AB", 12, "0", 7, 1, 4, 5),
    ]
    if not has_time:
        wanted = [row[:5] + row[6:] for row in wanted]
    assert found.select(list(schema)).rows() == wanted
    fields = [one for well in WELLS for one in well.fields]
    for row, one in enumerate(fields):
        for channel in "AB":
            for index in range(3):
                value = found[f"{channel}_{index:03d}"][row]
                if channel in one.labels:
                    assert value == float(one.features[one.labels.index(channel), index])
                else:
                    assert value is None


def test_indices_beyond_a_thousand():
    wells = [WellResult(WellName(0, 1), (field("A", 1280),))]
    found = feature_columns(fields_frame(wells, channels=["A"], dim=1280, has_time=False))
    assert found[0] == "A_000"
    assert found[-1] == "A_1279"


def test_no_wells():
    found = fields_frame([], channels=["A"], dim=2, has_time=True)
    assert found.is_empty()
    assert dict(found.schema) == METADATA | {"A_000": pl.Float32, "A_001": pl.Float32}


def test_a_channel_that_no_field_has_is_null():
    found = fields_frame(WELLS, channels=["A", "B", "C"], dim=3, has_time=False)
    assert found["C_001"].dtype == pl.Float32
    assert found["C_001"].null_count() == 3


def test_pandas_reads_it():
    found = fields_frame(WELLS, channels=["A", "B"], dim=3, has_time=False)
    buffer = io.BytesIO()
    found.write_parquet(buffer)
    read = pd.read_parquet(io.BytesIO(buffer.getvalue()))
    assert list(read.columns) == found.columns
    assert read["A_000"].dtype == np.float32
    assert read["B_000"].isna().tolist() == [False, True, False]
    assert read["Metadata_Well"].tolist() == ["A01", "A01", "AB12"]


@pytest.mark.slow
def test_a_whole_screen_plate_is_a_matter_of_a_second(record_property):
    one = field("ABCDE", 384)
    wells = [WellResult(WellName(i // 24, i % 24 + 1), (one,) * 9) for i in range(384)]
    start = time.perf_counter()
    found = fields_frame(wells, channels=list("ABCDE"), dim=384, has_time=False)
    record_property("seconds", round(time.perf_counter() - start, 3))
    assert found.shape == (3456, 8 + 1920)
