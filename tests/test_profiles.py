import logging
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from unidino_fast.errors import TableError, UsageError
from unidino_fast.evaluation import evaluate
from unidino_fast.profiles import aggregate, normalize, normalize_with_report
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

    def test_features_are_checked(self):
        fields = fields_table().with_columns(A_001=pl.lit(float("nan")))
        with pytest.raises(TableError, match="feature A_001 is NaN or infinite in 8 of 8 rows"):
            aggregate(fields)


def wells_table(n_rows=48, n_features=7, *, plates=("p",), seed=0):
    rng = np.random.default_rng(seed)
    values = np.concatenate(
        [
            rng.normal(rng.normal(0, 3, n_features), rng.lognormal(0, 2, n_features), size=shape)
            for shape in [(n_rows, n_features)] * len(plates)
        ]
    ).astype("f4")
    compound = rng.choice(["DMSO", "a", "b"], len(values))
    metadata = pl.DataFrame(
        {
            "Metadata_Plate": [plate for plate in plates for _ in range(n_rows)],
            "Metadata_Row_Number": range(len(values)),
            "Metadata_Compound": compound,
            "Metadata_Batch": [f"b{i % 2}" for i in range(len(values))],
        }
    )
    names = [f"DNA_{index:03d}" for index in range(n_features)]
    return pl.concat([metadata, pl.DataFrame(values, schema=names)], how="horizontal")


def in_pandas(table):
    """As float64: pycytominer's own rounding must not hide in float32."""
    frame = pd.DataFrame(table.to_dict(as_series=False))
    return frame.astype(dict.fromkeys(feature_columns(table), "float64"))


def of_pycytominer(table, method, samples="all", **options):
    features = feature_columns(table)
    found = pycytominer.normalize(
        in_pandas(table),
        features=features,
        meta_features=[name for name in table.columns if name not in features],
        samples=samples,
        method=method,
        **options,
    )
    return found[features].to_numpy()


QUERIES = [
    "all",
    "Metadata_Compound == 'DMSO'",
    "Metadata_Row_Number < 30 and Metadata_Batch != 'b1'",
]


class TestNormalize:
    @pytest.mark.parametrize("samples", QUERIES)
    @pytest.mark.parametrize("method", ["mad_robustize", "standardize"])
    def test_pycytominer(self, method, samples):
        table = wells_table()
        found = normalize(table, method, samples=None if samples == "all" else samples)
        wanted = of_pycytominer(table, method, samples)
        np.testing.assert_allclose(found.select(feature_columns(found)), wanted, **FLOAT32)
        assert found.columns == table.columns
        assert_frame_equal(found.select("^Metadata_.*$"), table.select("^Metadata_.*$"))
        assert {found.schema[name] for name in feature_columns(found)} == {pl.Float32}

    @pytest.mark.parametrize("method", ["mad_robustize", "standardize"])
    def test_nulls_of_some_wells_as_pycytominer(self, method):
        table = wells_table()
        some = pl.when(pl.col("Metadata_Row_Number") % 5 != 0).then(pl.col("DNA_002"))
        table = table.with_columns(some.alias("DNA_002"))
        found = normalize(table, method)
        np.testing.assert_allclose(
            found.select(feature_columns(found)), of_pycytominer(table, method), **FLOAT32
        )
        assert found["DNA_002"].null_count() == table["DNA_002"].null_count() == 10

    @pytest.mark.parametrize("samples", QUERIES)
    def test_pycytominers_rule_by_name(self, samples):
        table = wells_table().with_columns(
            DNA_001=pl.when(pl.col("Metadata_Row_Number") % 10 == 0).then(3.5).otherwise(3.25)
        )
        found = normalize(
            table, "pycytominer_mad_robustize", samples=None if samples == "all" else samples
        )
        wanted = of_pycytominer(table, "mad_robustize", samples)
        np.testing.assert_allclose(found.select(feature_columns(found)), wanted, **FLOAT32)
        assert found["DNA_001"].max() > 1e16

    def test_formula(self):
        table = pl.DataFrame({"Metadata_Plate": ["p"] * 4, "x_000": [1.0, 2.0, 4.0, 9.0]})
        # median 3, deviations 2 1 1 6, MAD 1.5
        wanted = [(value - 3) / (1.4826 * 1.5) for value in (1, 2, 4, 9)]
        assert normalize(table)["x_000"].to_list() == pytest.approx(wanted, rel=1e-6)

    @pytest.mark.parametrize("method", ["mad_robustize", "standardize"])
    def test_no_spread_is_no_signal(self, method, caplog):
        table = wells_table(plates=("p", "q"))
        on_p = pl.col("Metadata_Plate") == "p"
        constant = pl.when(on_p).then(0.1).otherwise(pl.col("DNA_001")).cast(pl.Float32)
        rounding = pl.when(on_p & (pl.col("Metadata_Row_Number") % 2 == 0)).then(
            pl.lit(1, pl.Float32)
        )
        table = table.with_columns(
            DNA_001=constant,
            DNA_004=rounding.when(on_p)
            .then(pl.lit(np.nextafter(np.float32(1), np.float32(2))))
            .otherwise(pl.col("DNA_004")),
        )
        with caplog.at_level(logging.WARNING):
            found = normalize(table, method)
        assert caplog.messages == [
            "2 features have no spread on p and were set to 0: DNA_001, DNA_004"
        ]
        assert found.filter(on_p).select("DNA_001", "DNA_004").to_numpy().tolist() == [[0, 0]] * 48
        np.testing.assert_allclose(
            found.filter(~on_p).select(feature_columns(found)),
            of_pycytominer(table.filter(~on_p), method),
            **FLOAT32,
        )

    def test_a_mad_of_zero_beside_a_few_other_values(self, caplog):
        table = wells_table().with_columns(
            DNA_003=(pl.col("Metadata_Row_Number") % 4 == 0).cast(pl.Int8)
        )
        found = normalize(table)
        assert found["DNA_003"].to_list() == [0] * 48
        assert caplog.messages == ["1 feature has no spread on p and was set to 0: DNA_003"]

    def test_no_spread_leaves_null_what_is_null(self):
        values = [None, 2.0, 2.0, None]
        table = pl.DataFrame({"Metadata_Plate": ["p"] * 4, "x_000": values})
        assert normalize(table)["x_000"].to_list() == [None, 0, 0, None]

    def test_one_well_is_all_zeros(self):
        found, neutralised = normalize_with_report(wells_table(1))
        assert found.select(feature_columns(found)).to_numpy().tolist() == [[0] * 7]
        assert [(group.group, len(group.features)) for group in neutralised] == [("p", 7)]

    @pytest.mark.parametrize("by", ["Metadata_Plate", ["Metadata_Plate", "Metadata_Batch"]])
    def test_groups_apart_and_rows_in_order(self, by):
        table = wells_table(plates=("p", "q", "r")).sample(fraction=1, shuffle=True, seed=3)
        found = normalize(table, by=by)
        assert_frame_equal(found.select("^Metadata_.*$"), table.select("^Metadata_.*$"))
        for part in table.partition_by(by):
            rows = found.join(part, on="Metadata_Row_Number", how="semi", maintain_order="left")
            np.testing.assert_allclose(
                rows.select(feature_columns(rows)),
                of_pycytominer(part, "mad_robustize"),
                **FLOAT32,
            )

    def test_a_group_named_null(self):
        table = wells_table().with_columns(Metadata_Plate=pl.lit(None, pl.String))
        np.testing.assert_allclose(
            normalize(table).select(feature_columns(table)),
            of_pycytominer(table, "mad_robustize"),
            **FLOAT32,
        )

    def test_a_channel_that_a_plate_lacks_stays_null(self):
        table = wells_table(plates=("p", "q"))
        on_p = pl.col("Metadata_Plate") == "p"
        table = table.with_columns(DNA_000=pl.when(~on_p).then(pl.col("DNA_000")))
        found, neutralised = normalize_with_report(table)
        assert found["DNA_000"].is_null().to_list() == [True] * 48 + [False] * 48
        assert neutralised == []

    def test_a_feature_of_nulls_alone_may_have_any_type(self):
        table = wells_table().with_columns(DNA_000=pl.lit(None, pl.String))
        assert normalize(table)["DNA_000"].null_count() == 48

    def test_a_channel_that_the_samples_lack(self):
        keep = pl.when(pl.col("Metadata_Compound") != "DMSO").then(pl.col("DNA_000"))
        table = wells_table().with_columns(DNA_000=keep)
        with pytest.raises(TableError, match=r"^feature DNA_000 is null in the rows of p that fit"):
            normalize(table, samples="Metadata_Compound == 'DMSO'")

    def test_none_changes_nothing(self):
        table = wells_table()
        assert_frame_equal(normalize(table, "none"), table)

    def test_integers_are_numbers(self):
        table = pl.DataFrame({"Metadata_Plate": ["p"] * 3, "x_000": [1, 2, 4]})
        found = normalize(table)["x_000"]
        assert found.to_list() == pytest.approx([-1 / 1.4826, 0, 2 / 1.4826])

    @pytest.mark.parametrize("table", [wells_table(0), wells_table(3, 0), wells_table(0, 0)])
    def test_nothing_to_do(self, table):
        assert normalize(table).shape == table.shape

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    @pytest.mark.parametrize("method", ["mad_robustize", "none"])
    def test_values_that_are_no_numbers(self, value, method):
        table = wells_table(4)
        features = table["DNA_002"].to_list()
        table = table.with_columns(pl.Series("DNA_002", [None, value, *features[2:]]))
        with pytest.raises(
            TableError, match=r"^feature DNA_002 is NaN or infinite in 1 of 4 rows: drop it$"
        ):
            normalize(table, method)

    @pytest.mark.parametrize("values", [["a", "b"], [True, False], [[1.0], [2.0]]])
    def test_columns_that_are_no_features(self, values):
        table = pl.DataFrame({"Metadata_Plate": ["p", "p"], "Compound": values})
        with pytest.raises(
            TableError, match=r"^column Compound is .*: rename or drop it$"
        ) as error:
            normalize(table)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("by", ["Metadata_Gate", ["Metadata_Plate", "Metadata_Gate"]])
    def test_missing_group(self, by):
        with pytest.raises(TableError, match=r"^column Metadata_Gate is missing: name another"):
            normalize(wells_table(), by=by)

    def test_no_group(self):
        with pytest.raises(UsageError, match=r"^no column to group by"):
            normalize(wells_table(), by=[])

    def test_samples_that_select_nothing(self):
        table = wells_table(plates=("p", "q"))
        query = "Metadata_Plate == 'p' and Metadata_Compound == 'DMSO'"
        with pytest.raises(TableError, match=r"^no row of q fits the samples .*: widen the query$"):
            normalize(table, samples=query)

    def test_unknown_method(self):
        with pytest.raises(UsageError, match=r"^method 'zscore' is not available: use mad_robust"):
            normalize(wells_table(), "zscore")


def test_a_feature_without_spread_must_not_decide(caplog):
    """REFERENCE section 3: one exploding feature outweighs all others in a cosine distance."""
    rng = np.random.default_rng(7)
    n_classes, n_replicates = 8, 6
    labels = np.repeat(np.arange(n_classes), n_replicates)
    values = rng.normal(size=(n_classes, 20))[labels] + rng.normal(0, 0.5, (len(labels), 20))
    flat = np.full(len(labels), 0.25)
    flat[rng.permutation(len(labels))[:23]] += 0.01  # fewer than half: the MAD is 0
    names = [f"DNA_{index:03d}" for index in range(21)]
    table = pl.DataFrame(np.column_stack([values, flat]).astype("f4"), schema=names).with_columns(
        Metadata_Plate=pl.lit("p"), Metadata_MoA=pl.Series(labels).cast(pl.String)
    )

    def accuracy(method, frame=table):
        return evaluate(normalize(frame, method), label="Metadata_MoA").accuracy

    clean = accuracy("mad_robustize", table.drop("DNA_020"))
    assert clean > 0.9
    assert accuracy("mad_robustize") == clean
    assert accuracy("pycytominer_mad_robustize") < 0.7 * clean
    assert "DNA_020" in caplog.text
