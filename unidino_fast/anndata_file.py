"""Writes profiles as AnnData (`.h5ad`), for scanpy and its relatives; needs h5py, not anndata.

The layout is that of AnnData's on-disk format 0.1.0 (anndata.readthedocs.io, "On-disk format"):
X float32 (rows, features), obs the metadata, var the channel and index of each feature, and in
`uns` the provenance as JSON.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from unidino_fast.errors import UsageError
from unidino_fast.files import atomic
from unidino_fast.names import one_line
from unidino_fast.results import METADATA_PREFIX, feature_columns
from unidino_fast.tables import PROVENANCE_KEY, make_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

SUFFIX = ".h5ad"
_FEATURE = re.compile(r"(?P<channel>.+)_(?P<index>\d+)", re.DOTALL)
_NAMED_BY = ("Metadata_Plate", "Metadata_Well", "Metadata_Site", "Metadata_Time")
_MISSING = -1  # code of a cell without a value


def write_h5ad(frame: pl.DataFrame, path: Path, provenance: Mapping[str, Any]) -> None:
    """Writes a table of profiles as AnnData.

    Null features become NaN. A `/` in the name of a column, which HDF5 takes for a folder, becomes
    `_`. Rows are called `<plate>_<well>` (with site and time where there are any) if that tells
    them apart, else by their number. Features that are not called `<channel>_<index>` have an empty
    channel and the index -1.

    Raises:
        UsageError: h5py is not installed, a column holds lists, text has a zero byte, or two names
            differ in `/` alone.
        OutputError: the file cannot be written.
    """
    h5py = load_h5py()
    features = feature_columns(frame)
    metadata = frame.select(name for name in frame.columns if name.startswith(METADATA_PREFIX))
    obs = _renamed(metadata)
    values = frame.select(pl.col(features).cast(pl.Float32).fill_null(np.nan)).to_numpy()
    make_folder(path.parent)
    with atomic(path) as temporary, h5py.File(temporary, "w") as file:
        _tag(file, "anndata", "0.1.0")
        _array(file, "X", values.reshape(frame.height, len(features)))
        _frame(file, "obs", obs, _row_names(metadata))
        _frame(file, "var", _channels(features), features)
        for name in ("layers", "obsm", "obsp", "uns", "varm", "varp"):
            _tag(file.create_group(name), "dict", "0.1.0")
        said = json.dumps(provenance, sort_keys=True)
        _tag(file["uns"].create_dataset(PROVENANCE_KEY, data=said, dtype=_text()), "string")


def load_h5py() -> Any:
    """The package that writes HDF5.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise UsageError(
            "a .h5ad is written by h5py, which is not installed: pip install h5py, or name the"
            " output .parquet"
        ) from None
    return h5py


def _renamed(metadata: pl.DataFrame) -> pl.DataFrame:
    """The metadata under names that HDF5 can hold."""
    for name, dtype in metadata.schema.items():
        if dtype.is_nested():
            raise UsageError(
                f"column {one_line(name)} holds {dtype}, which a .h5ad has no room for: name the"
                " output .parquet"
            )
    names = [name.replace("/", "_") for name in metadata.columns]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(
            f"two columns become {one_line(twice)}, as a .h5ad has no / in names: rename one"
        )
    return metadata.rename(dict(zip(metadata.columns, names, strict=True)))


def _row_names(metadata: pl.DataFrame) -> list[str]:
    parts = [name for name in _NAMED_BY if name in metadata.columns]
    numbers = [str(row) for row in range(metadata.height)]
    if not {"Metadata_Plate", "Metadata_Well"} <= set(parts):
        return numbers
    joined = pl.concat_str(pl.col(parts).cast(pl.String), separator="_")
    names = metadata.select(joined.alias("name"))["name"]
    return names.to_list() if names.null_count() == 0 and names.is_unique().all() else numbers


def _channels(features: Iterable[str]) -> pl.DataFrame:
    """Channel and index of each feature."""
    found = [_FEATURE.fullmatch(name) for name in features]
    return pl.DataFrame(
        {
            "channel": pl.Series([f["channel"] if f else "" for f in found], dtype=pl.String),
            "index": pl.Series([int(f["index"]) if f else -1 for f in found], dtype=pl.Int64),
        }
    )


def _frame(file: Any, name: str, frame: pl.DataFrame, index: list[str]) -> None:
    group = file.create_group(name)
    _tag(group, "dataframe", "0.2.0")
    group.attrs["_index"] = "_index"
    group.attrs.create("column-order", np.array(frame.columns, dtype=object), dtype=_text())
    _texts(group, "_index", index)
    for column in frame:
        _column(group, column)


def _column(group: Any, column: pl.Series) -> None:
    name, dtype = column.name, column.dtype
    if dtype.is_float():
        numbers = column.cast(pl.Float32) if dtype == pl.Float32 else column.cast(pl.Float64)
        _array(group, name, numbers.fill_null(np.nan).to_numpy())
    elif dtype == pl.Boolean or dtype.is_integer():
        _numbers(group, column)
    elif column.null_count() or isinstance(dtype, pl.Categorical | pl.Enum):
        _categories(group, name, column.cast(pl.String))
    else:
        _texts(group, name, column.cast(pl.String).to_list())


def _numbers(group: Any, column: pl.Series) -> None:
    """Whole numbers or booleans; with a mask where some are missing."""
    if not column.null_count():
        _array(group, column.name, column.to_numpy())
        return
    is_boolean = column.dtype == pl.Boolean
    masked = group.create_group(column.name)
    _tag(masked, "nullable-boolean" if is_boolean else "nullable-integer", "0.1.0")
    _array(masked, "values", column.fill_null(False if is_boolean else 0).to_numpy())
    _array(masked, "mask", column.is_null().to_numpy())


def _categories(group: Any, name: str, column: pl.Series) -> None:
    """Text of which some is missing, which AnnData holds as codes."""
    known = sorted(column.drop_nulls().unique())
    code = {text: number for number, text in enumerate(known)}
    codes = [_MISSING if text is None else code[text] for text in column]
    coded = group.create_group(name)
    _tag(coded, "categorical", "0.2.0")
    coded.attrs["ordered"] = False
    _array(coded, "codes", np.array(codes, np.int32))
    _texts(coded, "categories", known)


def _array(group: Any, name: str, values: Any) -> None:
    _tag(group.create_dataset(name, data=values), "array")


def _texts(group: Any, name: str, values: list[str]) -> None:
    for text in values:
        if "\0" in text:
            raise UsageError(
                f"{one_line(text)!r} ({name}) has a zero byte, which a .h5ad has no room for: name"
                " the output .parquet"
            )
    held = np.array(values, dtype=object)
    _tag(group.create_dataset(name, data=held, dtype=_text()), "string-array")


def _text() -> Any:
    return load_h5py().string_dtype("utf-8")


def _tag(item: Any, kind: str, version: str = "0.2.0") -> None:
    """Says what something is, as AnnData's format wants it."""
    item.attrs["encoding-type"] = kind
    item.attrs["encoding-version"] = version
