"""What random forests need: float32 features, and columns named by patterns."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np

from unidino_fast.columns import find_column
from unidino_fast.errors import TableError
from unidino_fast.evaluation.table import feature_matrix
from unidino_fast.names import one_line
from unidino_fast.results import METADATA_PREFIX, feature_columns
from unidino_fast.tables import check_polars

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl
    from numpy.typing import NDArray

_WILD = "*?["


def forest_features(rows: pl.DataFrame) -> NDArray[np.float32]:
    """Features (N, D) in the float32 that scikit-learn's trees compare, every value finite.

    Raises:
        TableError: no features, or values that are missing, no numbers or too large for float32.
    """
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(feature_matrix(rows), dtype=np.float32)
    beyond = ~np.isfinite(values).all(axis=0)
    if beyond.any():
        name = one_line(feature_columns(rows)[int(beyond.argmax())])
        raise TableError(
            f"feature {name} is larger than float32 can hold (3e38): normalise the table so that"
            " features without spread are 0 (unidino-fast profile), or drop it"
        )
    return values


def matching_columns(profiles: pl.DataFrame, patterns: Sequence[str]) -> list[str]:
    """Metadata columns by names or by patterns such as `cc_*`, each once, in the table's order.

    A pattern is held against names with and without their prefix.

    Raises:
        TableError: a name or a pattern fits no column.
    """
    check_polars(profiles)
    metadata = [name for name in profiles.columns if name.startswith(METADATA_PREFIX)]
    found: set[str] = set()
    for pattern in patterns:
        if not any(sign in pattern for sign in _WILD):
            found.add(find_column(profiles, pattern))
            continue
        fitting = {name for name in metadata if fits(name, pattern)}
        if not fitting:
            raise TableError(
                f"no metadata column fits {one_line(pattern)}: join the table that has such columns"
            )
        found |= fitting
    return [name for name in metadata if name in found]


def fits(name: str, pattern: str) -> bool:
    """Whether a column's name, with or without its prefix, is of a pattern."""
    bare = pattern.removeprefix(METADATA_PREFIX)
    return fnmatchcase(name.removeprefix(METADATA_PREFIX), bare)
