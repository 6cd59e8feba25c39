"""Parquet files that grow by a table at a time."""

from __future__ import annotations

import json
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from unidino_fast.profiles.footers import Footer, joined, last_footer
from unidino_fast.tables import PROVENANCE_KEY, column_options, in_portions

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


_DESCRIBED = 8
"""Row groups that Arrow holds descriptions of: 1.3 MB each, of 1,920 columns."""


class RowGroups:
    """Appends tables to a Parquet file, a row group each, while the next one is computed.

    Some at a time are written as a file that begins where the one before ends, whose footer is
    taken off and kept as bytes. Together they make the footer of the whole.

    Args:
        path: of the file.
        provenance: a JSON object for its metadata.
        plain: leave features uncompressed. Of a network's, zstd takes as long as all else of a row
            group to make them 5 % smaller, or larger where rows are few; counts and constant
            features it makes several times smaller.
    """

    def __init__(self, path: Path, provenance: Mapping[str, Any], *, plain: bool = False) -> None:
        self._plain = plain
        self._file = path.open("w+b")
        self._metadata = {PROVENANCE_KEY: json.dumps(provenance, sort_keys=True)}
        self._footers: list[bytes] = []
        self._opened: tuple[pq.ParquetWriter, pa.BufferedOutputStream] | None = None
        self._begins = self._n_described = 0
        self._thread = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None
        self.columns: tuple[str, ...] = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._wait()
            if kind is None and self._opened is not None:
                self._take_footer(*self._opened)
            if kind is None and self._footers:
                joined(self._footers).write_metadata_file(self._file)
        finally:
            self._thread.shutdown()
            for part in self._opened or ():  # garbage would close it later, and complain
                with suppress(OSError, pa.ArrowException):
                    part.close()
            self._file.close()

    def write(self, table: pl.DataFrame | pa.Table) -> None:
        """Appends a table as soon as the one before is written."""
        self._wait()
        self._pending = self._thread.submit(self._append, table)

    def _wait(self) -> None:
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def _append(self, table: pl.DataFrame | pa.Table) -> None:
        if isinstance(table, pl.DataFrame):
            table = table.to_arrow()
        table = table.replace_schema_metadata(self._metadata)
        self.columns = tuple(table.column_names)
        if self._opened is None:
            self._begins = self._file.tell()  # Arrow takes it for the begin of the file
            options = column_options(self.columns, plain=self._plain)
            file = in_portions(self._file)
            self._opened = pq.ParquetWriter(file, table.schema, **options), file
        self._opened[0].write_table(table, row_group_size=max(table.num_rows, 1))
        self._n_described += 1
        if self._n_described == _DESCRIBED:
            self._take_footer(*self._opened)

    def _take_footer(self, writer: pq.ParquetWriter, file: pa.BufferedOutputStream) -> None:
        writer.close()
        file.detach()
        self._opened, self._n_described = None, 0
        footer, ends = last_footer(self._file)
        self._footers.append(Footer(footer).moved(self._begins) if self._begins else footer)
        self._file.seek(ends)
        self._file.truncate()
