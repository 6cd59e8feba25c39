"""Atomic writes: a file is there whole or not at all."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unidino_fast.errors import OutputError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import polars as pl

PROVENANCE_KEY = "unidino_fast"
"""Key of the provenance (a JSON object) in the metadata of the Parquet files."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it there on success, removes it otherwise.

    Raises:
        OutputError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror or first_line(error)}):"
            " free the disk or choose another --out"
        ) from error


def write_parquet(frame: pl.DataFrame, path: Path, metadata: Mapping[str, Any]) -> None:
    """Writes a table with a JSON object in its metadata; equal input gives equal bytes."""
    with atomic(path) as temporary:
        frame.write_parquet(
            temporary, metadata={PROVENANCE_KEY: json.dumps(metadata, sort_keys=True)}
        )


def write_json(document: Mapping[str, Any], path: Path) -> None:
    """Writes a JSON object, indented."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
