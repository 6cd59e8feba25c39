"""Recipes on Parquet files that need not fit into memory.

Where every step keeps to groups (plates), portions of whole groups go through the recipe one after
the other, each like a table of its own, while the portion before is written. What is held is a few
portions, whatever the file's length; the row groups of the file that is read bound it from below.
Of the descriptions of row groups only those in use are more than bytes: see `footers`.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from unidino_fast.columns import find_columns
from unidino_fast.errors import TableError, first_line
from unidino_fast.heap import HeapTrimmer
from unidino_fast.profiles.appending import RowGroups
from unidino_fast.profiles.footers import Footer
from unidino_fast.profiles.groups import keyed_groups
from unidino_fast.profiles.quality import unflagged
from unidino_fast.profiles.table import Report, take_apart
from unidino_fast.results import METADATA_PREFIX
from unidino_fast.tables import PANDAS_INDEX, atomic_table, make_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from unidino_fast.profiles.recipe import Recipe

_PORTION_BYTES = 64 << 20
"""Features of a portion, as float32; some twenty plates of 384 wells x 1,920 features, which become
a row group."""
_SCATTERED_BYTES = 512 << 20
"""The same where groups lie scattered: each portion then costs a pass over the file."""
_WORTH_BYTES = 256 << 20
"""Smaller tables go through memory whole."""
_SCAN_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Outline:
    """What a Parquet file holds, without its features."""

    n_rows: int
    columns: tuple[str, ...]

    @property
    def n_features(self) -> int:
        """Columns without the prefix."""
        return sum(not name.startswith(METADATA_PREFIX) for name in self.columns)

    @property
    def n_bytes(self) -> int:
        """Of its features, as float32."""
        return 4 * self.n_rows * self.n_features


def streams(wells: Path, out: Path, recipe: Recipe) -> bool:
    """Whether a recipe on a file is better streamed: large, Parquet, and group by group."""
    if {wells.suffix.lower(), out.suffix.lower()} - {".parquet", ".pq"}:
        return False
    if recipe.group_columns() is None or not wells.is_file():
        return False
    try:
        return _outline(Footer.of(wells)).n_bytes >= _WORTH_BYTES
    except (pa.ArrowException, OSError):
        return False  # whatever is wrong with it, the reader of tables says it


def stream_recipe(
    wells: Path,
    out: Path,
    recipe: Recipe,
    provenance: Mapping[str, Any],
    *,
    drop_flagged: bool = False,
    portion_bytes: int = _PORTION_BYTES,
    scattered_bytes: int = _SCATTERED_BYTES,
) -> tuple[Outline, Report]:
    """Runs a recipe whose steps keep to groups from file to file.

    Rows keep their order where groups lie together. Where they lie scattered, the file is read
    several times, and rows come out group by group, which the report says.

    Args:
        wells: Parquet file to read.
        out: Parquet file to write.
        recipe: `group_columns()` of it is not None.
        provenance: goes into the metadata of `out`.
        drop_flagged: leave out rows that quality control has flagged.
        portion_bytes: features (float32) to hold at a time.
        scattered_bytes: the same where groups lie scattered.

    Returns:
        What was written, and what a person should know about it.

    Raises:
        TableError: the file is no such table, or lacks what a step needs.
        OutputError: `out` cannot be written.
    """
    columns = recipe.group_columns()
    if columns is None:
        raise ValueError(f"{recipe.summary()} does not keep to groups")
    report, trimmer = Report(), HeapTrimmer()
    n_rows = 0
    reader = _Reader(wells)
    make_folder(out.parent)
    plan = _plan(reader, columns, (portion_bytes, scattered_bytes), report)
    with atomic_table(out) as temporary, RowGroups(temporary, provenance) as writer:
        for whole in reader.portions(plan):
            table = unflagged(whole) if drop_flagged else whole
            if table.is_empty() and not whole.is_empty():
                continue
            profiles = recipe.apply(take_apart(table), report)
            n_rows += profiles.height
            writer.write(profiles.frame())
            trimmer.trim()
    return Outline(n_rows, writer.columns), report


@dataclass(frozen=True, slots=True)
class _Plan:
    """Which rows go through the recipe together.

    Attributes:
        lengths: rows of each portion.
        portion: of each row (N,), where groups lie scattered; None where portions follow one
            another.
    """

    lengths: list[int]
    portion: NDArray[np.int32] | None


def _outline(footer: Footer) -> Outline:
    metadata = footer.metadata()
    names = metadata.schema.to_arrow_schema().names
    return Outline(metadata.num_rows, tuple(n for n in names if not PANDAS_INDEX.fullmatch(n)))


def _plan(
    reader: _Reader, columns: Sequence[str], n_bytes: tuple[int, int], report: Report
) -> _Plan:
    outline = reader.outline
    if not columns:
        step = max(1, n_bytes[0] // (4 * max(1, outline.n_features)))
        starts = range(0, outline.n_rows, step)
        return _Plan([min(step, outline.n_rows - at) for at in starts], None)
    names = pl.DataFrame(schema=dict.fromkeys(outline.columns, pl.Null))
    keys = reader.columns(list(find_columns(names, columns)))
    groups = list(keyed_groups(keys, columns).values())
    is_scattered = not all(isinstance(rows, slice) for rows in groups)
    most = n_bytes[is_scattered] / (4 * max(1, outline.n_features))
    lengths: list[int] = []
    of_group = []
    for rows in groups:
        length = rows.stop - rows.start if isinstance(rows, slice) else len(rows)
        if lengths and lengths[-1] + length <= most:
            lengths[-1] += length
        else:
            lengths.append(length)
        of_group.append(len(lengths) - 1)
    if not is_scattered:
        return _Plan(lengths, None)
    report.notes.append(
        f"rows of one {' and '.join(columns)} do not lie together: the file was read"
        f" {len(lengths)} times, and rows come out group by group"
    )
    portion = np.empty(outline.n_rows, np.int32)
    for index, rows in zip(of_group, groups, strict=True):
        portion[rows] = index
    return _Plan(lengths, portion)


class _Reader:
    """A Parquet file, whose faults are those of a table."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._faults():
            self._footer = Footer.of(path)
            self.outline = _outline(self._footer)

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            raise TableError(
                f"{self._path} cannot be read as a table ({first_line(error)}): give a Parquet"
                " table"
            ) from error

    def columns(self, names: list[str]) -> pl.DataFrame:
        """Whole columns."""
        batches = list(self._batches(_SCAN_ROWS, names)) if names else []
        if not batches:
            return pl.DataFrame({name: [] for name in names})
        return pl.DataFrame(pa.Table.from_batches(batches))

    def portions(self, plan: _Plan) -> Iterator[pl.DataFrame]:
        """The portions in turn."""
        if plan.portion is None:
            yield from self._in_order(plan.lengths)
            return
        for index in range(len(plan.lengths)):
            at, chosen = 0, []
            for batch in self._batches(_SCAN_ROWS, self.outline.columns):
                rows = np.flatnonzero(plan.portion[at : at + batch.num_rows] == index)
                at += batch.num_rows
                if len(rows):
                    chosen.append(batch.take(pa.array(rows)))
            yield pl.DataFrame(pa.Table.from_batches(chosen))

    def _in_order(self, lengths: list[int]) -> Iterator[pl.DataFrame]:
        batches = self._batches(max(lengths, default=1), self.outline.columns)
        held: list[pa.RecordBatch] = []
        for length in lengths:
            while sum(batch.num_rows for batch in held) < length:
                held.append(next(batches))
            table = pa.Table.from_batches(held)
            held = table.slice(length).to_batches()
            yield pl.DataFrame(table.slice(0, length))

    def _batches(self, n_rows: int, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for group in range(self._footer.n_groups):  # one by one: each is let go of after it
            with self._faults():
                metadata = self._footer.metadata(group, group + 1)
                file = pq.ParquetFile(self._path, metadata=metadata)
            with file:
                batches = file.iter_batches(n_rows, columns=list(names))
                while True:
                    with self._faults():
                        batch = next(batches, None)
                    if batch is None:
                        break
                    yield batch
