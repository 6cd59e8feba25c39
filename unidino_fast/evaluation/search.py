"""Similarity search: the most similar profiles of some queries, among millions on disk.

N rows, Q queries, B rows of a block, D features.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from unidino_fast.columns import find_column, n_unknown
from unidino_fast.errors import TableError, UsageError
from unidino_fast.evaluation.stored import StoredProfiles, open_profiles
from unidino_fast.evaluation.table import check_count, group_means
from unidino_fast.evaluation.topk import TopK
from unidino_fast.query import parse_query
from unidino_fast.results import METADATA_PREFIX

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Profiles = pl.DataFrame | str | os.PathLike[str]

QUERY_PREFIX = "Query_"
_BLOCK_ELEMENTS = 1 << 24  # features of a block: 64 MiB
_PRODUCT_ELEMENTS = 1 << 22
_UNKNOWN = np.uint32(2**32 - 1)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Queries:
    """Rows that are searched for."""

    rows: NDArray[np.int64]  # (R,) in their table
    own: bool  # whether that is the table that is searched
    metadata: pl.DataFrame  # (R, ...)
    features: NDArray[np.float32]  # (Q, D); one row, the mean, for a consensus
    consensus: bool


def search(
    profiles: Profiles,
    query: str | None = None,
    *,
    query_table: Profiles | None = None,
    k: int = 20,
    not_same: str | Sequence[str] = (),
    consensus: bool = False,
    index: str | os.PathLike[str] | None = None,
    features: str | Sequence[str] = (),
) -> pl.DataFrame:
    """The k most similar profiles of each query by cosine similarity, exactly.

    Features are compared as float32 numbers; the similarities are float64. Of equal ones the lowest
    row comes first. A query never finds itself. Memory holds the metadata and a block of features.

    Args:
        profiles: a table, or a file of one. Parquet files are passed over in blocks. Features are
            told from metadata as by `as_profiles`.
        query: rows to search for, as `Metadata_Compound == "taxol"`; may be left out for a
            `query_table`, all of whose rows are then searched for.
        query_table: where the queries are, with the same features; the profiles by default.
        k: rows to find for each query. Where the exclusion leaves fewer, all of them.
        not_same: columns, with or without `Metadata_`, that a query and its finds may not share.
            Rows where one is null or NaN are not found, since nobody knows what they share.
        consensus: search for the mean of the queries, once, leaving all of them out.
        index: `.npy` file that repeated searches are faster with; made where it is missing or old.
        features: how the names of features begin, where that tells them from metadata; in the query
            table too.

    Returns:
        `query` (row in its table; 0 for a consensus), `rank` from 1, `similarity`, `row`, the
        metadata of that row, and that of the query with the prefix `Query_` (not for a consensus).

    Raises:
        UsageError: no query, or a number out of range.
        TableError: no rows answer the query, a column of `not_same` is null in one of them, or a
            column or feature is missing or unfit.
    """
    check_count("k", k, 1)
    if query is None and query_table is None:
        raise UsageError("nothing to search for: use --query or --query-table")
    prefixes = (features,) if isinstance(features, str) else tuple(features)
    stored = open_profiles(profiles, index, prefixes)
    source = stored if query_table is None else open_profiles(query_table, None, prefixes)
    queries = _queries(stored, query, source, consensus=consensus)
    names = (not_same,) if isinstance(not_same, str) else tuple(not_same)
    keys = [_key_codes(stored.metadata, queries, name) for name in names]
    top = TopK(queries.features, min(k, max(len(stored.metadata), 1)))
    size = min(
        _BLOCK_ELEMENTS // len(stored.features), _PRODUCT_ELEMENTS // len(queries.features) + 1
    )
    for start, block in stored.blocks(max(size, 256)):
        top.add(start, block, _excluded(start, len(block), queries, keys))
    return _answer(top, stored.metadata, queries)


def _queries(
    stored: StoredProfiles, query: str | None, source: StoredProfiles, *, consensus: bool
) -> _Queries:
    """Picks the queries from their source and checks that they fit the profiles."""
    metadata = source.metadata
    asked = (
        pl.lit(value=True)
        if query is None
        else parse_query(query, dict(zip(metadata.columns, metadata.dtypes, strict=True)))
    )
    rows = metadata.select(pl.arg_where(asked)).to_series().to_numpy().astype(np.int64)
    if query is None:
        rows = np.arange(len(metadata))
    if not len(rows):
        said = "the query table has no rows" if query is None else f"no row answers {query!r}"
        raise TableError(f"{said}: there is nothing to search for")
    missing = sorted(set(stored.features) ^ set(source.features))
    if missing:
        raise TableError(
            f"feature {missing[0]} is in one of the two tables only ({len(missing)} such features):"
            " search among profiles that were made in the same way"
        )
    order = [list(source.features).index(name) for name in stored.features]
    features = source.pick(rows)[:, order]
    if not np.isfinite(features).all():
        bad = rows[~np.isfinite(features).all(axis=1)]
        raise TableError(
            f"row {bad[0]} of the queries has features that are null, NaN or infinite: choose"
            " others, or leave their channel out"
        )
    if consensus:
        features = group_means(features, np.zeros(len(rows), np.int32)).astype(np.float32)
    own = source is stored
    return _Queries(rows, own, metadata[rows.tolist()], features, consensus)


def _key_codes(
    metadata: pl.DataFrame, queries: _Queries, name: str
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Codes of a column, (N,) and (R,), equal where its values are; `_UNKNOWN` where it is null."""
    key = find_column(metadata, name)
    if key not in queries.metadata.columns:
        raise TableError(f"the query table has no column {key}: join it to the table")
    values, asked = metadata[key], queries.metadata[key]
    if (values.dtype == pl.String) != (asked.dtype == pl.String):
        raise TableError(
            f"{key} holds {values.dtype} in one table and {asked.dtype} in the other: give both"
            " one type"
        )
    find_column(queries.metadata, key)
    if lacking := n_unknown(asked):
        raise TableError(
            f"{key} is null in {lacking} of {len(asked)} queries, so what they may find is unknown:"
            " narrow the query to rows that have it"
        )
    if lacking := n_unknown(values):
        _log.warning("%s is null in %d of %d rows: they are not found", key, lacking, len(values))
    joint = pl.concat([values.to_frame(), asked.to_frame()], how="vertical_relaxed").to_series()
    if joint.dtype.is_float():
        joint = joint.fill_nan(None)
    physical = joint.cast(pl.String).cast(pl.Categorical).to_physical()
    codes = physical.cast(pl.UInt32).fill_null(int(_UNKNOWN)).to_numpy()
    return codes[: len(values)], codes[len(values) :]


def _excluded(
    start: int,
    n: int,
    queries: _Queries,
    keys: Sequence[tuple[NDArray[np.uint32], NDArray[np.uint32]]],
) -> NDArray[np.bool_] | None:
    """Pairs (B, Q) of a block that are not allowed; None where all are."""
    inside = np.flatnonzero((queries.rows >= start) & (queries.rows < start + n))
    own = queries.own and len(inside)
    if not keys and not own:
        return None
    mask = np.zeros((n, len(queries.features)), dtype=np.bool_)
    for codes, asked in keys:
        block = codes[start : start + n]
        mask |= (
            np.isin(block, asked)[:, None] if queries.consensus else block[:, None] == asked[None]
        )
        mask |= (block == _UNKNOWN)[:, None]
    if own:
        places = 0 if queries.consensus else inside
        mask[queries.rows[inside] - start, places] = True
    return mask


def _answer(top: TopK, metadata: pl.DataFrame, queries: _Queries) -> pl.DataFrame:
    """What was found, as rows."""
    sizes = [len(found.rows) for found in top.found]
    asked = np.repeat(np.arange(len(sizes)), sizes)  # (F,) which query a find belongs to
    rows = np.concatenate([found.rows for found in top.found])
    names = pl.Series(np.zeros(1, np.int64) if queries.consensus else queries.rows)
    parts = [
        pl.DataFrame(
            {
                "query": names[asked.tolist()],
                "rank": [rank for size in sizes for rank in range(1, size + 1)],
                "similarity": np.concatenate([found.similarities for found in top.found]),
                "row": rows,
            },
            schema_overrides={"rank": pl.Int64},
        ),
        metadata[rows.tolist()],
    ]
    if not queries.consensus:
        of_query = queries.metadata[asked.tolist()]
        parts.append(
            of_query.rename(
                {
                    name: QUERY_PREFIX + name.removeprefix(METADATA_PREFIX)
                    for name in of_query.columns
                }
            )
        )
    answer: pl.DataFrame = pl.concat([part for part in parts if part.width], how="horizontal")
    return answer
