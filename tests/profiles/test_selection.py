import warnings

import numpy as np
import polars as pl
import pytest
from unidino_profile_tables import CONTROLS, in_pandas, matrix, wells_table

from unidino_fast.errors import TableError, UsageError
from unidino_fast.profiles import BLOCKLIST, select_features, select_features_with_report
from unidino_fast.profiles.selection import correlation_matrix
from unidino_fast.results import feature_columns

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what other people's packages say when imported
    import pandas as pd
    import pycytominer
    from pycytominer.cyto_utils.blocklist import Blocklist

OURS = {
    "variance": "frequency_threshold",
    "low_variance": "variance_threshold",
    "correlation": "correlation_threshold",
    "na": "drop_na_columns",
    "outliers": "drop_outliers",
}


def mixed_table(seed=0, n_rows=250, n_features=40):
    """Features of every kind that some rule drops, and plain ones; no two pairs alike."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n_rows, n_features))
    values[:, 1] = 0.25
    values[:, 2] = np.where(np.arange(n_rows) % 50 == 0, 1.0, 0.5)
    values[:, 3] = np.where(np.arange(n_rows) % 12 == 0, 1.0, 0.5)
    values[:, 4] = np.arange(n_rows) % 2
    values[:, 5] *= 1e-4
    values[:, 6] *= 400
    for at in range(10, 20):
        values[:, at] = values[:, at - 1] + rng.uniform(0.05, 0.6) * values[:, at]
    values[:, 20] = -values[:, 21]
    names = [f"DNA_{index:03d}" for index in range(n_features)]
    table = pl.DataFrame(values.astype("f4"), schema=names)
    holes = {7: 5, 8: 12, 9: 14, 22: 250, 12: 11}
    table = table.with_columns(
        pl.when(pl.int_range(pl.len()) >= count)
        .then(pl.col(f"DNA_{at:03d}"))
        .alias(f"DNA_{at:03d}")
        for at, count in holes.items()
    )
    compound = pl.Series("Metadata_Compound", rng.choice(["DMSO", "a"], n_rows))
    return table.insert_column(0, compound)


def of_pycytominer(table, operations, samples="all", **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy on features of nothing but NaN
        found = pycytominer.feature_select(
            in_pandas(table),
            features=feature_columns(table),
            operation=[OURS.get(name, name) for name in operations],
            samples=samples,
            **options,
        )
    return list(found.columns)


@pytest.mark.parametrize("samples", ["all", CONTROLS])
@pytest.mark.parametrize("operation", OURS)
def test_each_operation_as_pycytominer(operation, samples):
    table = mixed_table()
    found = select_features(table, operation, samples=None if samples == "all" else samples)
    assert found.columns == of_pycytominer(table, [operation], samples)
    assert found.width < table.width


@pytest.mark.parametrize("seed", range(3))
def test_all_in_order_as_pycytominer(seed):
    table = mixed_table(seed)
    operations = ["variance", "low_variance", "correlation", "na", "outliers"]
    found, dropped = select_features_with_report(table, operations)
    assert found.columns == of_pycytominer(table, operations)
    assert [drop.operation for drop in dropped] == operations
    gone = {name for drop in dropped for name in drop.features}
    assert gone == set(table.columns) - set(found.columns)


@pytest.mark.parametrize(
    ("operation", "ours", "theirs"),
    [
        ("variance", {"freq_cut": 0.2, "unique_cut": 0.05}, {"freq_cut": 0.2, "unique_cut": 0.05}),
        ("low_variance", {"min_variance": 0.3}, {"min_variance": 0.3}),
        ("correlation", {"correlation_threshold": 0.3}, {"corr_threshold": 0.3}),
        ("na", {"na_cutoff": 0.02}, {"na_cutoff": 0.02}),
        ("outliers", {"outlier_cutoff": 3}, {"outlier_cutoff": 3}),
    ],
)
def test_thresholds(operation, ours, theirs):
    table = mixed_table()
    found = select_features(table, [operation], **ours)
    assert found.columns == of_pycytominer(table, [operation], **theirs)


def test_blocklist():
    assert set(BLOCKLIST) == set(Blocklist(blocklist_name="default").to_list())
    table = wells_table().rename({"DNA_001": "Nuclei_Correlation_RWC_ER_RNA"})
    kept = select_features(table, "blocklist")
    assert kept.columns == [name for name in table.columns if not name.startswith("Nuclei")]
    own, dropped = select_features_with_report(table, "blocklist", blocklist=["DNA_003", "no"])
    assert own.columns == [name for name in table.columns if name != "DNA_003"]
    assert dropped[0].features == ("DNA_003",)


@pytest.mark.parametrize("holes", [False, True])
def test_correlations_as_pandas(holes):
    values = np.random.default_rng(1).normal(size=(9000, 6)) @ np.triu(np.ones((6, 6))) + 1000
    values[:, 4] = 7
    if holes:
        values[np.random.default_rng(2).random(values.shape) < 0.1] = np.nan
    found = correlation_matrix(values.T)
    np.testing.assert_allclose(found, pd.DataFrame(values).corr(), atol=1e-9)


def test_one_of_two_equal_features_stays():
    table = wells_table().select("Metadata_Plate", "DNA_000", DNA_001="DNA_000", DNA_002="DNA_002")
    assert select_features(table, "correlation").columns[1:] == ["DNA_000", "DNA_002"]


def test_the_order_of_columns_and_values_stay():
    table = wells_table().select("DNA_003", "Metadata_Plate", "DNA_001", "DNA_000")
    found = select_features(table, "blocklist", blocklist=["DNA_001"])
    assert found.columns == ["DNA_003", "Metadata_Plate", "DNA_000"]
    assert matrix(found).tolist() == matrix(table.drop("DNA_001")).tolist()


def test_faults():
    table = wells_table()
    with pytest.raises(UsageError, match=r"^selection 'entropy' is not known: use variance, low_v"):
        select_features(table, "entropy")
    with pytest.raises(UsageError, match=r"^option cut is not known here: there is freq_cut, uniq"):
        select_features(table, "na", cut=1)
    with pytest.raises(UsageError, match=r"^na_cutoff 2 is refused: input should be less than or"):
        select_features(table, "na", na_cutoff=2)
    with pytest.raises(TableError, match=r"^no row fits the samples .*: widen the query$"):
        select_features(table, "na", samples="Metadata_Compound == 'none'")
    with pytest.raises(TableError, match=r"^the table has no rows: give one that has$"):
        select_features(table[:0], "na")
    with pytest.raises(UsageError, match=r"^select names no operation: use variance, low_v"):
        select_features(table, [])
    with pytest.raises(UsageError, match=r"^na_cutoff True is refused: no option is true or false"):
        select_features(table, "na", na_cutoff=True)
    with pytest.raises(
        UsageError, match=r"^the table is a polars.LazyFrame: .*\(collect\(\) it\)$"
    ):
        select_features(table.lazy(), "na")
    with pytest.raises(TableError, match=r"^no feature is left after low_variance: loosen its"):
        select_features(table, "low_variance", min_variance=1e9)
