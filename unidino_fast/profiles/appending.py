"""Parquet files that grow by a table at a time."""

from __future__ import annotations

import json
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import pyarrow.parquet as pq

from unidino_fast.profiles.footers import Footer, joined, last_footer
from unidino_fast.results import METADATA_PREFIX
from unidino_fast.tables import PROVENANCE_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import polars as pl


class RowGroups:
    """Appends tables to a Parquet file, a row group each, while the next one is computed.

    Each is written as a file that begins where the one before ends, whose footer is taken off and
    kept as bytes. Together they make the footer of the whole.
    """

    def __init__(self, path: Path, provenance: Mapping[str, Any]) -> None:
        self._file = path.open("w+b")
        self._metadata = {PROVENANCE_KEY: json.dumps(provenance, sort_keys=True)}
        self._footers: list[bytes] = []
        self._thread = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None
        self.columns: tuple[str, ...] = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._wait()
            if kind is None and self._footers:
                joined(self._footers).write_metadata_file(self._file)
        finally:
            self._thread.shutdown()
            self._file.close()

    def write(self, frame: pl.DataFrame) -> None:
        """Appends a table as soon as the one before is written."""
        self._wait()
        self._pending = self._thread.submit(self._append, frame)

    def _wait(self) -> None:
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def _append(self, frame: pl.DataFrame) -> None:
        table = frame.to_arrow().replace_schema_metadata(self._metadata)
        self.columns = tuple(frame.columns)
        names = [name for name in frame.columns if name.startswith(METADATA_PREFIX)]
        begins = self._file.tell()  # Arrow takes it for the begin of the file
        pq.write_table(
            table,
            self._file,
            row_group_size=max(frame.height, 1),
            compression="zstd",
            use_dictionary=names,  # features hardly repeat, and nobody asks for their range
            write_statistics=names,
        )
        footer, ends = last_footer(self._file)
        self._footers.append(Footer(footer).moved(begins))
        self._file.seek(ends)
        self._file.truncate()
