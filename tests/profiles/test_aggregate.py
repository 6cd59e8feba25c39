import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from unidino_fast.errors import TableError, UsageError
from unidino_fast.profiles import aggregate
from unidino_fast.results import feature_columns

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what other people's packages say when imported
    import pycytominer

FLOAT32 = {"atol": 1e-6, "rtol": 1e-6}  # float64 inside, float32 in the table


def fields_table(seed=0, *, times=1):
    """Three wells of 4, 1 and 3 fields with a channel that some fields lack."""
    rng = np.random.default_rng(seed)
    rows = []
    for well, n_fields in (("B02", 4), ("A01", 1), ("A02", 3)):
        for site in range(n_fields):
            for time in range(times):
                values = [*rng.normal(5, 1, 4).astype("f4").astype(float)]
                if (well, site) in (("B02", 1), ("B02", 3)) or well == "A01":
                    values[2:] = [None, None]
                kept = int(rng.integers(1, 16))
                place = ("p", well, well[0], int(well[1:]), str(site), time)
                further = ("cells", f"c{site % 2}", None)
                rows.append((*place, 1, kept, 16 - kept, *further, *values))
    names = ["Plate", "Well", "Row", "Column", "Site", "Time", "n_fields", "n_tiles"]
    names += ["n_tiles_dropped", "Constant", "Varying", "Null"]
    names = [f"Metadata_{name}" for name in names] + ["A_000", "A_001", "B_000", "B_001"]
    table = pl.DataFrame(rows, schema=names, orient="row")
    table = table.with_columns(pl.col(feature_columns(table)).cast(pl.Float32))
    return table if times > 1 else table.drop("Metadata_Time")


def naive_wells(fields, statistic, weight):
    """Dictionaries in the order of first appearance, one value at a time."""
    groups = {}
    for row in fields.iter_rows(named=True):
        groups.setdefault((row["Metadata_Well"], row.get("Metadata_Time")), []).append(row)
    wells = []
    for (well, time), rows in groups.items():
        found = {"Metadata_Well": well, "Metadata_Time": time, "Metadata_n_fields": len(rows)}
        for count in ("Metadata_n_tiles", "Metadata_n_tiles_dropped"):
            found[count] = sum(row[count] for row in rows)
        for name in feature_columns(fields):
            pairs = [(row[name], row["Metadata_n_tiles"]) for row in rows if row[name] is not None]
            if not pairs:
                found[name] = None
            elif statistic == "median":
                found[name] = float(np.median([value for value, _ in pairs]))
            else:
                pairs = [(value, tiles if weight == "tiles" else 1) for value, tiles in pairs]
                found[name] = sum(v * w for v, w in pairs) / sum(w for _, w in pairs)
        wells.append(found)
    return wells


class TestAggregate:
    @pytest.mark.parametrize("times", [1, 3])
    @pytest.mark.parametrize("weight", ["tiles", "fields"])
    @pytest.mark.parametrize("statistic", ["mean", "median"])
    def test_naive_loop(self, statistic, weight, times):
        fields = fields_table(times=times)
        found = aggregate(fields, statistic=statistic, weight=weight)
        wanted = naive_wells(fields, statistic, weight)
        assert found.height == len(wanted) == 3 * times
        for row, naive in zip(found.iter_rows(named=True), wanted, strict=True):
            for name, value in naive.items():
                if name not in feature_columns(fields) or value is None:
                    assert row.get(name) == value, name
                else:
                    assert row[name] == pytest.approx(value, rel=1e-7), name

    def test_columns(self):
        fields = fields_table(times=2)
        found = aggregate(fields)
        gone = {"Metadata_Site", "Metadata_Varying"}
        assert found.columns == [name for name in fields.columns if name not in gone]
        assert [found.schema[name] for name in feature_columns(found)] == [pl.Float32] * 4
        assert found["Metadata_Constant"].to_list() == ["cells"] * 6
        assert found["Metadata_Null"].null_count() == 6
        assert found.schema["Metadata_n_tiles"] == pl.Int64

    def test_weights_are_the_tiles_that_were_kept(self):
        fields = pl.DataFrame(
            {
                "Metadata_Plate": "p",
                "Metadata_Well": "A01",
                "Metadata_n_tiles": [1, 3],
                "DNA_000": [0.0, 4.0],
            }
        )
        assert aggregate(fields)["DNA_000"].to_list() == [3.0]
        assert aggregate(fields, weight="fields")["DNA_000"].to_list() == [2.0]

    def test_plates_stay_apart(self):
        two = pl.concat([fields_table(), fields_table(1).with_columns(Metadata_Plate=pl.lit("q"))])
        found = aggregate(two)
        assert found["Metadata_Plate"].to_list() == ["p"] * 3 + ["q"] * 3
        assert_frame_equal(found[:3], aggregate(two[:8]))

    @pytest.mark.parametrize("statistic", ["mean", "median"])
    def test_pycytominer(self, statistic):
        fields = fields_table(times=2)
        strata = ["Metadata_Plate", "Metadata_Well", "Metadata_Time"]
        features = feature_columns(fields)
        found = aggregate(fields, statistic=statistic, weight="fields").sort(strata)
        wanted = pycytominer.aggregate(
            pd.DataFrame(fields.to_dict(as_series=False)),
            strata=strata,
            features=features,
            operation=statistic,
        ).sort_values(strata)
        np.testing.assert_allclose(
            found.select(features).to_numpy(), wanted[features].astype(float), **FLOAT32
        )

    def test_no_rows(self):
        found = aggregate(fields_table()[:0]).drop("Metadata_Varying")
        assert found.is_empty()
        assert found.schema == aggregate(fields_table()).schema

    @pytest.mark.parametrize("name", ["Metadata_Plate", "Metadata_Well", "Metadata_n_tiles"])
    def test_missing_column(self, name):
        with pytest.raises(TableError, match=rf"^column {name} is missing: give the table"):
            aggregate(fields_table().drop(name))

    @pytest.mark.parametrize("counts", [[0], [None], [1.5], ["1"], [-1]])
    def test_counts_that_count_nothing(self, counts):
        fields = fields_table()[:1].with_columns(pl.Series("Metadata_n_tiles", counts))
        with pytest.raises(TableError, match="must hold whole numbers from 1 up"):
            aggregate(fields)

    @pytest.mark.parametrize("wrong", [{"statistic": "mode"}, {"weight": "cells"}])
    def test_unknown_choice(self, wrong):
        with pytest.raises(UsageError, match="use mean or median, tiles or fields"):
            aggregate(fields_table(), **wrong)

    def test_what_is_no_polars_table(self):
        with pytest.raises(UsageError, match=r"^the table is a pandas.DataFrame: give a Polars"):
            aggregate(fields_table().to_pandas())

    @pytest.mark.parametrize("key", ["Metadata_Plate", "Metadata_Well"])
    def test_a_field_of_no_well(self, key):
        fields = fields_table()
        fields = fields.with_columns(pl.Series(key, [None, *fields[key][1:]]))
        with pytest.raises(TableError, match=rf"^column {key} is null in 1 of 8 rows"):
            aggregate(fields)

    def test_features_are_checked(self):
        fields = fields_table().with_columns(A_001=pl.lit(float("nan")))
        with pytest.raises(TableError, match="feature A_001 is NaN or infinite in 8 of 8 rows"):
            aggregate(fields)
