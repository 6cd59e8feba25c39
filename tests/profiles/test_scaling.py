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
