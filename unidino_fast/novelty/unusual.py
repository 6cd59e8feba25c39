"""`find_unusual`: fields and wells unlike the controls, and candidate phenotypes among them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import polars as pl

from unidino_fast.columns import find_column, find_columns, metadata_names
from unidino_fast.errors import TableError, UsageError
from unidino_fast.evaluation.cellprofiler import as_profiles, read_profiles
from unidino_fast.evaluation.forest import forest_features
from unidino_fast.evaluation.table import (
    check_count,
    check_share,
    group_codes,
)
from unidino_fast.novelty.clusters import NO_CLUSTER, cluster, describe, nearest_known
from unidino_fast.novelty.result import Unusual
from unidino_fast.novelty.scoring import Measure, Scored, Tail, folds_of, score
from unidino_fast.novelty.space import ControlModel, components_of
from unidino_fast.profiles.aggregate import aggregate
from unidino_fast.profiles.groups import groups_of
from unidino_fast.query import parse_query
from unidino_fast.results import METADATA_PREFIX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from unidino_fast.novelty.space import Codes, Values

    Mask = NDArray[np.bool_]

PLATE = "Metadata_Plate"
SITE = "Metadata_Site"
_WELL = ("Metadata_Plate", "Metadata_Well")
_FEWEST_CONTROLS = 3
_FEWEST_ROWS = 3
_NEIGHBOURS = 5


@dataclass(frozen=True, slots=True)
class Options:
    """What `find_unusual` was told; see there."""

    samples: str
    by: tuple[str, ...]
    measure: Measure
    tail: Tail
    fdr: float
    k: int | None
    variance: float

    def check(self) -> None:
        """Raises UsageError where a value cannot be meant."""
        for name, value, known in (
            ("measure", self.measure, get_args(Measure)),
            ("tail", self.tail, get_args(Tail)),
        ):
            if value not in known:
                raise UsageError(f"{name} {value!r} is unknown: use {' or '.join(known)}")
        check_share("fdr", self.fdr)
        if self.k is not None:
            check_count("k", self.k, 1)
        if not 0 < self.variance <= 1:
            raise UsageError(f"variance {self.variance} is no share: use more than 0, 1 at most")


def find_unusual(
    profiles: pl.DataFrame | str | os.PathLike[str],
    samples: str,
    *,
    label: str | None = None,
    treatment: str | Sequence[str] = (),
    by: str | Sequence[str] | None = None,
    measure: Measure = "mahalanobis",
    tail: Tail = "empirical",
    fdr: float = 0.05,
    k: int | None = None,
    variance: float = 0.95,
    smallest: int = 4,
    explained: float = 0.5,
    n_nearest: int = 3,
    features: str | Sequence[str] = (),
) -> Unusual:
    """Fields and wells unlike the controls, and clusters of them that no known label explains.

    Features are reduced to principal components, centred on the controls of each group and whitened
    by the controls' covariance, shrunk (Ledoit and Wolf 2004). Distances in that space become
    p-values by controls that were left out of both centre and covariance, whole wells at a time, in
    up to ten folds; Benjamini and Hochberg's procedure corrects them. Everything is deterministic.

    Give wells, fields, or profiles whose normalisation saw all rows alike. Controls by which
    profiles were normalised lie nearer to each other than new ones would: no test can undo that.

    Args:
        profiles: a table or a file of one; one row a well, or a field (`Metadata_Site`).
        samples: query of the controls, such as `Metadata_Compound == "DMSO"`.
        label: column of known labels, such as `MoA`; null where nothing is known.
        treatment: columns that name a treatment, besides the label, among the nearest known.
        by: columns of groups that are centred on their own controls; None for the plate where the
            table names it, `()` for all rows together.
        measure: which one decides: `mahalanobis`, or `knn`, the mean distance to the k nearest
            controls.
        tail: `empirical` counts left-out controls, so that p is 1 / (n + 1) at least; `lognormal`
            takes their distances as lognormal, for few controls.
        fdr: false discovery rate of what is called unusual.
        k: neighbours of `knn`; None for 5, or for all controls of the smallest model.
        variance: share of the variance that the components hold.
        smallest: wells that make a cluster.
        explained: a cluster is explained where more than this share of its wells carries one label.
        n_nearest: known treatments to name for each cluster.
        features: how the names of features begin, where that tells them from metadata.

    Raises:
        UsageError: a query that is none, or a number out of range.
        TableError: a column is missing, features are unfit, or there are too few rows or controls.
    """
    options = Options(samples, _names(by), measure, tail, fdr, k, variance)
    options.check()
    check_share("explained", explained)
    check_count("smallest", smallest, 2)
    check_count("nearest", n_nearest, 1)
    prefixes = (features,) if isinstance(features, str) else tuple(features)
    frame = (
        read_profiles(profiles, prefixes)
        if isinstance(profiles, str | os.PathLike)
        else as_profiles(profiles, prefixes)
    )
    if by is None and PLATE in frame.columns:
        options = Options(samples, (PLATE,), measure, tail, fdr, k, variance)
    named = tuple(treatment.split(",")) if isinstance(treatment, str) else tuple(treatment)
    column = None if label is None else find_column(frame, label)
    known = find_columns(frame, [*([column] if column else []), *(n.strip() for n in named if n)])
    rows = _Scores.of(frame, options)
    is_fields = SITE in frame.columns and all(name in frame.columns for name in _WELL)
    wells = _Scores.of(_wells(frame), options) if is_fields else rows
    lacking = [name for name in known if name not in wells.frame.columns]
    if lacking:
        raise TableError(f"{lacking[0]} varies within a well: give a column of whole wells")
    found = np.full(len(wells.frame), NO_CLUSTER, dtype=np.int64)
    found[wells.unusual] = cluster(wells.directions[wells.unusual], smallest)
    labels = None if column is None else wells.frame[column]
    clusters = describe(found, wells.directions, wells.scored[measure].distance, labels, explained)
    of_wells = wells.table(found)
    return Unusual(
        rows=_with_clusters(rows.table(None), of_wells) if is_fields else of_wells,
        wells=of_wells,
        clusters=clusters,
        nearest=nearest_known(
            found, wells.directions, wells.frame, known, wells.is_control, n_nearest
        )
        if known
        else pl.DataFrame(schema={"cluster": pl.Int64, "rank": pl.Int64, "similarity": pl.Float64}),
        n_controls=int(wells.is_control.sum()),
        n_components=wells.directions.shape[1],
        least_p=1 / (int(wells.is_control.sum()) + 1),
        warnings=wells.warnings(options),
        options={
            "samples": samples,
            "by": list(options.by),
            "measure": measure,
            "tail": tail,
            "fdr": fdr,
            "k": k,
            "variance": variance,
            "label": column,
            "treatment": list(known),
            "smallest": smallest,
            "explained": explained,
        },
    )


@dataclass(frozen=True)
class _Scores:
    """A table with its distances.

    Attributes:
        frame: N rows.
        is_control: (N,).
        directions: (N, P) from the controls of each row's group, whitened by all controls.
        scored: by measure.
        unusual: (N,).
    """

    frame: pl.DataFrame
    is_control: Mask
    directions: Values
    scored: dict[Measure, Scored]
    unusual: Mask

    @classmethod
    def of(cls, frame: pl.DataFrame, options: Options) -> _Scores:
        """Scores the rows of a table."""
        features = forest_features(frame).astype(np.float64)  # what float32 holds
        is_control = _controls(frame, options.samples)
        groups = _groups(frame, options.by)
        units = _units(frame)[is_control]
        units = np.unique(units, return_inverse=True)[1].astype(np.int32)
        _check_controls(frame, is_control, groups, units, options)
        folds = folds_of(units, groups[is_control])
        fewest = int(is_control.sum() - np.bincount(folds).max())
        if options.k is not None and options.k > fewest:
            raise TableError(
                f"k {options.k} is more than the {fewest} controls that are left when a fold is"
                f" left out: use --k {fewest} or less, or widen --samples"
            )
        components = components_of(features, groups, options.variance)
        scored = score(
            components,
            is_control,
            groups,
            folds,
            k=options.k or min(_NEIGHBOURS, fewest),
            tail=options.tail,
        )
        whole = ControlModel.fit(components[is_control], groups[is_control], int(groups.max()) + 1)
        unusual = np.nan_to_num(scored[options.measure].q, nan=1.0) <= options.fdr
        return cls(frame, is_control, whole.whiten(components, groups), scored, unusual)

    def table(self, clusters: NDArray[np.int64] | None) -> pl.DataFrame:
        """Metadata and what was found."""
        columns = [pl.Series("control", self.is_control)]
        for measure, scored in self.scored.items():
            columns += [
                pl.Series(measure, scored.distance),
                pl.Series(f"{measure}_p", scored.p),
                pl.Series(f"{measure}_q", scored.q, nan_to_null=True),
            ]
        columns.append(pl.Series("unusual", self.unusual))
        if clusters is not None:
            in_one = [int(number) if number != NO_CLUSTER else None for number in clusters]
            columns.append(pl.Series("cluster", in_one, pl.Int64))
        return self.frame.select(f"^{METADATA_PREFIX}.*$").with_columns(columns)

    def warnings(self, options: Options) -> tuple[str, ...]:
        """What a person should know."""
        n, m = int(self.is_control.sum()), int((~self.is_control).sum())
        # all m rows at the least p-value have it as their q
        if options.tail == "empirical" and 1 / (n + 1) > options.fdr:
            need = int(np.ceil(1 / options.fdr)) - 1
            return (
                f"{n} controls give a p-value of {1 / (n + 1):.3f} at least, so nothing can be"
                f" unusual at a false discovery rate of {options.fdr:g}: take {need} controls or"
                " more, a higher --fdr, or --tail lognormal",
            )
        least_rows = int(np.ceil(m / (n + 1) / options.fdr))
        if options.tail == "empirical" and least_rows > 1 and not self.unusual.any():
            return (
                f"{n} controls: fewer than {least_rows} unusual rows of {m} cannot be told at a"
                f" false discovery rate of {options.fdr:g}: take more controls, a higher --fdr, or"
                " --tail lognormal",
            )
        return ()


def _names(by: str | Sequence[str] | None) -> tuple[str, ...]:
    return () if by is None or by == () else metadata_names(by)


def _controls(frame: pl.DataFrame, samples: str) -> Mask:
    """Which rows are controls (N,)."""
    fits = frame.select(parse_query(samples, frame.schema).alias("fits"))["fits"]
    mask: Mask = fits.to_numpy().astype(bool)
    return mask


def _groups(frame: pl.DataFrame, by: Sequence[str]) -> Codes:
    """Codes (N,) of groups, in the order in which they first appear."""
    codes = np.zeros(len(frame), dtype=np.int32)
    for number, rows in enumerate(groups_of(frame, by).values()):
        codes[rows] = number
    return codes


def _units(frame: pl.DataFrame) -> Codes:
    """Codes (N,) of wells, whose rows are left out together; where none are named, of rows."""
    if all(name in frame.columns for name in _WELL):
        return group_codes(frame, _WELL)
    return np.arange(len(frame), dtype=np.int32)


def _check_controls(
    frame: pl.DataFrame, is_control: Mask, groups: Codes, units: Codes, options: Options
) -> None:
    """Raises TableError where rows or controls are too few."""
    n = len(frame)
    if n < _FEWEST_ROWS:
        raise TableError(f"the table has {n} rows, of which nothing can be told: give 3 or more")
    if not is_control.any():
        raise TableError(f"no row of {n} fits the samples {options.samples!r}: widen the query")
    if is_control.all():
        raise TableError(
            f"all {n} rows fit the samples {options.samples!r}, so none is left to judge: narrow"
            " the query to controls"
        )
    n_units = int(units.max()) + 1
    if n_units < _FEWEST_CONTROLS:
        wells = "well" if n_units == 1 else "wells"
        raise TableError(
            f"{n_units} control {wells} cannot show how controls vary: widen --samples to"
            f" {_FEWEST_CONTROLS} or more"
        )
    of_group = groups[is_control]
    for number, (name, _) in enumerate(groups_of(frame, options.by).items()):
        count = len(np.unique(units[of_group == number]))
        if count < 2:
            raise TableError(
                f"{name} has {'no control well' if not count else 'one control well'}, and one is"
                " left out at a time: widen --samples, or take groups together (--by all)"
            )


def _wells(fields: pl.DataFrame) -> pl.DataFrame:
    """Mean of each well's fields."""
    weight: Any = "tiles" if "Metadata_n_tiles" in fields.columns else "fields"
    if weight == "fields":
        fields = fields.with_columns(pl.lit(1, pl.Int64).alias("Metadata_n_tiles"))
    return aggregate(fields, weight=weight)


def _with_clusters(fields: pl.DataFrame, wells: pl.DataFrame) -> pl.DataFrame:
    """Fields with the cluster of their well."""
    keys = [name for name in (*_WELL, "Metadata_Time") if name in wells.columns]
    return fields.join(wells.select(*keys, "cluster"), on=keys, how="left", maintain_order="left")
