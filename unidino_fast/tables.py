"""Reads and writes profile tables by their suffix: Parquet, CSV, gzipped CSV."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import tempfile
import zlib
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import polars as pl

from unidino_fast.errors import OutputError, TableError, UsageError, first_line
from unidino_fast.files import atomic, reason_of
from unidino_fast.formulas import as_text, as_written
from unidino_fast.names import one_line
from unidino_fast.results import METADATA_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa

_PORTION_BYTES = 1 << 20
PROVENANCE_KEY = "unidino_fast"
"""Key of the provenance (a JSON object) in the metadata of the Parquet files."""
_SEPARATORS = (",", ";", "\t")
PANDAS_INDEX = re.compile(r"|Unnamed: 0|__index_level_\d+__")
"""Names under which pandas writes its row numbers, which nobody means as data."""
_CODE = r"^[+-]?(0\d|\d{19})"
"""Digits that are a name: `007`, or more of them than a number holds."""
_EXPONENT = r"^[+-]?\d+[eE]\d+$"
"""May be a name too: `1E5`, which would become one with `100000`. Programs that write numbers write
`1e+05` or `100000.0`."""
OUTPUT_SUFFIXES = (".parquet", ".csv")


def read_table(path: str | os.PathLike[str]) -> pl.DataFrame:
    """A table from `.parquet`, or from text such as `.csv`, `.tsv`, `.csv.gz`.

    Text is UTF-8, separated by commas, semicolons (with decimal commas) or tabs, as its first line
    shows. A column is of numbers where each of its cells is one; codes such as `007` stay text, and
    so do those such as `1E5` in metadata and among whole numbers. Row numbers that pandas added are
    left out, and so is the `'` that keeps text such as `=1+1` from being a formula. The path is
    taken as it is: `*`, `?` and `[` in it are no patterns.

    Raises:
        TableError: the file is not there, or is no such table.
    """
    file = Path(path)
    try:
        if file.suffix.lower() in (".parquet", ".pq"):
            table = pl.read_parquet(file, glob=False)
        else:
            table = _parse_text(_text_of(file), file)
    except FileNotFoundError:
        raise TableError(f"{file} does not exist: give a CSV or Parquet table") from None
    except UnicodeDecodeError:
        raise TableError(f"{file} is not UTF-8 text: save it as CSV (UTF-8) or Parquet") from None
    except pl.exceptions.NoDataError:
        raise TableError(f"{file} is empty: give a CSV or Parquet table") from None
    except pl.exceptions.DuplicateError as error:
        raise TableError(
            f"{file} has two columns of one name ({first_line(error)}): rename one"
        ) from error
    except (pl.exceptions.PolarsError, OSError, EOFError, zlib.error, csv.Error) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise TableError(
            f"{file} cannot be read as a table ({reason}): give a CSV or Parquet table"
        ) from error
    return table.select(name for name in table.columns if not PANDAS_INDEX.fullmatch(name))


def provenance_in(path: Path) -> dict[str, Any] | None:
    """What a Parquet file of ours says of how it was made; None for any other file."""
    try:
        held = pl.read_parquet_metadata(path) if path.suffix.lower() == ".parquet" else {}
        found = json.loads(held[PROVENANCE_KEY])
    except (KeyError, ValueError, RecursionError, OSError, pl.exceptions.PolarsError):
        return None
    return found if isinstance(found, dict) else None


@contextmanager
def atomic_table(path: Path) -> Iterator[Path]:
    """`files.atomic` for what Polars writes: its error for a full disk is one of the disk too."""
    with atomic(path) as temporary:
        try:
            yield temporary
        except pl.exceptions.ComputeError as error:
            raise OSError(first_line(error).rpartition("IO error: ")[2]) from error


def write_parquet(frame: pl.DataFrame, path: Path, metadata: Mapping[str, Any]) -> None:
    """Writes a table with a JSON object in its metadata; equal input gives equal bytes.

    By Arrow: what Polars writes shows its metadata to Polars, but not in the schema that pyarrow
    and pandas read.

    Raises:
        OutputError: the file cannot be written.
    """
    import pyarrow.parquet as pq

    provenance = {PROVENANCE_KEY: json.dumps(metadata, sort_keys=True)}
    table = frame.to_arrow().replace_schema_metadata(provenance)
    with (
        atomic_table(path) as temporary,
        temporary.open("wb") as file,
        in_portions(file) as portions,
    ):
        pq.write_table(table, portions, **column_options(frame.columns))


def in_portions(file: BinaryIO) -> pa.BufferedOutputStream:
    """A file of Python's, whose errors say what is wrong with the disk, for Arrow to write.

    Arrow writes each column by itself, and would wait for the interpreter each time: while another
    thread computes in Python, a hundred times as long as writing takes.

    Args:
        file: closed with what is returned, unless that is detached.
    """
    import pyarrow as pa

    return pa.BufferedOutputStream(pa.PythonFile(file, mode="w"), _PORTION_BYTES)


def column_options(columns: Sequence[str], *, plain: bool = False) -> dict[str, Any]:
    """How Arrow is to write the columns of a table.

    Args:
        columns: their names.
        plain: leave features uncompressed.
    """
    told = [name for name in columns if name.startswith(METADATA_PREFIX)]
    return {
        "compression": dict.fromkeys(told, "zstd") if plain else "zstd",
        "use_dictionary": told,  # features hardly repeat, and nobody asks for their range
        "write_statistics": told,
    }


def write_table(
    frame: pl.DataFrame, path: str | os.PathLike[str], provenance: Mapping[str, Any]
) -> None:
    """Writes `.parquet` (with the provenance in its metadata) or `.csv`.

    In a `.csv` text that a spreadsheet would take for a formula gets a `'` before it, which
    `read_table` takes off again.

    Raises:
        UsageError: another suffix, or columns of lists for a `.csv`.
        OutputError: the file cannot be written.
    """
    file = Path(path)
    _check_suffix(file, OUTPUT_SUFFIXES)
    nested = [name for name, dtype in frame.schema.items() if dtype.is_nested()]
    if nested and file.suffix.lower() == ".csv":
        raise UsageError(
            f"column {one_line(nested[0])} holds {frame.schema[nested[0]]}, which a .csv has no"
            " room for: name the output .parquet"
        )
    make_folder(file.parent)
    if file.suffix.lower() == ".parquet":
        write_parquet(frame, file, provenance)
        return
    with atomic_table(file) as temporary:
        as_text(frame).write_csv(temporary)


def check_output(
    out: Path, inputs: Mapping[str, Path | None], suffixes: Sequence[str] = OUTPUT_SUFFIXES
) -> None:
    """What can be known of an output before hours are spent on what it shall hold.

    Args:
        out: file to write.
        inputs: files that are read, by what they are called in a message.
        suffixes: that it may have.

    Raises:
        UsageError: it has another suffix, or is one of the inputs.
        OutputError: it is a folder, or there is no folder that it can be written in.
    """
    _check_suffix(out, suffixes)
    for name, path in inputs.items():
        if path is not None and out.exists() and path.exists() and out.samefile(path):
            raise UsageError(f"--out {out} is {name}: name another file")
    folder = next(parent for parent in out.absolute().parents if os.path.lexists(parent))
    reason = "it is a folder" if out.is_dir() else None
    try:
        with tempfile.TemporaryFile(dir=folder):  # the one test that knows every reason
            pass
    except OSError as error:
        reason = f"{folder}: {reason_of(error)}"
    if reason is not None:
        raise OutputError(f"{out} cannot be written ({reason}): choose another --out")


def check_polars(table: object) -> None:
    """Raises UsageError where a table is none of Polars, and says how to make one of it."""
    if isinstance(table, pl.DataFrame):
        return
    found = f"{type(table).__module__.partition('.')[0]}.{type(table).__name__}"
    how = "collect() it" if isinstance(table, pl.LazyFrame) else "polars.from_pandas makes one"
    raise UsageError(f"the table is a {found}: give a Polars DataFrame ({how})")


def _check_suffix(file: Path, suffixes: Sequence[str]) -> None:
    if file.suffix.lower() not in suffixes:
        known = (
            f"neither {' nor '.join(suffixes)}"
            if len(suffixes) == 2
            else f"none of {', '.join(suffixes)}"
        )
        raise UsageError(f"{file.name} ends in {known}: name the output so")


def make_folder(folder: Path, option: str = "--out") -> None:
    """Makes a folder for a file to write, where there is none.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be made ({error.strerror}): choose another {option}"
        ) from error


def _text_of(file: Path) -> str:
    """A text file, unzipped if need be, without its byte order mark."""
    data = file.read_bytes()
    if data.startswith(b"\x1f\x8b"):
        data = gzip.decompress(data)
    if b"\0" in data:  # valid UTF-8, but never text: a workbook, UTF-16, an image
        raise UnicodeDecodeError("utf-8", data, 0, 1, "zero byte")
    return data.decode("utf-8-sig")


def _parse_text(text: str, file: Path) -> pl.DataFrame:
    separator = _separator(text)
    header = next(filter(None, csv.reader(io.StringIO(text, newline=""), delimiter=separator)), [])
    repeated = [name for name, count in Counter(header).items() if name and count > 1]
    if repeated:  # which Polars would rename in silence
        raise TableError(f"{file} has two columns of one name ({repeated[0]}): rename one")
    table = pl.read_csv(text.encode(), separator=separator, infer_schema=False)
    if "'" in text:
        table = as_written(table)
    blank = [  # separators after the last column, as spreadsheets leave them
        column.name
        for name, column in zip(header, table, strict=False)
        if not name and column.null_count() == len(column)
    ]
    return table.drop(blank).select(
        _typed(column, decimal_comma=separator == ";") for column in table.drop(blank)
    )


def _separator(text: str) -> str:
    """The separator that the first line has most of, outside quotes."""
    header = re.sub(r'"[^"]*"', "", text[: text.find("\n")])
    return max(_SEPARATORS, key=header.count)


def _typed(column: pl.Series, *, decimal_comma: bool) -> pl.Series:
    """Text cells as integers, floats or booleans where all of them are such; else as they are."""
    n_null = column.null_count()
    if n_null == len(column) or column.str.contains(_CODE).any() or _has_exponent_codes(column):
        return column
    integers = column.cast(pl.Int64, strict=False)
    if integers.null_count() == n_null:
        return integers
    plain = column.str.replace(",", ".", literal=True) if decimal_comma else column
    floats = plain.cast(pl.Float64, strict=False)
    if floats.null_count() == n_null:
        return floats
    lower = column.str.to_lowercase()
    if lower.drop_nulls().is_in(["true", "false"]).all():
        return (lower == "true").alias(column.name)
    return column


def _has_exponent_codes(column: pl.Series) -> bool:
    """Whether cells such as `1E5` are names: in metadata, or where no cell has a decimal point."""
    if not column.str.contains(_EXPONENT).any():
        return False
    return column.name.startswith(METADATA_PREFIX) or not column.str.contains(r"[.,]").any()
