import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from sklearn.decomposition import PCA
from unidino_profile_tables import CONTROLS, correlated_table, matrix, of_pycytominer

from unidino_fast.errors import TableError, UsageError
from unidino_fast.profiles import normalize, normalize_with_report
from unidino_fast.profiles.spherize import principal_axes
from unidino_fast.results import feature_columns

KINDS = {
    "spherize": "ZCA-cor",
    "spherize_zca": "ZCA",
    "spherize_pca": "PCA",
    "spherize_pca_cor": "PCA-cor",
}
AGREE = {"atol": 2e-6, "rtol": 1e-6}  # float32 of values up to about 10
TURNS_BACK = ["spherize", "spherize_zca"]


def signs_aside(values):
    """Components with the sign that makes their largest entry positive."""
    largest = values[np.abs(values).argmax(axis=0), np.arange(values.shape[1])]
    return values * np.sign(largest)


class TestSpherize:
    @pytest.mark.parametrize("samples", ["all", CONTROLS])
    @pytest.mark.parametrize("method", KINDS)
    def test_pycytominer(self, method, samples):
        table = correlated_table()
        found = matrix(normalize(table, method, samples=None if samples == "all" else samples))
        wanted = of_pycytominer_spherize(table, KINDS[method], samples)
        if method not in TURNS_BACK:
            found, wanted = signs_aside(found), signs_aside(wanted)
        np.testing.assert_allclose(found, wanted, **AGREE)

    @pytest.mark.parametrize("method", TURNS_BACK)
    @pytest.mark.parametrize("n_features", [24, 40])  # as many as there are controls, and more
    def test_fewer_samples_than_features_as_pycytominer(self, method, n_features):
        table = correlated_table(30, n_features)
        found = matrix(normalize(table, method, samples=CONTROLS))
        wanted = of_pycytominer_spherize(table, KINDS[method], CONTROLS)
        np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=1e-5)  # values up to about 100

    @pytest.mark.parametrize("method", ["spherize_pca", "spherize_pca_cor"])
    def test_pca_gives_what_the_samples_determine(self, method):
        table = correlated_table(30, 40)
        found = normalize(table, method, samples=CONTROLS)
        wanted = of_pycytominer_spherize(table, KINDS[method], CONTROLS)
        assert feature_columns(found) == [f"PCA_{index:03d}" for index in range(23)]
        np.testing.assert_allclose(
            signs_aside(matrix(found)), signs_aside(wanted[:, :23]), atol=1e-5, rtol=1e-5
        )

    @pytest.mark.parametrize("method", KINDS)
    def test_controls_are_white(self, method):
        table = correlated_table()
        found = normalize(table, method, samples=CONTROLS, epsilon=0)
        controls = matrix(found.filter(pl.col("Metadata_Compound") == "DMSO"))
        np.testing.assert_allclose(np.cov(controls.T), np.eye(7), atol=1e-5)

    def test_scikit_learn(self):
        table = correlated_table()
        wanted = PCA(whiten=True).fit_transform(matrix(table))
        found = matrix(normalize(table, "spherize_pca", epsilon=0))
        np.testing.assert_allclose(signs_aside(found), signs_aside(wanted), **AGREE)

    def test_zca_keeps_names_and_order_and_pca_does_not(self):
        table = correlated_table().select("DNA_003", pl.exclude("DNA_003"))
        kept = normalize(table, "spherize")
        assert kept.columns == table.columns
        assert_frame_equal(kept.select("^Metadata_.*$"), table.select("^Metadata_.*$"))
        metadata = [name for name in table.columns if name.startswith("Metadata_")]
        mixed = normalize(table, "spherize_pca").columns
        assert mixed == [*metadata, *(f"PCA_{index:03d}" for index in range(7))]

    @pytest.mark.parametrize("method", KINDS)
    def test_by_plate(self, method):
        table = correlated_table().sample(fraction=1, shuffle=True, seed=1)
        found = normalize(table, method, by="Metadata_Plate", samples=CONTROLS)
        for plate in ("p", "q"):
            mine = pl.col("Metadata_Plate") == plate
            alone = normalize(table.filter(mine), method, samples=CONTROLS)
            # products of other shapes are summed in another order
            np.testing.assert_allclose(matrix(found.filter(mine)), matrix(alone), atol=1e-5)

    @pytest.mark.parametrize("method", TURNS_BACK)
    def test_a_constant_feature_is_0_and_the_others_do_not_notice(self, method):
        table = correlated_table()
        flat = table.with_columns(DNA_002=pl.lit(0.1, pl.Float32))
        found, neutralised = normalize_with_report(flat, method, samples=CONTROLS)
        assert [(group.group, group.features) for group in neutralised] == [
            ("all rows", ("DNA_002",))
        ]
        assert found["DNA_002"].to_list() == [0] * 120
        alone = normalize(table.drop("DNA_002"), method, samples=CONTROLS)
        np.testing.assert_allclose(matrix(found.drop("DNA_002")), matrix(alone), atol=1e-5)

    def test_features_that_repeat_another_explode_nothing(self):
        table = correlated_table().with_columns(DNA_006=pl.col("DNA_000") * 2)
        found = matrix(normalize(table, "spherize", samples=CONTROLS))
        assert np.abs(found).max() < 20

    def test_a_channel_that_a_plate_lacks(self):
        table = correlated_table()
        lacks = pl.when(pl.col("Metadata_Plate") == "q").then(pl.col("DNA_001"))
        table = table.with_columns(lacks)
        found = normalize(table, "spherize", by="Metadata_Plate")
        assert found["DNA_001"].is_null().to_list() == [True] * 60 + [False] * 60
        on_p = table.filter(pl.col("Metadata_Plate") == "p").drop("DNA_001")
        np.testing.assert_allclose(
            matrix(found[:60].drop("DNA_001")), matrix(normalize(on_p, "spherize")), atol=1e-5
        )
        with pytest.raises(TableError, match=r"^feature DNA_001 is null in 60 of 120 rows of all"):
            normalize(table, "spherize")
        with pytest.raises(TableError, match=r"^feature DNA_001 is null in 60 of 120 rows, and "):
            normalize(table, "spherize_pca")

    def test_faults(self):
        table = correlated_table()
        with pytest.raises(TableError, match=r"^no row fits the samples .*: widen"):
            normalize(table, "spherize", samples="Metadata_Compound == 'none'")
        with pytest.raises(
            TableError, match=r"^the samples of all rows \(1 row\) do not vary.*: widen"
        ):
            normalize(table, "spherize", samples="Metadata_Row_Number == 3")
        with pytest.raises(UsageError, match=r"^epsilon -1 is refused: input should be greater"):
            normalize(table, "spherize", epsilon=-1)
        few = pl.concat([table[:60], table[60:64]])
        with pytest.raises(TableError, match=r"^q has 3 components and p has 7: use a ZCA"):
            normalize(few, "spherize_pca", by="Metadata_Plate")


def of_pycytominer_spherize(table, kind, samples):
    return of_pycytominer(table, "spherize", samples, spherize_method=kind)


def test_many_samples_are_reduced_by_portions_to_the_same_axes():
    rng = np.random.default_rng(5)
    samples = rng.normal(size=(6, 9001)) * rng.lognormal(0, 3, size=(6, 1)) + 100
    found = principal_axes(samples, correlation=False)
    wanted = PCA().fit(samples.T)
    np.testing.assert_allclose(found.singular, wanted.singular_values_, rtol=1e-10)
    np.testing.assert_allclose(found.axes, wanted.components_, atol=1e-8)
