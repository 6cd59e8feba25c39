"""Rows that share values of metadata columns: plates, batches, replicates."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

import polars as pl

from unidino_fast.errors import TableError, UsageError
from unidino_fast.names import one_line
from unidino_fast.profiles.table import ALL_ROWS, ROW
from unidino_fast.results import METADATA_PREFIX

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from unidino_fast.profiles.table import Rows


def metadata_names(names: str | Sequence[str]) -> tuple[str, ...]:
    """Columns to group by, each once and with its prefix: `Plate` is `Metadata_Plate`.

    Raises:
        UsageError: a name is empty.
    """
    given = (names,) if isinstance(names, str) else tuple(names)
    if any(not name.strip() for name in given):
        raise UsageError("the name of a column to group by is empty: write one, such as Plate")
    return tuple(dict.fromkeys(METADATA_PREFIX + n.removeprefix(METADATA_PREFIX) for n in given))


def groups_of(
    frame: pl.DataFrame, columns: Sequence[str], remedy: str = "name another with --by"
) -> dict[str, Rows]:
    """Rows of each group by what it is called, in the order in which groups first appear.

    Args:
        frame: metadata at least.
        columns: whose values make a group; none for all rows together.
        remedy: what an error tells to do about a missing column.

    Raises:
        TableError: a column is missing, null somewhere, or holds lists.
    """
    return {
        ", ".join(map(str, key)) if columns else ALL_ROWS: rows
        for key, rows in keyed_groups(frame, columns, remedy).items()
    }


def keyed_groups(
    frame: pl.DataFrame, columns: Sequence[str], remedy: str = "name another with --by"
) -> dict[tuple[object, ...], Rows]:
    """Like `groups_of`, by the values themselves, which may be of several types."""
    for name in columns:
        _check(frame, name, remedy)
    if not columns:
        return {(): slice(0, frame.height)}
    numbered = frame.select(columns).with_columns(pl.int_range(pl.len()).alias(ROW))
    found = numbered.group_by(columns, maintain_order=True).agg(ROW)
    keys = found.select(columns).rows()
    return {key: _compact(rows.to_numpy()) for key, rows in zip(keys, found[ROW], strict=True)}


def _check(frame: pl.DataFrame, name: str, remedy: str) -> None:
    """Stops at a column that makes no groups."""
    if name not in frame.columns:
        folded = {n.removeprefix(METADATA_PREFIX).lower(): n for n in frame.columns}
        stem = name.removeprefix(METADATA_PREFIX).lower()
        near = difflib.get_close_matches(stem, folded, n=1, cutoff=0.7)
        meant = f"did you mean {one_line(folded[near[0]])}? " if near else ""
        raise TableError(f"column {one_line(name)} is missing: {meant}{remedy}")
    values = frame[name]
    if values.dtype.is_nested() or values.dtype == pl.Object:
        raise TableError(
            f"column {one_line(name)} holds {values.dtype}, whose values make no groups: name a"
            " column of text or numbers"
        )
    n_null = (values.fill_nan(None) if values.dtype.is_float() else values).null_count()
    if n_null:
        raise TableError(
            f"column {one_line(name)} is null in {n_null} of {frame.height} rows, so their group"
            " is unknown: fill it or leave those rows out"
        )


def _compact(rows: NDArray[np.int64]) -> Rows:
    if rows[-1] - rows[0] + 1 == len(rows):  # ascending, so nothing is left out
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows
