"""A profile table taken apart: metadata as Polars has it, features as one matrix.

Letters: N rows, F features. The matrix is (F, N), so that the values of a feature lie side by
side, as they do in Polars and Arrow and as sorting wants them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import polars as pl

from unidino_fast.errors import TableError
from unidino_fast.names import counted
from unidino_fast.query import parse_query
from unidino_fast.results import METADATA_PREFIX, feature_columns
from unidino_fast.tables import check_polars

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    Matrix: TypeAlias = NDArray[np.floating[Any]]
    """Values, float32 or float64, NaN where the table holds null."""
    Rows: TypeAlias = NDArray[np.int64] | slice
    """Row numbers; a slice where they follow one another, which costs no copy."""
    Mask: TypeAlias = NDArray[np.bool_]

ALL_ROWS = "all rows"
"""What the group of all rows is called."""
ROW = "\0row"
"""A column name that no table has."""
_FEATURES_A_BLOCK = 128
"""What one thread takes at a time: its values and their copies stay in the processor's cache."""
_LARGEST = float(np.finfo(np.float32).max)
_LARGEST_SQUARED = 1e18
"""Sums of squares of larger values leave the range of float32."""


@dataclass(frozen=True, slots=True)
class Neutralised:
    """Features of one group whose spread is zero and that were set to 0."""

    group: str
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Dropped:
    """Features that an operation of feature selection took away."""

    operation: str
    features: tuple[str, ...]


@dataclass(slots=True)
class Report:
    """What was done to a table that a person should know.

    Attributes:
        neutralised: features without spread, by group.
        dropped: features that selection took away, by operation.
        notes: anything else, a line each.
        n_zero_rows: rows that `l2` found without length.
    """

    neutralised: list[Neutralised] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    n_zero_rows: int = 0

    def add_zero_rows(self, count: int) -> None:
        """Counts rows without length; one note, however many portions there are."""
        if not count:
            return
        if self.n_zero_rows:
            self.notes.remove(self._of_zero_rows())
        self.n_zero_rows += count
        self.notes.append(self._of_zero_rows())

    def _of_zero_rows(self) -> str:
        one = self.n_zero_rows == 1
        return (
            f"{counted(self.n_zero_rows, 'row')} {'is' if one else 'are'} all zeros and"
            f" {'has' if one else 'have'} no direction"
        )

    def lines(self) -> list[str]:
        """One line for each thing."""
        return [*map(describe_neutralised, self.neutralised), *self.notes]


def describe_neutralised(group: Neutralised) -> str:
    """One line for a person."""
    shown = ", ".join(group.features[:3]) + (", ..." if len(group.features) > 3 else "")
    one = len(group.features) == 1
    subject = f"{counted(len(group.features), 'feature')} {'has' if one else 'have'}"
    return f"{subject} no spread on {group.group} and {'was' if one else 'were'} set to 0: {shown}"


@dataclass(frozen=True, slots=True)
class Profiles:
    """A table taken apart.

    Attributes:
        metadata: every column with the `Metadata_` prefix.
        features: names, F.
        values: (F, N), NaN where null; float32 where the table has nothing finer. Each step may
            write into it.
        order: all columns as they stood, where features were not simply the last.
    """

    metadata: pl.DataFrame
    features: tuple[str, ...]
    values: Matrix
    order: tuple[str, ...] = ()

    @property
    def height(self) -> int:
        """N."""
        return int(self.values.shape[1])

    def with_features(self, features: Iterable[str], values: Matrix) -> Profiles:
        """The same rows with other features (F, N)."""
        return replace(self, features=tuple(features), values=values, order=())

    def keeping(self, keep: Mask) -> Profiles:
        """Some of the features; `keep` is (F,)."""
        gone = {name for name, stays in zip(self.features, keep, strict=True) if not stays}
        return replace(
            self,
            features=tuple(name for name in self.features if name not in gone),
            values=self.values[keep],
            order=tuple(name for name in self.order if name not in gone),
        )

    def frame(self) -> pl.DataFrame:
        """One table again, features float32."""
        features = feature_frame(self.features, self.values)
        if self.metadata.width == 0:
            return features
        whole = (
            pl.concat([self.metadata, features], how="horizontal")
            if self.features
            else self.metadata
        )
        return whole.select(self.order) if self.order else whole

    def to_arrow(self) -> pa.Table:
        """As `frame().to_arrow()`, in three fifths of the time where no feature is null."""
        import pyarrow as pa

        values = self.values
        is_plain = values.dtype == np.float32 and values.size and not self.order
        if not (is_plain and np.isfinite((values.min(), values.max())).all()):
            return self.frame().to_arrow()
        told = self.metadata.to_arrow()
        whole = pa.array(np.ascontiguousarray(values).reshape(-1))
        columns = [whole.slice(at * self.height, self.height) for at in range(len(values))]
        names = [*told.column_names, *self.features]
        return pa.Table.from_arrays([*told.columns, *columns], names)


def take_apart(frame: pl.DataFrame) -> Profiles:
    """A profile table as metadata and a matrix of its own.

    Raises:
        TableError: a feature is no number, not finite, or beyond float32.
        UsageError: it is no Polars DataFrame.
    """
    check_polars(frame)
    names = tuple(feature_columns(frame))
    told = [name for name in frame.columns if name.startswith(METADATA_PREFIX)]
    metadata = frame[told] if told else frame.drop(names)  # which keeps the number of rows
    plain = frame.columns == [*metadata.columns, *names]
    return Profiles(metadata, names, _matrix(frame, names), () if plain else tuple(frame.columns))


def joined(portions: Iterable[Profiles]) -> Profiles:
    """Rows of one table after another, of which there is one at least."""
    held = list(portions)
    return replace(
        held[0],
        metadata=pl.concat(portion.metadata for portion in held),
        values=np.concatenate([portion.values for portion in held], axis=1),
    )


def _matrix(frame: pl.DataFrame, names: Sequence[str]) -> Matrix:
    """Features (F, N), NaN where null."""
    if not names:
        return np.empty((0, frame.height), np.float32)
    chosen = frame[list(names)]  # `drop` plans a query, which takes longer than all else here
    if any(dtype != pl.Float32 for dtype in chosen.dtypes):
        chosen = _as_numbers(chosen)
    values: Matrix = chosen.to_numpy(order="fortran", writable=True).T
    if not values.size:
        return values
    lowest, highest = values.min(), values.max()
    if not (lowest >= -_LARGEST and highest <= _LARGEST):
        _refuse_what_is_not_finite(chosen, values)
        _refuse_what_is_too_large(names, values, "the table")
        lowest, highest = np.fmin.reduce(values, None), np.fmax.reduce(values, None)  # nulls alone
    if max(-lowest, highest) > _LARGEST_SQUARED:
        return values.astype(np.float64)
    return values


def _as_numbers(chosen: pl.DataFrame) -> pl.DataFrame:
    """All features of one type: float64, or float32 where nothing is lost by it.

    The types alone decide, not the values, so that portions of a table fare like the whole.
    """
    n_null = chosen.null_count().row(0)
    small = {pl.Float32, pl.Int8, pl.Int16, pl.UInt8, pl.UInt16}
    fine = False
    for column, nulls in zip(chosen.iter_columns(), n_null, strict=True):
        if column.dtype.is_numeric():
            fine |= column.dtype not in small
        elif nulls < chosen.height:  # else a channel that nothing has, whatever its type
            raise TableError(
                f"column {column.name} is {column.dtype}, but columns without the prefix"
                f" {METADATA_PREFIX} are features: rename or drop it"
            )
    return chosen.select(pl.all().cast(pl.Float64 if fine else pl.Float32))


def _refuse_what_is_not_finite(chosen: pl.DataFrame, values: Matrix) -> None:
    """Stops at NaN and infinity; null, which is NaN in the matrix, is none of them."""
    n_bad = (~np.isfinite(values)).sum(axis=1) - np.array(chosen.null_count().row(0))
    if not n_bad.any():
        return
    worst = int(n_bad.argmax())
    others = f" ({np.count_nonzero(n_bad)} features are)" if np.count_nonzero(n_bad) > 1 else ""
    raise TableError(
        f"feature {chosen.columns[worst]} is NaN or infinite in {n_bad[worst]} of {chosen.height}"
        f" rows{others}: drop it"
    )


def _refuse_what_is_too_large(names: Sequence[str], values: Matrix, place: str) -> None:
    """Stops at the first feature with a value that float32 would make infinite."""
    if max(np.fmax.reduce(values, None), -np.fmin.reduce(values, None)) > _LARGEST:
        n_large = (np.abs(values) > _LARGEST).sum(axis=1)
        at = int(n_large.argmax())
        raise TableError(
            f"feature {names[at]} of {place} is beyond {_LARGEST:.2g}, the range of float32, in"
            f" {n_large[at]} of {values.shape[1]} rows: divide it by a constant or drop it"
        )


def feature_frame(names: Sequence[str], values: Matrix) -> pl.DataFrame:
    """Feature columns, float32, of a matrix (F, N) that is NaN where they are null.

    The columns are slices of one buffer: 1,920 buffers of their own take longer to make than the
    numbers in them.

    Raises:
        TableError: a value is beyond float32, as pycytominer's rule can make it.
    """
    with np.errstate(over="ignore"):
        whole = np.ascontiguousarray(values, np.float32)
    n = whole.shape[1]
    if whole.size and not np.isfinite((whole.min(), whole.max())).all():
        _refuse_what_is_too_large(names, whole, "the result")
    buffer = pl.Series("", whole.reshape(-1))
    columns = [buffer.slice(at * n, n).alias(name) for at, name in enumerate(names)]
    frame = pl.DataFrame(columns)
    lacking = [name for name, lacks in zip(names, _has_nan(whole), strict=True) if lacks]
    return frame.with_columns(pl.col(lacking).fill_nan(None)) if lacking else frame


def _has_nan(values: Matrix) -> Mask:
    """Which features hold NaN (F,)."""
    lowest: Matrix = values.min(axis=1, initial=np.inf)  # NaN wins
    return np.isnan(lowest)


def refuse_nulls(profiles: Profiles, method: str) -> None:
    """Stops where a method that mixes features meets one that some rows lack.

    Raises:
        TableError: there is one.
    """
    lacking = _has_nan(profiles.values)
    if lacking.any():
        at = int(lacking.argmax())
        n_null = int(np.isnan(profiles.values[at]).sum())
        raise TableError(
            f"feature {profiles.features[at]} is null in {n_null} of {profiles.height} rows, and"
            f" {method} mixes features: drop it first (select na in a recipe), or those rows"
        )


def selected_rows(profiles: Profiles, samples: str | None) -> Mask:
    """Which rows fit a query on metadata or features as they are now (N,); all for None.

    Raises:
        UsageError: the text is no query.
        TableError: it does not fit the table.
    """
    if samples is None:
        return np.ones(profiles.height, dtype=bool)
    frame = profiles.metadata
    named = np.array([name in samples for name in profiles.features], dtype=bool)
    if named.any():
        frame = Profiles(frame, profiles.features, profiles.values).keeping(named).frame()
    fits = frame.select(parse_query(samples, frame.schema).alias(ROW))[ROW]
    return fits.to_numpy().astype(bool)


def within(rows: Rows, selected: Mask) -> Mask | None:
    """Which of some rows are selected (n,); None where all are."""
    chosen = selected[rows]
    return None if chosen.all() else chosen


def no_sample(group: str, samples: str | None) -> TableError:
    """The error for a group without a row that fits."""
    if samples is None:
        return TableError("the table has no rows: give one that has")
    place = "" if group == ALL_ROWS else f" of {group}"
    return TableError(f"no row{place} fits the samples {samples!r}: widen the query")


def blocks(n_features: int) -> list[slice]:
    """Features in portions that stay in the processor's cache."""
    step = _FEATURES_A_BLOCK
    return [slice(at, min(at + step, n_features)) for at in range(0, n_features, step)]


def numbered(stem: str, count: int) -> list[str]:
    """Names of features that belong to no channel: `TVN_000`, `TVN_001` ..."""
    return [f"{stem}_{index:03d}" for index in range(count)]
