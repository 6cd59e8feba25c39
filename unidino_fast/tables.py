"""Reads and writes profile tables by their suffix: Parquet, CSV, gzipped CSV."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from unidino_fast.errors import OutputError, TableError, UsageError, first_line
from unidino_fast.files import atomic, write_parquet

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping


def read_table(path: str | os.PathLike[str]) -> pl.DataFrame:
    """A table from `.parquet`, `.csv`, `.csv.gz` or `.tsv`.

    Raises:
        TableError: the file is not there, or is no such table.
    """
    file = Path(path)
    try:
        if file.suffix.lower() in (".parquet", ".pq"):
            return pl.read_parquet(file)
        separator = "\t" if ".tsv" in file.name.lower() else ","
        return pl.read_csv(file, separator=separator, infer_schema_length=None)
    except FileNotFoundError:
        raise TableError(f"{file} does not exist: give a CSV or Parquet table") from None
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        raise TableError(f"{file} cannot be read as a table: {first_line(error)}") from error


def write_table(
    frame: pl.DataFrame, path: str | os.PathLike[str], provenance: Mapping[str, Any]
) -> None:
    """Writes `.parquet` (with the provenance in its metadata) or `.csv`.

    Raises:
        UsageError: another suffix.
        OutputError: the file cannot be written.
    """
    file = Path(path)
    if file.suffix.lower() not in (".parquet", ".csv"):
        raise UsageError(f"{file.name} ends in neither .parquet nor .csv: name the output so")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{file.parent} cannot be made: {error.strerror}") from error
    if file.suffix.lower() == ".parquet":
        write_parquet(frame, file, provenance)
        return
    with atomic(file) as temporary:
        frame.write_csv(temporary)
