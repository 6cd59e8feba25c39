"""Writes OME-Zarr plates (NGFF 0.4 on Zarr v2, 0.5 on v3): what `convert` and `demo` emit.

One array a field, axes c y x (z and t where a plate has them), one chunk a plane, blosc-zstd with
bit shuffle. The plate grows under a temporary name beside its place and is renamed when whole.
"""

from __future__ import annotations

import re
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import zarr
from numcodecs import Blosc
from zarr.codecs import BloscCodec

from unidino_fast.errors import OutputError, UsageError
from unidino_fast.files import reason_of
from unidino_fast.names import parse_well, row_letters

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from numpy.typing import NDArray

Ngff = Literal["0.4", "0.5"]

_AXES = ("cyx", "czyx", "tcyx", "tczyx")
_AXIS_TYPES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
_STORE_FILES = (".zgroup", ".zattrs", "zarr.json")
_FIELD = re.compile(r"[A-Za-z0-9]+")  # NGFF: a path holds letters and digits alone


class PlateWriter:
    """Writes one plate field by field; use as a context manager.

    Args:
        path: where the plate shall stand, normally `NAME.zarr`.
        name: plate name, as written to the metadata.
        channels: channel labels in array order.
        ngff: NGFF version; 0.4 is Zarr v2, 0.5 is Zarr v3.
        pixel_size_um: edge of a pixel in micrometres, where known.
        levels: resolution levels, each half the size of the one before (1 is no pyramid); an
            image too small for all of them has fewer.
        overwrite: replace the plate that stands at `path` (only once the new one is whole).

    Raises:
        OutputError: the place is taken or cannot be written.
        UsageError: fewer than one level.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        name: str,
        channels: Sequence[str],
        ngff: Ngff = "0.4",
        pixel_size_um: float | None = None,
        levels: int = 1,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        self.name = name
        self.channels = list(channels)
        self.ngff = ngff
        self.pixel_size_um = pixel_size_um
        self.levels = levels
        self.overwrite = overwrite
        # Its own name for each writer: two that run at once never write into one another.
        self._partial = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex[:8]}.partial")
        self._made: list[Path] = []
        self._thread = ThreadPoolExecutor(1)
        self._fields: dict[str, list[str]] = {}
        if levels < 1:
            raise UsageError(f"a plate has at least 1 resolution level, not {levels}")

    def __enter__(self) -> Self:
        check_output(self.path, overwrite=self.overwrite)
        self._made = [place for place in self.path.parents if not place.exists()]
        try:
            self._in_whole(self._partial.mkdir, parents=True)
        except OSError as error:
            self._clean()
            raise OutputError(
                f"{self.path.parent} cannot be written ({error.strerror}): choose another --out"
            ) from error
        except BaseException:
            self._clean()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._clean()
            return
        try:
            self._in_whole(self._finish)
        except OutputError:
            self._clean()
            raise
        except OSError as fault:
            self._clean()
            raise _not_written(self.path, fault) from fault
        except BaseException:
            self._clean()
            raise
        self._thread.shutdown()

    def add_field(self, well: str, field: str, pixels: NDArray[Any], *, axes: str = "cyx") -> None:
        """Writes one field of view, one chunk a plane.

        Args:
            well: `A01` or any form of it.
            field: path of the field in its well, such as `0`.
            pixels: the array in the dtype to store, its axes as `axes` says.
            axes: `cyx`, `czyx`, `tcyx` or `tczyx`.

        Raises:
            UsageError: no well name, a field written before, or pixels that do not fit.
            OutputError: the disk does not take it.
        """
        position = parse_well(well)
        if position is None:
            raise UsageError(f"{well!r} is no well name: use letters and a number such as A01")
        key = f"{position.row_letters}/{position.column}"
        self._check_field(key, field, pixels, axes)
        try:
            self._in_whole(self._write_image, f"{key}/{field}", pixels, axes)
        except OSError as fault:
            raise _not_written(self.path, fault) from fault
        self._fields.setdefault(key, []).append(field)

    def _check_field(self, key: str, field: str, pixels: NDArray[Any], axes: str) -> None:
        if axes not in _AXES:
            raise UsageError(f"axes {axes!r} are not written: use one of {', '.join(_AXES)}")
        if pixels.ndim != len(axes) or 0 in pixels.shape:
            raise UsageError(f"pixels of shape {pixels.shape} have not the axes {axes}")
        n_channels = pixels.shape[axes.index("c")]
        if n_channels != len(self.channels):
            raise UsageError(
                f"field {key}/{field} has {n_channels} channels and the plate {len(self.channels)}"
            )
        if not _FIELD.fullmatch(field):
            raise UsageError(f"field name {field!r} is not written: use letters and digits")
        if field in self._fields.get(key, ()):
            raise UsageError(f"field {key}/{field} is written already: give each its own name")

    def _in_whole(self, step: Callable[..., None], *arguments: object, **named: object) -> None:
        """Runs a step in the writer's thread, so that an interruption waits for its end.

        Zarr writes chunks in threads that outlive an interruption: what cleans up must come after
        them. The thread is one for all steps: an executor that is interrupted while it starts a
        thread does not know of that thread, and waits for none.
        """
        self._thread.submit(step, *arguments, **named).result()

    def _clean(self) -> None:
        """Removes what this writer made, folders above the plate included, once nothing writes."""
        self._thread.shutdown()
        shutil.rmtree(self._partial, ignore_errors=True)
        for place in self._made:
            try:
                place.rmdir()
            except OSError:  # not made, or something else stands in it by now
                return

    def _put_in_place(self) -> None:
        """Renames the whole plate to its name; what stood there goes only after that."""
        if not self.path.exists():
            self._partial.rename(self.path)
            return
        check_output(self.path, overwrite=self.overwrite)
        old = self._partial.with_suffix(".old")
        self.path.rename(old)
        try:
            self._partial.rename(self.path)
        except BaseException:
            old.rename(self.path)
            raise
        shutil.rmtree(old, ignore_errors=True)

    def _finish(self) -> None:
        self._write_plate_metadata()
        self._put_in_place()

    def _write_image(self, image: str, pixels: NDArray[Any], axes: str) -> None:
        level, n_levels = pixels, 0
        for index in range(self.levels):
            if index > 0:
                if min(level.shape[-2:]) < 2:
                    break
                level = _half(level)
            self._write_array(f"{image}/{index}", level, axes)
            n_levels += 1
        self._write_group(image, self._image_attributes(pixels.dtype, axes, n_levels))

    def _write_array(self, path: str, pixels: NDArray[Any], axes: str) -> None:
        shared: dict[str, Any] = {
            "shape": pixels.shape,
            "chunks": (1,) * (pixels.ndim - 2) + pixels.shape[-2:],
            "dtype": pixels.dtype,
            "fill_value": 0,
        }
        store = str(self._partial / path)
        if self.ngff == "0.4":
            array = zarr.create_array(
                store,
                zarr_format=2,
                compressors=Blosc("zstd", clevel=3, shuffle=Blosc.BITSHUFFLE),
                chunk_key_encoding={"name": "v2", "separator": "/"},
                **shared,
            )
        else:
            array = zarr.create_array(
                store,
                zarr_format=3,
                compressors=BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle"),
                dimension_names=tuple(axes),
                **shared,
            )
        array[...] = pixels

    def _write_group(self, path: str, attributes: dict[str, Any]) -> None:
        if self.ngff == "0.5":
            attributes = {"ome": {"version": "0.5", **attributes}}
        zarr.create_group(
            str(self._partial / path),
            zarr_format=2 if self.ngff == "0.4" else 3,
            attributes=attributes,
        )

    def _version(self) -> dict[str, str]:
        """NGFF 0.4 repeats the version in every object; 0.5 says it once."""
        return {"version": "0.4"} if self.ngff == "0.4" else {}

    def _image_attributes(self, dtype: np.dtype[Any], axes: str, levels: int) -> dict[str, Any]:
        unit = {} if self.pixel_size_um is None else {"unit": "micrometer"}
        size = self.pixel_size_um or 1.0
        datasets = [
            {
                "path": str(index),
                "coordinateTransformations": [
                    {
                        "type": "scale",
                        "scale": [1.0] * (len(axes) - 2) + [size * 2**index, size * 2**index],
                    }
                ],
            }
            for index in range(levels)
        ]
        named = [
            {"name": axis, "type": _AXIS_TYPES[axis], **(unit if axis in "yx" else {})}
            for axis in axes
        ]
        top = float(np.iinfo(dtype).max) if dtype.kind in "iu" else 1.0
        window = {"min": 0.0, "max": top, "start": 0.0, "end": top}
        channels = [
            {"label": label, "color": "FFFFFF", "active": True, "window": window}
            for label in self.channels
        ]
        return {
            "multiscales": [
                {"name": "field", "axes": named, "datasets": datasets, **self._version()}
            ],
            "omero": {"channels": channels, **self._version()},
        }

    def _write_plate_metadata(self) -> None:
        wells = sorted(
            (position, key)
            for key in self._fields
            if (position := parse_well(key.replace("/", ""))) is not None
        )
        rows = sorted({position.row for position, _ in wells})
        columns = sorted({position.column for position, _ in wells})
        row_groups = [row_letters(row) for row in rows]
        for row in row_groups:
            self._write_group(row, {})
        for _, key in wells:
            images = [{"path": field} for field in self._fields[key]]
            self._write_group(key, {"well": {"images": images, **self._version()}})
        plate = {
            "name": self.name,
            "columns": [{"name": str(column)} for column in columns],
            "rows": [{"name": row} for row in row_groups],
            "wells": [
                {
                    "path": key,
                    "rowIndex": rows.index(position.row),
                    "columnIndex": columns.index(position.column),
                }
                for position, key in wells
            ],
            "field_count": max((len(fields) for fields in self._fields.values()), default=0),
            "version": self.ngff,
        }
        self._write_group("", {"plate": plate})


def check_output(path: Path, *, overwrite: bool) -> None:
    """Raises where a plate cannot go: the place is taken, or holds something that is no plate.

    Raises:
        OutputError: the place is taken; `overwrite` replaces Zarr stores and empty folders alone.
    """
    try:
        if not (path.exists() or path.is_symlink()):
            return
        is_store = path.is_dir() and any((path / name).is_file() for name in _STORE_FILES)
        is_empty = path.is_dir() and not any(path.iterdir())
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error
    if not overwrite:
        raise OutputError(f"{path} exists: use --overwrite or another --out")
    if path.is_symlink() or not (is_store or is_empty):
        raise OutputError(f"{path} is no Zarr store, so --overwrite leaves it: use another --out")


def _not_written(path: Path, fault: OSError) -> OutputError:
    return OutputError(
        f"{path} cannot be written ({reason_of(fault)}): free the disk or choose another --out"
    )


def _half(pixels: NDArray[Any]) -> NDArray[Any]:
    """The next pyramid level: means of 2 x 2 pixels, odd edges dropped, dtype kept.

    Both edges must be 2 pixels or more.
    """
    y, x = (size // 2 for size in pixels.shape[-2:])
    blocks = pixels[..., : y * 2, : x * 2].reshape(*pixels.shape[:-2], y, 2, x, 2)
    means = blocks.mean(axis=(-3, -1), dtype=np.float64)
    halved: NDArray[Any] = np.rint(means) if pixels.dtype.kind in "iu" else means
    return halved.astype(pixels.dtype)
