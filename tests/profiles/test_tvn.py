import numpy as np
import polars as pl
import pytest
from scipy.linalg import fractional_matrix_power, inv, sqrtm
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from unidino_profile_tables import CONTROLS, correlated_table, matrix

from unidino_fast.errors import TableError, UsageError
from unidino_fast.profiles import normalize, normalize_with_report
from unidino_fast.results import feature_columns


def naive_moments(rows):
    """Second moments about zero with 1/n, entry by entry."""
    n, width = rows.shape
    moments = np.empty((width, width))
    for j in range(width):
        for k in range(width):
            moments[j, k] = sum(row[j] * row[k] for row in rows) / n
    return moments


def naive_tvn(values, is_control, batches):
    """The released rule: only the mean of all controls is taken off, batches are not centred."""
    values = values - values[is_control].mean(axis=0)
    s, v = np.linalg.eigh(naive_moments(values[is_control]))
    white = values @ (v @ np.diag(1 / np.sqrt(s + 1)))
    identity = np.eye(values.shape[1])
    target = sqrtm(naive_moments(white[is_control]) + identity)
    aligned = np.empty_like(white)
    for batch in set(batches):
        mine = batches == batch
        source = sqrtm(naive_moments(white[mine & is_control]) + identity)
        aligned[mine] = white[mine] @ inv(source) @ target
    return aligned[:, ::-1]  # largest variance first


def naive_efaar(values, is_control, batches):
    values = StandardScaler().fit(values[is_control]).transform(values)
    values = PCA().fit(values[is_control]).transform(values)
    values = StandardScaler().fit(values[is_control]).transform(values)
    aligned = np.empty_like(values)
    for batch in set(batches):
        mine = batches == batch
        covariance = np.cov(values[mine & is_control], rowvar=False, ddof=1)
        half = covariance + 0.5 * np.eye(values.shape[1])
        aligned[mine] = values[mine] @ fractional_matrix_power(half, -0.5)
    return aligned


def parts(table):
    is_control = (table["Metadata_Compound"] == "DMSO").to_numpy()
    return matrix(table), is_control, table["Metadata_Plate"].to_numpy()


def same_up_to_signs(found, wanted, **tolerance):
    signs = np.sign((found * wanted).sum(axis=0))
    np.testing.assert_allclose(found, wanted * signs, **tolerance)


FORMS = {"tvn": naive_tvn, "tvn_efaar": naive_efaar}


@pytest.mark.parametrize("method", FORMS)
class TestBothForms:
    def test_naive_formula(self, method):
        table = correlated_table(plates=("p", "q", "r")).sample(fraction=1, shuffle=True, seed=2)
        found = normalize(table, method, samples=CONTROLS)
        wanted = FORMS[method](*parts(table))
        same_up_to_signs(matrix(found), wanted, atol=1e-5, rtol=1e-5)  # float32, values up to 30
        assert feature_columns(found) == [f"TVN_{index:03d}" for index in range(7)]
        assert found["Metadata_Row_Number"].equals(table["Metadata_Row_Number"])

    def test_batches_by_another_column(self, method):
        table = correlated_table()
        swapped = table.rename({"Metadata_Plate": "Metadata_Run"})
        found = normalize(swapped, method, samples=CONTROLS, by="Metadata_Run")
        assert matrix(found).tolist() == matrix(normalize(table, method, samples=CONTROLS)).tolist()

    def test_controls_are_named(self, method):
        with pytest.raises(UsageError, match=rf"^{method} learns from controls: name them with"):
            normalize(correlated_table(), method)
        with pytest.raises(UsageError, match=r"aligns batches: name their column with --by$"):
            normalize(correlated_table(), method, by="all", samples=CONTROLS)

    def test_a_plate_without_controls(self, method):
        table = correlated_table()
        with pytest.raises(TableError, match=r"^no row of q fits the samples .*: widen the query$"):
            normalize(table, method, samples=f"{CONTROLS} and Metadata_Plate == 'p'")

    def test_null_features(self, method):
        table = correlated_table().with_columns(
            DNA_004=pl.when(pl.col("Metadata_Row_Number") > 2).then(pl.col("DNA_004"))
        )
        with pytest.raises(TableError, match=rf"^feature DNA_004 is null in 3 .* {method} mixes"):
            normalize(table, method, samples=CONTROLS)


def test_fewer_controls_than_features():
    """The turn within what controls do not span is arbitrary; distances and angles are not."""
    table = correlated_table(10, 30)
    found = matrix(normalize(table, "tvn", samples=CONTROLS))
    wanted = naive_tvn(*parts(table))
    scale = np.abs(wanted @ wanted.T).max()
    np.testing.assert_allclose(found @ found.T, wanted @ wanted.T, atol=1e-6 * scale)


def test_efaar_leaves_out_what_controls_do_not_span():
    table = correlated_table(10, 30).with_columns(DNA_003=pl.lit(2.5, pl.Float32))
    found, neutralised = normalize_with_report(table, "tvn_efaar", samples=CONTROLS)
    assert len(feature_columns(found)) == 8 - 1  # eight controls
    assert np.isfinite(matrix(found)).all()
    assert [group.features for group in neutralised] == [("DNA_003",)]


def test_efaar_needs_two_controls_a_batch():
    table = correlated_table()
    query = "Metadata_Row_Number in [0, 1, 60]"
    with pytest.raises(TableError, match=r"^q has one row that fits .* tvn_efaar needs two"):
        normalize(table, "tvn_efaar", samples=query)
    assert normalize(table, "tvn", samples=query).height == 120
