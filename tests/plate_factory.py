"""Writes small plates in every layout that real writers use, and says which pixels they hold.

Arrays are written by zarr-python, all other metadata by hand. Below stand the checks that many
tests make of a plate.
"""

from __future__ import annotations

import itertools
import json
import math
import zipfile
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from numcodecs import Blosc as Blosc2
from numcodecs import GZip, Zlib, Zstd
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, ZstdCodec

from unidino_fast.errors import PlateError, UnidinoError
from unidino_fast.plate import open_plate
from unidino_fast.reading import FieldReader

if TYPE_CHECKING:
    from unidino_fast.plate_model import Plate

SIZES = {"t": 2, "c": 3, "z": 4, "y": 45, "x": 51}
TYPES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}


@dataclass(frozen=True)
class Layout:
    """How a field is stored; the default is a plain 0.4 plate."""

    zarr_format: int = 2
    ngff: str | None = "0.4"
    axes: str = "cyx"
    sizes: dict[str, int] = field(default_factory=dict)
    dtype: str = "<u2"
    chunks: tuple[int, ...] | None = None
    shards: tuple[int, ...] | None = None
    codec: str = "blosc-zstd-bitshuffle"
    crc32c: bool = False
    order: str = "C"
    separator: str = "/"
    v2_keys: bool = False
    fill_value: float | None = 0
    absent: tuple[tuple[int, ...], ...] = ()
    axes_style: str = "typed"  # upper, untyped, strings, none, systems
    dataset: str = "0"
    n_datasets: int = 1
    labels: tuple[Any, ...] | None = ("DNA", "ER", "AGP")
    pixel_size: float | None = 0.65
    unit: str | None = "micrometer"

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple({**SIZES, **self.sizes}[axis] for axis in self.axes)

    @property
    def grid(self) -> tuple[int, ...]:
        """Shape of a stored object."""
        return self.shards or self.chunks or (1,) * (len(self.axes) - 2) + self.shape[-2:]


def write_plate(
    root: Path,
    wells: dict[str, list[Any]] | None = None,
    layout: Layout | None = None,
    *,
    name: str | None = "plate one",
    **changes: Any,
) -> dict[str, np.ndarray]:
    """Writes a plate; gives the pixels of each field by its path (`A/1/0`).

    Args:
        root: the plate's root.
        wells: fields by well path: names, or (name, acquisition), or (name, acquisition, Layout).
        layout: of fields without one of their own.
        name: in the plate's metadata.
        changes: to the layout.
    """
    layout = replace(layout or Layout(), **changes)
    wells = {"A/1": ["0"], "B/2": ["0"]} if wells is None else wells
    pixels = {}
    rows = sorted({path.split("/")[0] for path in wells})
    columns = sorted({path.split("/")[1] for path in wells})
    entries = []
    for path, listed in wells.items():
        row, column = path.split("/")[:2]
        entries.append(
            {"path": path, "rowIndex": rows.index(row), "columnIndex": columns.index(column)}
        )
        images = []
        for item in listed:
            site, acquisition, own = (
                (*item, None, None)[:3] if type(item) is tuple else (item, None, None)
            )
            seed = zlib.crc32(f"{path}/{site}".encode())
            pixels[f"{path}/{site}"] = write_image(root / path / site, own or layout, seed)
            images.append({"path": site})
            if acquisition is not None:
                images[-1]["acquisition"] = acquisition
        write_group(root / path, layout, {"well": {"images": images, "version": layout.ngff}})
    plate: dict[str, Any] = {
        "columns": [{"name": column} for column in columns],
        "rows": [{"name": row} for row in rows],
        "wells": entries,
    }
    if layout.ngff is not None:
        plate["version"] = layout.ngff
    if name is not None:
        plate["name"] = name
    write_group(root, layout, {"plate": plate})
    return pixels


def write_group(path: Path, layout: Layout, attributes: dict[str, Any]) -> None:
    """A group's JSON by hand."""
    path.mkdir(parents=True, exist_ok=True)
    if layout.zarr_format == 2:
        write_json(path / ".zgroup", {"zarr_format": 2})
        write_json(path / ".zattrs", attributes)
    else:
        ome = {"ome": {"version": layout.ngff, **attributes}}
        write_json(path / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": ome})


def write_json(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def edit_json(path: Path, change: Any) -> None:
    """Applies a function to a JSON file."""
    document = json.loads(path.read_text())
    write_json(path, change(document) or document)


def write_image(path: Path, layout: Layout, seed: int = 0) -> np.ndarray:
    """One field; gives its pixels in native byte order, absent chunks filled."""
    pixels = make_pixels(layout, seed)
    for index in range(layout.n_datasets):
        dataset = layout.dataset if index == 0 else str(index)
        write_array(path / dataset, layout, pixels[..., :: 2**index, :: 2**index])
    for chunk in layout.absent:
        (path / layout.dataset / chunk_key(layout, chunk)).unlink()
        place = tuple(slice(i * n, (i + 1) * n) for i, n in zip(chunk, layout.grid, strict=True))
        pixels[place] = layout.fill_value or 0
    write_group(path, layout, image_attributes(layout))
    return pixels


def make_pixels(layout: Layout, seed: int = 0) -> np.ndarray:
    dtype = np.dtype(layout.dtype).newbyteorder("=")
    generator = np.random.default_rng(seed)
    if dtype.kind == "f":
        return generator.random(layout.shape, dtype=dtype)
    info = np.iinfo(dtype)
    return generator.integers(info.min, info.max, layout.shape, dtype=dtype, endpoint=True)


def write_array(path: Path, layout: Layout, pixels: np.ndarray) -> None:
    grid = (
        tuple(map(min, layout.chunks or layout.grid, pixels.shape))
        if layout.shards is None
        else layout.chunks
    )
    shared: dict[str, Any] = {
        "shape": pixels.shape,
        "chunks": grid,
        "fill_value": layout.fill_value or 0,
    }
    config = {"write_empty_chunks": True}
    if layout.zarr_format == 2:
        array = zarr.create_array(
            str(path),
            zarr_format=2,
            dtype=layout.dtype,
            order=layout.order,
            compressors=codec_v2(layout.codec),
            chunk_key_encoding={"name": "v2", "separator": layout.separator},
            config=config,
            **shared,
        )
    else:
        endian = "big" if layout.dtype.startswith(">") else "little"
        encoding = "v2" if layout.v2_keys else "default"
        array = zarr.create_array(
            str(path),
            zarr_format=3,
            dtype=pixels.dtype,
            shards=layout.shards,
            serializer=BytesCodec(endian=None if pixels.dtype.itemsize == 1 else endian),
            compressors=codec_v3(layout.codec) + ([Crc32cCodec()] if layout.crc32c else []),
            chunk_key_encoding={"name": encoding, "separator": layout.separator},
            config=config,
            **shared,
        )
    array[...] = pixels
    if layout.fill_value is None:
        name = ".zarray" if layout.zarr_format == 2 else "zarr.json"
        edit_json(path / name, lambda document: document.update(fill_value=None))


def codec_v2(name: str) -> Any:
    kind, _, rest = name.partition("-")
    if kind == "blosc":
        cname, shuffle = rest.split("-")
        return Blosc2(cname, 3, {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}[shuffle])
    return {"zstd": Zstd(3), "gzip": GZip(3), "zlib": Zlib(3), "none": None}[name]


def codec_v3(name: str) -> list[Any]:
    kind, _, rest = name.partition("-")
    if kind == "blosc":
        cname, shuffle = rest.split("-")
        return [BloscCodec(cname=cname, clevel=3, shuffle=shuffle)]
    return {"zstd": [ZstdCodec(level=3)], "gzip": [GzipCodec(level=3)], "none": []}[name]


def chunk_key(layout: Layout, index: tuple[int, ...]) -> str:
    """Key of a stored object within its array."""
    joined = layout.separator.join(map(str, index))
    if layout.zarr_format == 2 or layout.v2_keys:
        return joined
    return f"c{layout.separator}{joined}"


def chunk_keys(layout: Layout) -> list[str]:
    """Keys of all stored objects of an array."""
    counts = [math.ceil(n / size) for n, size in zip(layout.shape, layout.grid, strict=True)]
    return [chunk_key(layout, index) for index in itertools.product(*map(range, counts))]


def image_attributes(layout: Layout) -> dict[str, Any]:
    axes = [axis_entry(axis, layout) for axis in layout.axes]
    multiscale: dict[str, Any] = {"datasets": []}
    for index in range(layout.n_datasets):
        dataset: dict[str, Any] = {"path": layout.dataset if index == 0 else str(index)}
        if layout.pixel_size is not None:
            scale = [1.0] * (len(layout.axes) - 2) + [layout.pixel_size * 2**index] * 2
            steps = [
                {"type": "scale", "scale": scale},
                {"type": "translation", "translation": [0.0] * len(scale)},
            ]
            if layout.axes_style == "systems":
                steps = [
                    {"type": "sequence", "transformations": steps, "input": "a", "output": "b"}
                ]
            dataset["coordinateTransformations"] = steps
        multiscale["datasets"].append(dataset)
    if layout.axes_style == "systems":
        multiscale["coordinateSystems"] = [{"name": "physical", "axes": axes}]
    elif layout.axes_style != "none":
        multiscale["axes"] = axes
    if layout.zarr_format == 2 and layout.ngff is not None:
        multiscale["version"] = layout.ngff
    attributes: dict[str, Any] = {"multiscales": [multiscale]}
    if layout.labels is not None:
        channels = [{} if label is ... else {"label": label} for label in layout.labels]
        attributes["omero"] = {"channels": channels}
    return attributes


def axis_entry(axis: str, layout: Layout) -> Any:
    if layout.axes_style == "strings":
        return axis
    entry = {"name": axis.upper() if layout.axes_style == "upper" else axis}
    if layout.axes_style != "untyped":
        entry["type"] = TYPES[axis]
    if axis in "yx" and layout.unit is not None:
        entry["unit"] = layout.unit
    return entry


def write_roi_table(
    image: Path,
    zarr_format: int,
    rows: dict[str, tuple[float, ...]],
    *,
    table: str = "FOV_ROI_table",
) -> None:
    """An AnnData group as Fractal writes it: y, x, z and lengths in micrometres."""
    columns = ["x_micrometer", "y_micrometer", "z_micrometer",
               "len_x_micrometer", "len_y_micrometer", "len_z_micrometer"]  # fmt: skip
    group = zarr.open_group(str(image / "tables" / table), mode="w", zarr_format=zarr_format)
    group.attrs.update(
        {
            "encoding-type": "anndata",
            "encoding-version": "0.1.0",
            "type": "roi_table",
            "fractal_table_version": "1",
        }
    )
    values = np.array(
        [[x, y, 0.0, width, height, 1.0] for y, x, height, width in rows.values()], np.float32
    )
    group.create_array("X", data=values)
    for axis, names, index in (("obs", list(rows), "FieldIndex"), ("var", columns, "_index")):
        frame = group.create_group(axis)
        frame.attrs.update(
            {
                "_index": index,
                "column-order": [],
                "encoding-type": "dataframe",
                "encoding-version": "0.2.0",
            }
        )
        column = frame.create_array(index, shape=len(names), dtype=str)
        column[...] = np.array(names, dtype=object)


def make_zip(
    folder: Path, target: Path, inside: str = "", compress: int = zipfile.ZIP_STORED
) -> Path:
    """A folder as a zip, its content at the root or in one folder."""
    with zipfile.ZipFile(target, "w", compress) as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, Path(inside) / path.relative_to(folder))
    return target


def refusal(location: Any, kind: type[UnidinoError] = PlateError, **options: Any) -> str:
    """The message with which a plate does not open: one short line."""
    with pytest.raises(kind) as caught:
        open_plate(location, **options)
    message = str(caught.value)
    assert message.isprintable(), message
    assert len(message) < 1000
    return message


def pixels_of(plate: Plate) -> dict[str, np.ndarray]:
    """All channels of each field at its first time point, by the path of its array."""
    reader = FieldReader(plate.storage)
    return {
        field.array_path: reader.read(field, time=0, channels=range(field.length("c")), z="max")
        for field in plate.fields
    }


def check_pixels(plate: Plate, written: dict[str, np.ndarray]) -> None:
    """A plate of axes cyx holds these pixels and no others."""
    read = pixels_of(plate)
    prefix = f"{plate.root}/" if plate.root else ""
    assert set(read) == {f"{prefix}{path}/0" for path in written}
    for path, pixels in written.items():
        np.testing.assert_array_equal(read[f"{prefix}{path}/0"], pixels)
