"""Image files to an OME-Zarr plate: `convert_plate`.

A layout turns file names or a table into one index (plate, well, site, channel, z, time, path); the
index is checked and planned into fields; headers are checked; then one field at a time is written.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from unidino_fast.convert.images import (
    IMAGE_SUFFIXES,
    Header,
    describe,
    is_url,
    quiet_tifffile,
    read_header,
    read_pixels,
)
from unidino_fast.convert.index import FieldPlan, Index, list_some, pick_plate, plan_fields
from unidino_fast.convert.layouts import (
    Source,
    imagexpress_index,
    list_source,
    opera_index,
    regex_index,
)
from unidino_fast.convert.tables import find_table, is_table, table_index
from unidino_fast.errors import ConvertError, UsageError
from unidino_fast.names import one_line, plate_stem
from unidino_fast.ngff import PIXEL_DTYPES
from unidino_fast.writing import Ngff, PlateWriter, check_output

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

Layout = Literal["auto", "opera", "imagexpress", "cpg", "regex"]

_N_READERS = 8  # files of one field read at the same time


@dataclass(frozen=True)
class ConvertSummary:
    """What `convert_plate` wrote: `shape` is (Y, X), `skipped` counts image files left out."""

    path: Path
    plate: str
    layout: str
    n_wells: int
    n_fields: int
    channels: tuple[str, ...]
    shape: tuple[int, int]
    dtype: str
    n_files: int
    skipped: int
    warnings: tuple[str, ...]


def convert_plate(
    source: str | Path,
    out: str | Path,
    *,
    layout: Layout = "auto",
    pattern: str | None = None,
    metadata: str | Path | None = None,
    ngff: Ngff = "0.4",
    plate: str | None = None,
    levels: int = 1,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ConvertSummary:
    r"""Writes the image files of one plate as an OME-Zarr plate.

    Every file is checked by its header before a pixel is written, and the plate appears under its
    name only when whole. Fields are named after their sites where these are numbers (site 5 is
    field `5`), else `0`, `1`, ...; channels stand in natural order (`ch2` before `ch10`), several
    planes or time points become axes z and t. Files behind a URL are checked as they are read.

    Args:
        source: folder of the images, or an image table (`load_data.csv`) with the images beside it.
        out: where the plate shall stand, normally `NAME.zarr`.
        layout: how the files are named; `auto` finds out.
        pattern: for `regex`, an expression searched in the paths relative to `source`, such as
            `_(?P<well>[A-P]\d\d)_s(?P<site>\d)_w(?P<channel>\d)`; groups plate, well (or row and
            column), site, channel, z, time.
        metadata: for `cpg`, the image table when it is not in the source folder.
        ngff: NGFF version of the output.
        plate: picks one of several plates, or names the plate where files do not.
        levels: resolution levels.
        overwrite: replace the plate that stands at `out`.
        progress: called with fields done and fields in all.

    Raises:
        UsageError: options that do not fit together or the source.
        ConvertError: files that make no plate, or cannot be read.
        OutputError: `out` is taken or cannot be written.
    """
    folder, table = _places(Path(source), None if metadata is None else Path(metadata))
    layout = _settle_layout(layout, pattern, table)
    target = Path(out)
    if ngff not in get_args(Ngff):
        raise UsageError(f"ngff {ngff!r} is not written: use {' or '.join(get_args(Ngff))}")
    if folder.resolve().is_relative_to(target.resolve()):
        raise UsageError(f"--out {out} is or holds the source: choose another place")
    check_output(target, overwrite=overwrite)
    with quiet_tifffile():
        source_files = list_source(folder, plate_stem(target.name))
        index = _find_index(source_files, layout, pattern, table, plate)
        name, index = pick_plate(index, plate)
        plan = plan_fields(index, name)
        name = one_line(name) or "plate"
        header = _common_header(plan)
        planes = _merge_planes(plan, header)
        channels = _labels(plan, header)
        facts = plan.facts
        writer = PlateWriter(
            target,
            name=name,
            channels=channels,
            ngff=ngff,
            pixel_size_um=facts.pixel_size_um or header.pixel_size_um,
            levels=levels,
            overwrite=overwrite,
        )
        with writer, ThreadPoolExecutor(_N_READERS) as pool:
            _write_fields(writer, plan, header, planes, pool, progress)
    return ConvertSummary(
        path=target,
        plate=name,
        layout=index.layout,
        n_wells=len({one.well for one in plan.fields}),
        n_fields=len(plan.fields),
        channels=tuple(channels),
        shape=header.shape,
        dtype=header.dtype.name,
        n_files=plan.n_files,
        skipped=index.skipped,
        warnings=tuple(one_line(warning) for warning in index.warnings),
    )


def _places(source: Path, metadata: Path | None) -> tuple[Path, Path | None]:
    """The folder of the images and the image table, where one was named."""
    if metadata is not None and not metadata.is_file():
        raise UsageError(f"--metadata {metadata} is no file: check the path")
    if source.is_dir():
        return source, metadata
    if not source.exists():
        raise UsageError(f"source {source} does not exist: check the path")
    if not is_table(source):
        raise UsageError(f"source {source} is no folder and no .csv: give the folder of the images")
    if metadata is not None:
        raise UsageError(f"source {source} is a table and so is --metadata: give one of them")
    return source.parent, source


def _settle_layout(layout: Layout, pattern: str | None, table: Path | None) -> Layout:
    """The layout that the options imply; `auto` only where they leave it open."""
    if layout not in get_args(Layout):
        raise UsageError(f"layout {layout!r} is unknown: use one of {', '.join(get_args(Layout))}")
    if pattern is not None and layout not in ("auto", "regex"):
        raise UsageError(f"--pattern belongs to --layout regex, not {layout}")
    if pattern is not None and table is not None:
        raise UsageError("--pattern and an image table exclude each other: leave one out")
    if table is not None and layout not in ("auto", "cpg"):
        raise UsageError(f"an image table belongs to --layout cpg, not {layout}: leave one out")
    if layout == "regex" and pattern is None:
        raise UsageError(r"--layout regex needs --pattern, such as '(?P<well>[A-P]\d\d)'")
    if layout == "auto" and (pattern is not None or table is not None):
        return "regex" if pattern is not None else "cpg"
    return layout


def _find_index(
    source: Source, layout: Layout, pattern: str | None, table: Path | None, plate: str | None
) -> Index:
    """The index that the layout finds."""
    if table is None and layout in ("auto", "cpg"):
        table = find_table(source.folder)
    if table is not None:
        return table_index(source, table, plate)
    if layout == "cpg":
        raise ConvertError(
            f"{source.folder} holds no load_data.csv: name the image table with --metadata CSV"
        )
    if not source.files:
        endings = ", ".join(IMAGE_SUFFIXES)
        raise ConvertError(f"{source.folder} holds no image files ({endings}): check the source")
    if pattern is not None:
        return regex_index(source, pattern)
    index = None
    if layout in ("auto", "opera"):
        index = opera_index(source)
    if index is None and layout in ("auto", "imagexpress"):
        index = imagexpress_index(source)
    if index is None:
        raise ConvertError(_nothing_fits(source, layout))
    return index


def _nothing_fits(source: Source, layout: Layout) -> str:
    looked_for = {
        "opera": "Opera names (r01c01f01p01-ch1sk1fk1fl1.tiff)",
        "imagexpress": "ImageXpress names (NAME_E07_s1_w1<GUID>.tif)",
    }
    if layout == "auto":
        wanted = f"{', '.join(looked_for.values())} or a load_data.csv"
    else:
        wanted = looked_for[layout]
    return (
        f"none of {len(source.files)} image files under {source.folder} fits: looked for {wanted}; "
        f"the first is {source.files[0]}; use --layout regex --pattern "
        r"'(?P<well>[A-P]\d\d)_s(?P<site>\d)_w(?P<channel>\d)' made to fit the names"
    )


def _common_header(plan: FieldPlan) -> Header:
    """The header that all files share, read from every local file.

    Raises:
        ConvertError: a file cannot be read or differs from the first.
    """
    paths = [path for one in plan.fields for path in one.paths]
    local = [path for path in paths if not is_url(path)]
    first = read_header(paths[0])
    if first.dtype.newbyteorder("=").name not in PIXEL_DTYPES:
        raise ConvertError(
            f"{paths[0]} holds pixels of {first.dtype.name}, but plates hold"
            f" {', '.join(PIXEL_DTYPES)}: save the images as one of them"
        )
    different: dict[str, str] = {}
    with ThreadPoolExecutor(_N_READERS) as pool:
        for path, header in zip(local, pool.map(read_header, local), strict=True):
            if describe(header) != describe(first):
                different[path] = describe(header)
    if different:
        odd = [f"{path} is {text}" for path, text in different.items()]
        raise ConvertError(
            f"images of one plate have one size and dtype: {paths[0]} is {describe(first)}, but "
            f"{list_some(odd)}; convert them apart or take them out of the source"
        )
    return first


def _merge_planes(plan: FieldPlan, header: Header) -> tuple[int, int, int]:
    """(T, C, Z) of a field: each axis runs over the files or inside them, never both."""
    across = (len(plan.times), len(plan.channels), len(plan.planes))
    for axis, files, inside in zip(("time", "channel", "z"), across, header.planes, strict=True):
        if files > 1 and inside > 1:
            raise ConvertError(
                f"file names tell {files} {axis} values and each file holds {inside}, such as "
                f"{plan.fields[0].paths[0]}: save the files with one page each"
            )
    t, c, z = (files * inside for files, inside in zip(across, header.planes, strict=True))
    return t, c, z


def _labels(plan: FieldPlan, header: Header) -> list[str]:
    """Channel labels: the microscope's where it told, else the names that the files bear.

    Each is one printable line; where two would be alike, all are `ch0`, `ch1`, ...
    """
    if header.planes[1] == 1:
        for names in ([plan.facts.labels.get(n, n) for n in plan.channels], plan.channels):
            labels = [one_line(name) for name in names]
            if all(labels) and len(set(labels)) == len(labels):
                return labels
    return [f"ch{index}" for index in range(header.planes[1] * len(plan.channels))]


def _write_fields(
    writer: PlateWriter,
    plan: FieldPlan,
    header: Header,
    planes: tuple[int, int, int],
    pool: ThreadPoolExecutor,
    progress: Callable[[int, int], None] | None,
) -> None:
    t, c, z = planes
    axes = f"{'t' if t > 1 else ''}c{'z' if z > 1 else ''}yx"
    shape = [n for n, axis in zip((t, c, z), "tcz", strict=True) if axis in axes]
    across = (len(plan.times), len(plan.channels), len(plan.planes))
    pixels = np.empty((*planes, *header.shape), header.dtype)  # (T, C, Z, Y, X)

    def read(job: tuple[int, str]) -> None:
        index, path = job
        place = np.unravel_index(index, across)
        target = tuple(
            slice(int(at) * inside, (int(at) + 1) * inside)
            for at, inside in zip(place, header.planes, strict=True)
        )
        pixels[target] = read_pixels(path, header)

    for done, one in enumerate(plan.fields):
        for _ in pool.map(read, enumerate(one.paths)):
            pass
        field: NDArray[Any] = pixels.reshape(*shape, *header.shape)
        writer.add_field(one.well, one.name, field, axes=axes)
        if progress is not None:
            progress(done + 1, len(plan.fields))
