import builtins

import numpy as np
import polars as pl
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize as unit_norm
from unidino_profile_tables import CONTROLS, FLOAT32, correlated_table, matrix, wells_table

from unidino_fast.errors import TableError, UsageError
from unidino_fast.profiles import normalize, run_recipe
from unidino_fast.profiles.normalize import Normalisation
from unidino_fast.profiles.recipe import Recipe
from unidino_fast.results import feature_columns


class TestPca:
    @pytest.mark.parametrize("n_components", [None, 3, 0.9])
    def test_scikit_learn(self, n_components):
        table = correlated_table()
        controls = matrix(table.filter(pl.col("Metadata_Compound") == "DMSO"))
        wanted = PCA(n_components).fit(controls).transform(matrix(table))
        found = normalize(table, "pca", samples=CONTROLS, n_components=n_components)
        scale = np.abs(wanted).max()  # float32 of one range for all components
        np.testing.assert_allclose(matrix(found), wanted, atol=1e-6 * scale, rtol=1e-6)
        assert feature_columns(found) == [f"PCA_{index:03d}" for index in range(wanted.shape[1])]

    def test_faults(self):
        table = correlated_table()
        with pytest.raises(TableError, match=r"^n_components 8 is more than the 7 components"):
            normalize(table, "pca", n_components=8)
        with pytest.raises(UsageError, match=r"^n_components 2.5: use a whole number"):
            normalize(table, "pca", n_components=2.5)
        with pytest.raises(UsageError, match=r"^pca knows no groups: leave out --by Metadata_P"):
            normalize(table, "pca", by="Metadata_Plate")
        with pytest.raises(UsageError, match=r"^option epsilon is not known here: there is n_comp"):
            normalize(table, "pca", epsilon=1)
        with pytest.raises(TableError, match="do not vary"):
            normalize(table, "pca", samples="Metadata_Row_Number == 1")
        with pytest.raises(TableError, match=r"^no row fits"):
            normalize(table, "pca", samples="Metadata_Row_Number == -1")


class TestUnitLength:
    def test_scikit_learn(self):
        table = wells_table()
        np.testing.assert_allclose(
            matrix(normalize(table, "l2")), unit_norm(matrix(table)), **FLOAT32
        )

    def test_a_row_of_zeros_and_a_row_with_nulls(self):
        table = pl.DataFrame({"x_000": [0.0, 3.0, 3.0], "x_001": [0.0, 4.0, None]})
        found, report = run_recipe(table, Recipe((Normalisation.of("l2"),)))
        assert found.rows() == [(0, 0), pytest.approx((0.6, 0.8)), (1, None)]
        assert report.notes == ["1 row is all zeros and has no direction"]


class TestHarmony:
    def test_batches_that_are_shifted_copies_come_together(self):
        rng = np.random.default_rng(0)
        cells = np.repeat(rng.normal(0, 4, size=(3, 5)), 40, axis=0) + rng.normal(size=(120, 5))
        values = np.concatenate([cells, cells + 3]).astype("f4")
        table = pl.DataFrame({"Metadata_Plate": ["p"] * 120 + ["q"] * 120}).hstack(
            pl.DataFrame(values, schema=[f"x_{index:03d}" for index in range(5)])
        )
        found = normalize(table, "harmony")
        assert found.columns == table.columns
        apart = np.linalg.norm(matrix(found)[:120].mean(0) - matrix(found)[120:].mean(0))
        assert apart < 0.3 * np.linalg.norm(values[:120].mean(0) - values[120:].mean(0))
        # the clusters themselves stay apart: harmony must not put everything in one place
        centres = matrix(found)[:120].reshape(3, 40, 5).mean(1)
        assert np.linalg.norm(centres[0] - centres[1]) > 3
        assert matrix(normalize(table, "harmony")).tolist() == matrix(found).tolist()

    def test_as_many_rows_as_features_are_not_turned_round(self):
        table = wells_table(20, 40, plates=("p", "q"))
        found = normalize(table, "harmony", max_iter=1)
        together = np.corrcoef(matrix(found).ravel(), matrix(table).ravel())[0, 1]
        assert together > 0.9

    def test_faults(self, monkeypatch):
        with pytest.raises(
            UsageError, match=r"^Metadata_Plate has one value, so there is no batch"
        ):
            normalize(wells_table(), "harmony")
        with pytest.raises(UsageError, match=r"^harmony learns from no samples"):
            normalize(wells_table(), "harmony", samples=CONTROLS)
        with pytest.raises(
            TableError, match=r"^harmony clusters rows by the thirty, and there are 6"
        ):
            normalize(wells_table(3, plates=("p", "q")), "harmony")
        with pytest.raises(TableError, match=r"no column Metadata_Gate, which harmony"):
            normalize(wells_table(), "harmony", by="Metadata_Gate")
        real = builtins.__import__

        def absent(name, *rest, **named):
            if name == "harmonypy":
                raise ImportError(name)
            return real(name, *rest, **named)

        monkeypatch.setattr(builtins, "__import__", absent)
        with pytest.raises(UsageError, match=r"install it with pip install 'unidino_fast\[harmony"):
            normalize(wells_table(plates=("p", "q")), "harmony")
