import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy.stats import rankdata
from unidino_profile_tables import FLOAT32, in_pandas, matrix, wells_table

from unidino_fast.errors import TableError, UsageError
from unidino_fast.profiles import consensus, replicate_correlation
from unidino_fast.profiles.consensus import row_correlations
from unidino_fast.results import feature_columns

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what other people's packages say when imported
    import pycytominer
    from pycytominer.cyto_utils.util import get_pairwise_correlation

KEYS = ["Metadata_Plate", "Metadata_Compound"]


def replicates(seed=0, n_features=11):
    """Groups of 1 to 12 rows, scattered, that agree more or less; some values are equal."""
    rng = np.random.default_rng(seed)
    table = wells_table(30, n_features, plates=("q", "p"), seed=seed)
    values = np.round(matrix(table) * 4) / 4
    compounds = rng.choice(["c", "DMSO", "a", "b"], 60, p=[0.1, 0.4, 0.3, 0.2])
    common = {name: rng.normal(0, 9, n_features) for name in "abc"} | {"DMSO": np.zeros(n_features)}
    values = values + np.stack([common[name] for name in compounds])
    names = feature_columns(table)
    return table.with_columns(
        pl.Series("Metadata_Compound", compounds),
        *[pl.Series(name, values[:, at].astype("f4")) for at, name in enumerate(names)],
    )


class TestConsensus:
    @pytest.mark.parametrize("by", ["Metadata_Compound", KEYS])
    @pytest.mark.parametrize("statistic", ["mean", "median", "modz"])
    def test_pycytominer(self, statistic, by):
        table = replicates()
        columns = [by] if isinstance(by, str) else by
        found = consensus(table, by, statistic=statistic).sort(columns)
        wanted = pycytominer.consensus(
            in_pandas(table),
            replicate_columns=columns,
            operation=statistic,
            features=feature_columns(table),
        ).sort_values(columns)
        for name in columns:
            assert found[name].to_list() == wanted[name].to_list()
        scale = np.abs(matrix(found)).max()  # a weighted sum of float32 of that size
        np.testing.assert_allclose(
            matrix(found), wanted[feature_columns(found)], atol=1e-7 * scale, rtol=1e-6
        )

    def test_rows_and_columns(self):
        table = replicates().with_columns(
            Metadata_MoA=pl.col("Metadata_Compound").str.to_uppercase(),
            Metadata_None=pl.lit(None, pl.String),
        )
        found = consensus(table, "Metadata_Compound")
        counts = table.group_by("Metadata_Compound", maintain_order=True).len()
        assert found["Metadata_Compound"].to_list() == counts["Metadata_Compound"].to_list()
        assert found["Metadata_n_replicates"].to_list() == counts["len"].to_list()
        metadata = ["Metadata_Compound", "Metadata_n_replicates", "Metadata_MoA", "Metadata_None"]
        assert found.columns == [*metadata, *feature_columns(table)]
        assert found["Metadata_MoA"].to_list() == [c.upper() for c in found["Metadata_Compound"]]
        assert set(found.dtypes[4:]) == {pl.Float32}

    def test_groups_of_one(self):
        table = wells_table(3).with_columns(Metadata_Compound=pl.Series(["a", "b", "b"]))
        found = consensus(table, "Compound", statistic="mean")
        assert found["Metadata_Compound"].to_list() == ["a", "b"]
        np.testing.assert_allclose(matrix(found)[0], matrix(table)[0], **FLOAT32)

    @pytest.mark.parametrize("call", [consensus, replicate_correlation])
    @pytest.mark.parametrize("keys", [["a", None, "b"], [1.0, float("nan"), 2.0]])
    def test_a_null_is_no_group(self, call, keys):
        table = wells_table(3).with_columns(Metadata_Compound=pl.Series(keys))
        said = r"^column Metadata_Compound is null in 1 of 3 rows, .*: fill it or leave"
        with pytest.raises(TableError, match=said):
            call(table, ["Metadata_Plate", "Compound"])

    @pytest.mark.parametrize("keys", [[["a"], ["b"]], [{"a": 1}, {"a": 2}]])
    def test_lists_make_no_groups(self, keys):
        table = wells_table(2).with_columns(Metadata_Compound=pl.Series(keys))
        with pytest.raises(TableError, match=r"^Metadata_Compound holds .*: labels and groups"):
            consensus(table, "Compound")
        kept = consensus(table.with_columns(Metadata_Plate=pl.lit("p")), "Plate")
        assert kept.height == 1  # beside the groups they may stand

    @pytest.mark.parametrize("statistic", ["mean", "median", "modz"])
    def test_beyond_float32(self, statistic):
        table = wells_table(4).with_columns(DNA_003=pl.lit(1e300))
        with pytest.raises(TableError, match=r"^feature DNA_003 of the table is beyond 3\.4e\+38"):
            consensus(table, "Compound", statistic=statistic)

    @pytest.mark.parametrize("statistic", ["mean", "median", "modz"])
    def test_a_feature_that_some_replicates_lack(self, statistic):
        rows = [[1.0, 5.0, 2.0, 8.0], [2.0, 6.0, 3.0, None], [None, 5.5, 2.0, None]]
        names = [f"x_{at:03d}" for at in range(4)]
        table = pl.DataFrame(rows, schema=names, orient="row").with_columns(
            Metadata_Group=pl.lit(1)
        )
        found = consensus(table, "Metadata_Group", statistic=statistic)
        assert found["x_003"].to_list() == pytest.approx([8], rel=1e-3)  # weights of four digits
        assert 1 <= found["x_000"][0] <= 2
        nothing = consensus(table[2:], "Metadata_Group", statistic=statistic)
        assert nothing["x_000"].to_list() == [None]

    def test_replicates_without_spread_weigh_the_least(self):
        names = [f"x_{at:03d}" for at in range(5)]
        rows = [[1, 2, 3, 4, 5.0], [2, 3, 4, 5, 7.0], [9, 9, 9, 9, 9.0]]
        table = pl.DataFrame(rows, schema=names, orient="row").with_columns(
            Metadata_Group=pl.lit(1)
        )
        # weights 1, 1 and .01 over 2.01: .4975, .4975 and .005
        wanted = 0.4975 * np.array(rows[0]) + 0.4975 * np.array(rows[1]) + 0.005 * 9
        assert matrix(consensus(table, "Metadata_Group"))[0] == pytest.approx(wanted, rel=1e-6)

    def test_faults(self):
        with pytest.raises(TableError, match=r"^the table has no column Metadata_Gate: did you"):
            consensus(wells_table(), "Metadata_Gate")
        with pytest.raises(TableError, match=r"did you mean Metadata_Compound\? join it"):
            consensus(wells_table(), "Componud")
        with pytest.raises(UsageError, match=r"^no column to group by: name one"):
            consensus(wells_table(), [])
        with pytest.raises(UsageError, match=r"^the name of a column is empty"):
            consensus(wells_table(), "")
        with pytest.raises(UsageError, match=r"^the table is a pandas.DataFrame: give a Polars"):
            consensus(wells_table().to_pandas(), "Compound")
        with pytest.raises(UsageError, match=r"^statistic 'mode': use mean, median, modz$"):
            consensus(wells_table(), "Metadata_Plate", statistic="mode")

    def test_no_rows(self):
        assert consensus(wells_table(0), "Metadata_Compound").is_empty()


class TestReplicateCorrelation:
    @pytest.mark.parametrize("method", ["pearson", "spearman"])
    def test_pycytominer_pairs(self, method):
        table = replicates()
        found = replicate_correlation(table, "Metadata_Compound", method=method)
        for compound, count, *figures in found.rows():
            rows = matrix(table.filter(pl.col("Metadata_Compound") == compound))
            assert count == len(rows)
            _, pairs = get_pairwise_correlation(pd.DataFrame(rows.T), method=method)
            values = pairs["correlation"]
            wanted = [values.mean(), values.median(), values.min()]
            assert figures == pytest.approx(wanted, rel=1e-9)

    def test_a_group_of_one_has_none(self):
        found = replicate_correlation(wells_table(1), ["Metadata_Plate"])
        assert found.rows() == [("p", 1, None, None, None)]

    def test_faults(self):
        with pytest.raises(UsageError, match=r"^method 'kendall': use pearson or spearman$"):
            replicate_correlation(wells_table(), "Metadata_Plate", method="kendall")
        with pytest.raises(UsageError, match=r"^no column to group by"):
            replicate_correlation(wells_table(), [])


@pytest.mark.parametrize("ranked", [False, True])
@pytest.mark.parametrize("holes", [False, True])
def test_row_correlations_as_pandas(ranked, holes):
    rng = np.random.default_rng(3)
    values = np.round(rng.normal(size=(40, 5)), 1)  # with ties
    values[:, 3] = 2.5
    if holes:
        values[rng.random(values.shape) < 0.2] = np.nan
    found = row_correlations(values, ranked=ranked)
    wanted = pd.DataFrame(values).corr(method="spearman" if ranked else "pearson")
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    if ranked and not holes:
        by_hand = np.corrcoef(rankdata(values[:, 0]), rankdata(values[:, 1]))[0, 1]
        assert found[0, 1] == pytest.approx(by_hand, abs=1e-12)
