import logging

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from unidino_profile_tables import FLOAT32, of_pycytominer, wells_table

from unidino_fast.errors import TableError, UsageError
from unidino_fast.evaluation import evaluate
from unidino_fast.profiles import normalize, normalize_with_report
from unidino_fast.results import feature_columns

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

    def test_a_null_is_no_group(self):
        table = wells_table().with_columns(
            Metadata_Plate=pl.when(pl.col("Metadata_Row_Number") > 1).then("Metadata_Plate")
        )
        with pytest.raises(
            TableError,
            match=r"^column Metadata_Plate is null in 2 of 48 rows, .*: fill it or leave",
        ):
            normalize(table)
        assert normalize(table, by="all").height == 48
        assert_frame_equal(normalize(table, "none"), table)

    def test_lists_make_no_groups(self):
        table = wells_table().with_columns(Metadata_Plate=pl.concat_list("Metadata_Plate"))
        with pytest.raises(
            TableError, match=r"^Metadata_Plate holds List.*: labels and groups are"
        ):
            normalize(table)

    def test_columns_without_their_prefix(self):
        table = wells_table(plates=("p", "q"))
        wanted = normalize(table, by=["Metadata_Plate", "Metadata_Batch"])
        assert_frame_equal(normalize(table, by=["Plate", "Batch"]), wanted)
        with pytest.raises(UsageError, match=r"^the name of a column is empty"):
            normalize(table, by="")

    @pytest.mark.parametrize("method", ["mad_robustize", "none"])
    def test_what_is_no_polars_table(self, method):
        with pytest.raises(
            UsageError, match=r"^the table is a pandas.DataFrame: give .*polars.from_pandas makes"
        ):
            normalize(wells_table().to_pandas(), method)
        with pytest.raises(UsageError, match=r"^the table is a polars.LazyFrame: .*collect"):
            normalize(wells_table().lazy(), method)

    @pytest.mark.parametrize("kind", [pl.Float32, pl.Float64])
    @pytest.mark.parametrize("samples", [None, "Metadata_Row_Number > 0"])
    def test_one_extreme_value_leaves_the_others_their_spread(self, samples, kind):
        values = np.random.default_rng(0).normal(size=96)
        values[0] = 3e6
        table = pl.DataFrame(
            {"Metadata_Plate": "p", "Metadata_Row_Number": range(96), "x_000": values}
        ).cast({"x_000": kind})
        found, neutralised = normalize_with_report(table, samples=samples)
        assert neutralised == []
        query = samples or "all"
        wanted = of_pycytominer(table, "mad_robustize", query)[:, 0]
        np.testing.assert_allclose(found["x_000"], wanted, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(("method", "level"), [("mad_robustize", 1e7), ("standardize", 1e8)])
    def test_float64_holds_a_small_spread_at_a_high_level(self, method, level):
        values = level + np.random.default_rng(0).normal(size=96)
        table = pl.DataFrame({"Metadata_Plate": "p", "x_000": values})
        found, neutralised = normalize_with_report(table, method)
        assert neutralised == []
        wanted = of_pycytominer(table, method)
        # 1e8 in float64 knows 1.5e-8; scikit-learn's variance is of that
        np.testing.assert_allclose(found.select("x_000"), wanted, rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("method", ["mad_robustize", "standardize"])
    @pytest.mark.parametrize("form", ["float32", "widened", "text", "float64"])
    def test_rounding_around_a_large_constant_is_no_spread(self, form, method):
        rng = np.random.default_rng(0)
        step = np.float64(1 if form == "float64" else 2**29)  # of the mantissa of float64
        values = 1234.5678 * (1 + rng.integers(-1, 2, 96) * step * np.finfo("f8").eps)
        if form != "float64":
            values = values.astype("f4")
            assert len(set(values)) == 3
        if form == "text":
            values = np.array([float(str(value)) for value in values])
        elif form == "widened":
            values = values.astype("f8")
        other = rng.normal(size=96)
        table = pl.DataFrame({"Metadata_Plate": "p", "x_000": values, "x_001": other})
        if form == "float32":
            table = table.cast({"x_001": pl.Float32})
        found, neutralised = normalize_with_report(table, method)
        assert [group.features for group in neutralised] == [("x_000",)]
        assert found["x_000"].to_list() == [0] * 96

    @pytest.mark.parametrize("n", [96, 100_001])
    def test_a_constant_of_float64_has_no_spread(self, n):
        rows = {"Metadata_Plate": ["p", "q"] * n, "x_000": [0.1, 0.7] * n, "x_001": range(2 * n)}
        _, neutralised = normalize_with_report(pl.DataFrame(rows), "standardize")
        assert [group.features for group in neutralised] == [("x_000",)] * 2

    @pytest.mark.parametrize("method", ["mad_robustize", "standardize", "none", "l2"])
    def test_beyond_float32(self, method):
        table = wells_table(4).with_columns(DNA_003=pl.Series([1.0, 1e300, None, -1e300]))
        with pytest.raises(
            TableError, match=r"^feature DNA_003 of the table is beyond 3\.4e\+38.* in 2 of 4 rows"
        ):
            normalize(table, method)

    @pytest.mark.parametrize("kind", [pl.Float32, pl.Float64])
    def test_squares_beyond_float32(self, kind):
        table = pl.DataFrame({"Metadata_Plate": "p", "x_000": [3e38, -3e38], "x_001": [0.0, 3e38]})
        table = table.cast({"x_000": kind, "x_001": kind})
        assert normalize(table, "standardize").rows() == [("p", 1, -1), ("p", -1, 1)]
        lengths = normalize(table, "l2").select("x_000", "x_001").to_numpy()
        np.testing.assert_allclose(lengths, [[1, 0], [-(0.5**0.5), 0.5**0.5]], rtol=1e-6)

    def test_results_beyond_float32(self):
        table = pl.DataFrame({"Metadata_Plate": "p", "x_000": [5.0] * 5 + [1e25]})
        with pytest.raises(TableError, match=r"^feature x_000 of the result is beyond 3\.4e\+38"):
            normalize(table, "pycytominer_mad_robustize")

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
        with pytest.raises(TableError, match=r"^the table has no column Metadata_Gate, which mad_"):
            normalize(wells_table(), by=by)

    def test_no_group(self):
        with pytest.raises(UsageError, match=r"^no column to group by"):
            normalize(wells_table(), by=[])

    def test_samples_that_select_nothing(self):
        table = wells_table(plates=("p", "q"))
        query = "Metadata_Plate == 'p' and Metadata_Compound == 'DMSO'"
        with pytest.raises(TableError, match=r"^no row of q fits the samples .*: widen the query$"):
            normalize(table, samples=query)

    def test_samples_by_a_feature(self):
        table = wells_table()
        middle = table["DNA_001"].median()
        query = f"DNA_001 > {middle} and Metadata_Batch == 'b1'"
        found = normalize(table, "standardize", samples=query)
        rows = found.filter((table["DNA_001"] > middle) & (table["Metadata_Batch"] == "b1"))
        assert 1 < rows.height < 24
        assert rows["DNA_004"].mean() == pytest.approx(0, abs=1e-6)

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
