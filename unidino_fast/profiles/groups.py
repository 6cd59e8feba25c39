"""Rows that share values of metadata columns: plates, batches, replicates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from unidino_fast.columns import find_column, n_unknown
from unidino_fast.errors import TableError
from unidino_fast.names import one_line
from unidino_fast.profiles.table import ALL_ROWS, ROW

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from unidino_fast.profiles.table import Rows


def groups_of(frame: pl.DataFrame, columns: Sequence[str], needed_by: str = "") -> dict[str, Rows]:
    """Rows of each group by what it is called, in the order in which groups first appear.

    Args:
        frame: metadata at least.
        columns: whose values make a group; none for all rows together.
        needed_by: who needs the columns, for an error about a missing one.

    Raises:
        TableError: a column is missing, null somewhere, or holds lists.
    """
    return {
        ", ".join(map(str, key)) if columns else ALL_ROWS: rows
        for key, rows in keyed_groups(frame, columns, needed_by).items()
    }


def keyed_groups(
    frame: pl.DataFrame, columns: Sequence[str], needed_by: str = ""
) -> dict[tuple[object, ...], Rows]:
    """Like `groups_of`, by the values themselves, which may be of several types."""
    for name in columns:
        _check(frame, name, needed_by)
    if not columns:
        return {(): slice(0, frame.height)}
    numbered = frame.select(columns).with_columns(pl.int_range(pl.len()).alias(ROW))
    found = numbered.group_by(columns, maintain_order=True).agg(ROW)
    keys = found.select(columns).rows()
    return {key: _compact(rows.to_numpy()) for key, rows in zip(keys, found[ROW], strict=True)}


def _check(frame: pl.DataFrame, name: str, needed_by: str) -> None:
    """Stops at a column that makes no groups."""
    column = find_column(frame, name, needed_by)
    if n_null := n_unknown(frame[column]):
        raise TableError(
            f"column {one_line(column)} is null in {n_null} of {frame.height} rows, so their group"
            " is unknown: fill it or leave those rows out"
        )


def _compact(rows: NDArray[np.int64]) -> Rows:
    if rows[-1] - rows[0] + 1 == len(rows):  # ascending, so nothing is left out
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows
