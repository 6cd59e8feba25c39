"""Profiles that a search passes over: a table in memory, a Parquet file, or an index of one.

N rows, D features, B rows of a block.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from unidino_fast.errors import OutputError, TableError, UsageError, first_line
from unidino_fast.evaluation.cellprofiler import as_metadata, as_profiles, known_features
from unidino_fast.evaluation.table import numeric_features
from unidino_fast.files import atomic, write_json
from unidino_fast.results import METADATA_PREFIX, feature_columns
from unidino_fast.tables import PANDAS_INDEX, check_polars, make_folder, read_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

_BUFFER_BYTES = 1 << 18  # of a column that is read: a row group may be larger than memory


class StoredProfiles(Protocol):
    """Profiles that can be passed over in blocks, and whose rows can be picked."""

    metadata: pl.DataFrame  # (N, ...) every column with the Metadata_ prefix
    features: Sequence[str]  # (D,)

    def blocks(self, size: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Number of the first row, and features (B, D) in either memory order."""
        ...

    def pick(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Features of some rows, given in ascending order."""
        ...


def open_profiles(
    profiles: pl.DataFrame | str | os.PathLike[str],
    index: str | os.PathLike[str] | None = None,
    features: Sequence[str] = (),
) -> StoredProfiles:
    """Profiles to search.

    Args:
        profiles: a table, or a file of one. Of a Parquet file the metadata alone is read here.
            Features are told from metadata as by `as_profiles`.
        index: `.npy` file that holds the features row by row, to be mapped into memory; it is
            written where it is missing or was made of another file. For a Parquet file alone.
        features: how the names of features begin, where that tells them from metadata.

    Raises:
        UsageError: an index without a Parquet file, of another suffix, or that is another's file.
        TableError: a file that cannot be read, or features that are unfit.
        OutputError: the index cannot be written.
    """
    if not isinstance(profiles, str | os.PathLike):
        check_polars(profiles)
    path = None if isinstance(profiles, pl.DataFrame) else Path(profiles)
    is_parquet = path is not None and path.suffix.lower() in (".parquet", ".pq")
    if index is not None and (path is None or not is_parquet):
        raise UsageError("an index is made of a Parquet file: give the profiles as one")
    if path is None or not is_parquet:
        frame = profiles if isinstance(profiles, pl.DataFrame) else read_table(profiles)
        return _Table(as_profiles(frame, features))
    try:
        table = _Parquet(path, features)
        return table if index is None else _indexed(table, path, Path(index))
    except (pa.ArrowException, pl.exceptions.PolarsError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise TableError(f"{path} does not exist: give a CSV or Parquet table") from None
        if isinstance(error, TableError | OutputError):
            raise
        raise TableError(
            f"{path} cannot be read as a table ({first_line(error)}): give a CSV or Parquet table"
        ) from error


class _Table:
    """A table in memory."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self.features: Sequence[str] = numeric_features(frame)
        self.metadata = frame.select(f"^{METADATA_PREFIX}.*$")
        self._values = frame.select(self.features)

    def blocks(self, size: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """See `StoredProfiles`."""
        for start in range(0, len(self._values), size):
            yield start, _matrix(self._values[start : start + size])

    def pick(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `StoredProfiles`."""
        return _matrix(self._values[rows.tolist()])


class _Parquet:
    """A Parquet file, read in passes."""

    def __init__(self, path: Path, prefixes: Sequence[str]) -> None:
        self._path = path
        empty = pl.read_parquet(path, n_rows=0, glob=False)
        columns = [name for name in empty.columns if not PANDAS_INDEX.fullmatch(name)]
        known = known_features(columns, prefixes)
        features = feature_columns(empty.select(columns)) if known is None else known
        self.features: Sequence[str] = numeric_features(empty.select(features))
        names = [name for name in columns if name not in set(features)]
        with self._open() as file:
            n = file.metadata.num_rows
        self.metadata = (
            as_metadata(pl.read_parquet(path, columns=names, glob=False))
            if names
            else pl.DataFrame(height=n)
        )

    def blocks(self, size: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """See `StoredProfiles`."""
        start = 0
        with self._open() as file:
            for batch in file.iter_batches(size, columns=list(self.features)):
                yield start, self._matrix(batch)
                start += len(batch)

    def pick(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `StoredProfiles`; only row groups that hold one of the rows are read."""
        picked, start = [], 0
        with self._open() as file:
            for group in range(file.num_row_groups):
                stop = start + file.metadata.row_group(group).num_rows
                if ((rows >= start) & (rows < stop)).any():
                    for batch in file.iter_batches(row_groups=[group], columns=list(self.features)):
                        own = rows[(rows >= start) & (rows < start + len(batch))] - start
                        picked.append(self._matrix(batch)[own])
                        start += len(batch)
                start = stop
        return np.concatenate(picked) if picked else np.empty((0, len(self.features)), np.float32)

    def _open(self) -> pq.ParquetFile:
        return pq.ParquetFile(self._path, buffer_size=_BUFFER_BYTES, pre_buffer=False)

    def _matrix(self, batch: pa.RecordBatch) -> NDArray[np.float32]:
        return _matrix(pl.DataFrame(batch).select(self.features))


class _Mapped:
    """An index: features mapped into memory."""

    def __init__(
        self, values: NDArray[np.float32], metadata: pl.DataFrame, features: Sequence[str]
    ) -> None:
        self.metadata, self.features, self._values = metadata, features, values

    def blocks(self, size: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """See `StoredProfiles`."""
        for start in range(0, len(self._values), size):
            yield start, self._values[start : start + size]

    def pick(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `StoredProfiles`."""
        return np.asarray(self._values[rows])


def _indexed(table: _Parquet, path: Path, index: Path) -> _Mapped:
    """The index of a Parquet file, made where there is none of it as it is now."""
    if index.suffix != ".npy":
        raise UsageError(f"{index.name} does not end in .npy: name the index so")
    stamp_file = index.with_name(f"{index.name}.json")
    state = path.stat()
    stamp = {
        "source": str(path.resolve()),
        "size": state.st_size,
        "mtime_ns": state.st_mtime_ns,
        "features": list(table.features),
    }
    make_folder(index.parent, "--index")
    found = _stamp(stamp_file)
    if found is None and (index.exists() or stamp_file.exists()):
        raise UsageError(
            f"{index} is there, but {stamp_file.name} does not say that it is an index: name"
            " another file, or delete both"
        )
    if found != stamp or not index.exists():
        write_json({**stamp, "size": None}, stamp_file)  # ours, and to be made again if cut off
        _write_index(table, index)
        write_json(stamp, stamp_file)
    shape = (len(table.metadata), len(table.features))
    if not shape[0]:
        return _Mapped(np.empty(shape, np.float32), table.metadata, table.features)
    try:
        values = np.load(index, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise TableError(f"{index} is no index ({first_line(error)}): delete it") from error
    if values.shape != shape or values.dtype != np.float32:
        raise TableError(f"{index} holds {values.dtype} {values.shape}, not {shape}: delete it")
    return _Mapped(values, table.metadata, table.features)


def _stamp(file: Path) -> object:
    """What an index was made of; None where that is not said."""
    try:
        stamp = json.loads(file.read_text())
    except (ValueError, FileNotFoundError):
        return None
    is_ours = isinstance(stamp, dict) and stamp.keys() == {"source", "size", "mtime_ns", "features"}
    return stamp if is_ours else None


def _write_index(table: _Parquet, index: Path) -> None:
    shape = (len(table.metadata), len(table.features))
    with atomic(index) as temporary, temporary.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_2_0(file, header)
        for _, block in table.blocks(max((1 << 24) // max(shape[1], 1), 1)):
            file.write(np.ascontiguousarray(block).data)


def _matrix(values: pl.DataFrame) -> NDArray[np.float32]:
    """Features (B, D) as float32; null becomes NaN."""
    return values.cast(pl.Float32).to_numpy()
