"""What a metric gives for features that know nothing: the floor under every score.

A third baseline, features of a network that was never trained, needs the pixels again:
`unidino-fast embed PLATE --weights random:0 --out DIR` with the `--intensity` of the profiles, then
the same evaluation on its profiles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import polars as pl

from unidino_fast.errors import TableError, UsageError
from unidino_fast.profiles.table import feature_frame
from unidino_fast.results import feature_columns
from unidino_fast.tables import check_polars

if TYPE_CHECKING:
    from collections.abc import Callable

Baseline = Literal["gaussian", "shuffled"]


def baseline_table(profiles: pl.DataFrame, kind: Baseline, seed: int = 0) -> pl.DataFrame:
    """The table with features that know nothing of its metadata.

    `gaussian` draws each feature from a standard normal distribution (the paper's Gaussian row).
    `shuffled` hands the profiles out to other rows: features keep their distribution and
    correlations, metadata theirs, so that compounds and labels still belong together and only the
    bond between the two is cut. Equal seeds give equal tables.

    Raises:
        UsageError: an unknown kind.
        TableError: the table has no features.
    """
    make = _KINDS.get(kind)
    if make is None:
        raise UsageError(f"baseline {kind!r} is unknown: use {' or '.join(get_args(Baseline))}")
    check_polars(profiles)
    if not feature_columns(profiles):
        raise TableError("the profiles have no feature columns: every column begins with Metadata_")
    return make(profiles, np.random.default_rng(seed))


def _gaussian(profiles: pl.DataFrame, random: np.random.Generator) -> pl.DataFrame:
    names = feature_columns(profiles)
    values = random.standard_normal((len(profiles), len(names)), dtype=np.float32)
    return profiles.with_columns(*feature_frame(names, values.T))


def _shuffled(profiles: pl.DataFrame, random: np.random.Generator) -> pl.DataFrame:
    names = feature_columns(profiles)
    order = random.permutation(len(profiles))
    return profiles.with_columns(pl.col(name).gather(order) for name in names)


_KINDS: dict[str, Callable[[pl.DataFrame, np.random.Generator], pl.DataFrame]] = {
    "gaussian": _gaussian,
    "shuffled": _shuffled,
}
