"""Clusters among unusual wells, which of them known labels explain, and what each looks like.

U unusual wells, P components, C clusters.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from unidino_fast.columns import n_unknown
from unidino_fast.evaluation.search import search
from unidino_fast.evaluation.table import average
from unidino_fast.profiles.table import numbered

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from unidino_fast.novelty.space import Values

    Mask = NDArray[np.bool_]

NO_CLUSTER = -1
_MOST_COMPONENTS = 20
_CLUSTER_VARIANCE = 0.95
_ALIKE = 0.5

CLUSTERS: dict[str, Any] = {
    "cluster": pl.Int64,
    "n_wells": pl.Int64,
    "label": pl.String,
    "share": pl.Float64,
    "explained": pl.Boolean,
    "cohesion": pl.Float64,
    "distance": pl.Float64,
    "rows": pl.List(pl.Int64),
}


def cluster(directions: Values, smallest: int) -> NDArray[np.int64]:
    """Clusters (U,) of rows (U, P) by direction, largest first; `NO_CLUSTER` for what is in none.

    Rows are brought to unit length, so that doses of one compound, which differ in length, fall
    together; their principal components (95 % of the variance, 20 at most) go to HDBSCAN (Campello
    et al. 2013), through scikit-learn. HDBSCAN tells clusters from each other and finds none in a
    single one: there, if the mean cosine of pairs is above one half, the rows whose cosine to their
    mean is so are the cluster.

    Args:
        directions: from the controls, whitened.
        smallest: rows of a cluster, at least 2.
    """
    from sklearn.cluster import HDBSCAN

    if len(directions) < max(smallest, 2):
        return np.full(len(directions), NO_CLUSTER)
    units = _unit(directions)
    found = HDBSCAN(min_cluster_size=smallest, copy=True).fit_predict(_principal(units))
    if not (found >= 0).any() and _cohesion(units) > _ALIKE:
        middle = _unit(units.mean(axis=0, keepdims=True))[0]
        found = np.where(units @ middle > _ALIKE, 0, NO_CLUSTER)
    sizes = Counter(found[found >= 0].tolist())
    firsts = {number: int(np.argmax(found == number)) for number in sizes}
    order = sorted(sizes, key=lambda number: (-sizes[number], firsts[number]))
    renamed = np.full(len(found), NO_CLUSTER, dtype=np.int64)
    for new, old in enumerate(order):
        renamed[found == old] = new
    return renamed


def describe(
    clusters: NDArray[np.int64],
    directions: Values,
    distances: Values,
    labels: pl.Series | None,
    explained: float,
) -> pl.DataFrame:
    """A row a cluster; `rows` are places in the table of wells.

    A cluster is explained where more than a share of its wells, those without a label among them,
    carry one known label.

    Args:
        clusters: (N,) of all wells.
        directions: (N, P) from the controls.
        distances: (N,) from the controls.
        labels: (N,) known labels; null where there is none.
        explained: the share.
    """
    units = _unit(directions)
    rows = []
    for number in range(int(clusters.max(initial=NO_CLUSTER)) + 1):
        members = np.flatnonzero(clusters == number)
        label, share = _commonest(labels, members)
        told = None if labels is None else share > explained
        middle = float(np.median(distances[members]))
        cohesion = _cohesion(units[members])
        rows.append((number, len(members), label, share, told, cohesion, middle, members.tolist()))
    return pl.DataFrame(rows, schema=CLUSTERS, orient="row")


def nearest_known(
    clusters: NDArray[np.int64],
    directions: Values,
    wells: pl.DataFrame,
    treatment: Sequence[str],
    is_control: Mask,
    k: int,
) -> pl.DataFrame:
    """The treatments most like each cluster's mean well, by cosine, best first.

    A treatment is the mean of its wells outside of the cluster; wells where one of its columns is
    null, and controls, are none.

    Args:
        clusters: (N,).
        directions: (N, P) from the controls.
        wells: their metadata.
        treatment: columns that name a treatment.
        is_control: (N,).
        k: treatments of each cluster.
    """
    names = numbered("PCA", directions.shape[1])
    features = pl.DataFrame(directions, schema=dict.fromkeys(names, pl.Float64), orient="row")
    metadata = wells.select(treatment)
    table = metadata.hstack(features)
    lacks = [metadata[name].is_null().to_numpy() for name in treatment]
    lacks += [
        metadata[name].is_nan().fill_null(value=True).to_numpy()
        for name in treatment
        if metadata[name].dtype.is_float()
    ]
    known = ~is_control & ~np.any(lacks, axis=0)
    parts = []
    for number in range(int(clusters.max(initial=NO_CLUSTER)) + 1):
        outside = table.filter(pl.Series(known & (clusters != number)))
        if outside.is_empty():
            continue
        treatments, means = average(outside, treatment)
        sizes = outside.group_by(treatment, maintain_order=True).len()["len"].cast(pl.Int64)
        treatments = treatments.with_columns(sizes.alias("Metadata_n_wells"))
        candidates = treatments.hstack(
            pl.DataFrame(means, schema=dict.fromkeys(names, pl.Float64), orient="row")
        )
        mean = features.filter(pl.Series(clusters == number)).mean()
        mean = mean.with_columns(pl.lit(number, pl.Int64).alias("Metadata_cluster"))
        found = search(candidates, query_table=mean, k=k)
        parts.append(
            found.select(
                pl.lit(number, pl.Int64).alias("cluster"),
                "rank",
                "similarity",
                *treatment,
                pl.col("Metadata_n_wells").alias("n_wells"),
            )
        )
    if parts:
        nearest: pl.DataFrame = pl.concat(parts)
        return nearest
    schema: dict[str, Any] = {"cluster": pl.Int64, "rank": pl.Int64, "similarity": pl.Float64}
    schema |= {name: wells.schema[name] for name in treatment} | {"n_wells": pl.Int64}
    return pl.DataFrame(schema=schema)


def _commonest(labels: pl.Series | None, members: NDArray[np.int64]) -> tuple[str | None, float]:
    """The commonest known label (the first by name among equals) and its share of all members."""
    if labels is None or n_unknown(labels[members.tolist()]) == len(members):
        return None, 0.0
    values = labels[members.tolist()]
    if values.dtype.is_float():
        values = values.fill_nan(None)
    counts = Counter(str(value) for value in values.drop_nulls())
    label, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
    return label, count / len(members)


def _cohesion(units: Values) -> float:
    """Mean cosine of pairs of unit rows, which follows from the length of their mean; 0 of none."""
    n = len(units)
    if n < 2:
        return float(n)
    length = float(np.square(units.mean(axis=0)).sum())
    return (n * length - 1) / (n - 1)


def _unit(rows: Values) -> Values:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Values = rows / np.where(length > 0, length, 1.0)
    return unit


def _principal(rows: Values) -> Values:
    """Components (U, p) of rows."""
    left, singular, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    shares = np.cumsum(np.square(singular))
    n_kept = int(np.searchsorted(shares, _CLUSTER_VARIANCE * shares[-1])) + 1
    n_kept = min(n_kept, _MOST_COMPONENTS, len(singular))
    components: Values = left[:, :n_kept] * singular[:n_kept]
    return components
