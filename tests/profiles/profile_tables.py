"""Tables and oracles that several test files share: test modules cannot import one another."""

import warnings

import numpy as np
import pandas as pd
import polars as pl

from unidino_fast.results import feature_columns

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what other people's packages say when imported
    import pycytominer

FLOAT32 = {"atol": 1e-6, "rtol": 1e-6}  # float32 in the table, and no worse on the way there
CONTROLS = "Metadata_Compound == 'DMSO'"


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
    return found.drop(columns=[name for name in table.columns if name not in features]).to_numpy()


def matrix(table):
    """Features (N, F) in float64."""
    return table.select(feature_columns(table)).to_numpy().astype(float)


def correlated_table(n_rows=60, n_features=7, *, plates=("p", "q"), seed=0):
    """Like `wells_table`, features correlated in part, with four DMSO wells in ten."""
    rng = np.random.default_rng(seed)
    table = wells_table(n_rows, n_features, plates=plates, seed=seed)
    values = matrix(table) @ (np.eye(n_features) + 0.4 * rng.normal(size=(n_features, n_features)))
    compound = ["DMSO" if row % 5 < 2 else f"c{row % 5}" for row in range(len(values))]
    names = feature_columns(table)
    return table.with_columns(pl.Series("Metadata_Compound", compound)).with_columns(
        pl.Series(name, values[:, at].astype("f4")) for at, name in enumerate(names)
    )
