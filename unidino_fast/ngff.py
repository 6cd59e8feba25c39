"""OME-NGFF metadata documents (0.1 to 0.6) -> plain facts. Pure: JSON objects in, values out.

The models are lenient where real writers differ (PLATES.md in the design notes lists them) and
strict where a lie would be dangerous: every path must stay inside the plate.
"""

from __future__ import annotations

import math
import re
import reprlib
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unidino_fast.errors import PlateError, first_line
from unidino_fast.names import one_line

KNOWN_VERSIONS = re.compile(r"0\.[1-6](rc\d+|\.dev.*)?")
PIXEL_DTYPES = ("uint8", "uint16", "int16", "uint32", "float32")
_AXES = "tczyx"
_V2_DTYPES = {
    "|u1": "uint8", "u1": "uint8", "<u2": "uint16", ">u2": "uint16", "<i2": "int16",
    ">i2": "int16", "<u4": "uint32", ">u4": "uint32", "<f4": "float32", ">f4": "float32",
}  # fmt: skip
_MICROMETRES = {
    "angstrom": 1e-4, "nanometer": 1e-3, "nm": 1e-3, "micrometer": 1.0, "micron": 1.0, "um": 1.0,
    "µm": 1.0, "μm": 1.0, "millimeter": 1e3, "mm": 1e3, "centimeter": 1e4, "meter": 1e6,
}  # fmt: skip

Model = TypeVar("Model", bound=BaseModel)


class _Document(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class PlateWell(_Document):
    """One entry of `plate.wells`."""

    path: str
    rowIndex: int | None = None
    columnIndex: int | None = None


class _Named(_Document):
    name: str


class PlateDocument(_Document):
    """The `plate` object of a plate's root."""

    name: str | None = None
    rows: list[_Named] = Field(default_factory=list)
    columns: list[_Named] = Field(default_factory=list)
    wells: list[PlateWell]


class WellImage(_Document):
    """One field of view listed by a well."""

    path: str
    acquisition: int | None = None


class WellDocument(_Document):
    """The `well` object."""

    images: list[WellImage]


class _Axis(_Document):
    name: str
    type: str | None = None
    unit: str | None = None


class _Transformation(_Document):
    type: str
    scale: list[float] | None = None
    transformations: list[_Transformation] = Field(default_factory=list)


class _Dataset(_Document):
    path: str
    coordinateTransformations: list[_Transformation] = Field(default_factory=list)


class _CoordinateSystem(_Document):
    axes: list[_Axis]


class Multiscale(_Document):
    """One entry of `multiscales`: the resolution levels of an image."""

    axes: list[_Axis] | list[str] | None = None
    datasets: list[_Dataset] = Field(min_length=1)
    coordinateTransformations: list[_Transformation] = Field(default_factory=list)
    coordinateSystems: list[_CoordinateSystem] = Field(default_factory=list)


class _OmeroChannel(_Document):
    label: str | int | float | None = None


class _Omero(_Document):
    channels: list[_OmeroChannel] | None = None


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What a field's image document says.

    Attributes:
        array_path: path of the full-resolution array within the image.
        axes: lower-case axis letters in array order, out of `tczyx`.
        pixel_size_um: edge of a pixel along x in micrometres; None where nothing tells.
        labels: channel labels as written, None for each that is missing; empty without `omero`.
    """

    array_path: str
    axes: str
    pixel_size_um: float | None
    labels: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class ArrayFacts:
    """What a stored array's own document says.

    Attributes:
        zarr_format: 2 or 3.
        shape: length of each axis.
        chunks: shape of what is decoded at once (a shard's inner chunk where sharded).
        shards: shape of a stored object where sharded, else None.
        dtype: numpy name in native byte order, such as `uint16`.
        codec: one word or two for a person: `blosc-zstd`, `gzip`, `none`.
        document: the whole document, for zarr-python.
    """

    zarr_format: Literal[2, 3]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None
    dtype: str
    codec: str
    document: dict[str, Any] = field(repr=False, compare=False)


def parse_plate(attributes: dict[str, Any]) -> PlateDocument:
    """The `plate` object of root attributes; raises PlateError where it is malformed."""
    return _validated(PlateDocument, attributes.get("plate"), "plate")


def parse_well(attributes: dict[str, Any]) -> WellDocument:
    """The `well` object of a well's attributes; raises PlateError where it is malformed."""
    return _validated(WellDocument, attributes.get("well"), "well")


def parse_image(attributes: dict[str, Any]) -> ImageFacts:
    """Facts of a field's attributes; raises PlateError where they are malformed or unsafe."""
    multiscales = attributes.get("multiscales")
    if not isinstance(multiscales, list) or not multiscales:
        raise PlateError("holds no `multiscales`")
    scales = _validated(Multiscale, multiscales[0], "multiscales[0]")
    axes, units = _axes(scales)
    omero = _validated(_Omero, attributes.get("omero") or {}, "omero")
    labels = [
        None if channel.label is None else one_line(str(channel.label)) or None
        for channel in omero.channels or ()
    ]
    return ImageFacts(
        array_path=safe_path(scales.datasets[0].path),
        axes=axes,
        pixel_size_um=_pixel_size_um(scales, axes, units),
        labels=tuple(labels),
    )


def version_of(attributes: dict[str, Any]) -> str | None:
    """The NGFF version that a document claims, wherever its writer put it."""
    places = [attributes, attributes.get("plate"), attributes.get("well")]
    scales = attributes.get("multiscales")
    places += scales[:1] if isinstance(scales, list) else []
    for place in places:
        if isinstance(place, dict) and isinstance(place.get("version"), str):
            return one_line(place["version"])
    return None


def parse_array(document: dict[str, Any], zarr_format: Literal[2, 3]) -> ArrayFacts:
    """Facts of `.zarray` (v2) or an array's `zarr.json` (v3); raises PlateError if malformed."""
    try:
        facts = _array_v2(document) if zarr_format == 2 else _array_v3(document)
    except KeyError as error:
        raise PlateError(f"array metadata is malformed: {error} is missing") from None
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise PlateError(f"array metadata is malformed: {first_line(error)}") from None
    if facts.dtype not in PIXEL_DTYPES:
        raise PlateError(
            f"pixels are {one_line(facts.dtype)[:60]}, but only {', '.join(PIXEL_DTYPES)} can be"
            " embedded: convert the image"
        )
    for name, sizes in (("chunks", facts.chunks), ("shards", facts.shards)):
        if sizes is not None and (len(sizes) != len(facts.shape) or min(sizes, default=1) < 1):
            raise PlateError(
                f"{name} {reprlib.repr(sizes)} do not fit an array of shape"
                f" {reprlib.repr(facts.shape)}"
            )
    if min(facts.shape, default=0) < 1:
        raise PlateError(f"array of shape {reprlib.repr(facts.shape)} holds no pixels")
    return facts


def safe_path(path: str) -> str:
    r"""A relative path that stays inside: `A/1`, not `/etc`, `../..`, `C:\x` or a URL.

    Raises:
        PlateError: the path is empty, leaves the plate or holds what no file name can.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if (
        not parts
        or path.startswith("/")
        or ".." in parts
        or any(character in path for character in "\\:")
        or not path.isprintable()
    ):
        raise PlateError(f"path {reprlib.repr(path)} leaves the plate or names nothing: refused")
    return "/".join(parts)


def _validated(model: type[Model], document: object, name: str) -> Model:
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in (name, *first["loc"]))
        raise PlateError(f"`{where}` is malformed: {one_line(first['msg'])}") from None


def _axes(scales: Multiscale) -> tuple[str, list[str | None]]:
    """Axis letters and units; by `type` first, then by lower-cased name."""
    declared: list[_Axis] | list[str] | None = scales.axes
    if declared is None and scales.coordinateSystems:
        declared = scales.coordinateSystems[0].axes
    if declared is None:  # 0.1 and 0.2 had five axes and did not name them
        return _AXES, [None] * 5
    letters = ""
    units = []
    for entry in declared:
        axis = _Axis(name=entry) if isinstance(entry, str) else entry
        by_type = {"time": "t", "channel": "c"}.get((axis.type or "").lower())
        letters += by_type or axis.name.lower()[:1] or "?"
        units.append(axis.unit)
    if (
        letters[-2:] != "yx"
        or any(a not in _AXES for a in letters)
        or len(set(letters)) != len(letters)
    ):
        raise PlateError(
            f"axes {reprlib.repr(letters)} are not among t, c, z, y, x, each once, ending in y, x"
        )
    return letters, units


def _pixel_size_um(scales: Multiscale, axes: str, units: list[str | None]) -> float | None:
    transformations = list(scales.datasets[0].coordinateTransformations)
    if not scales.coordinateSystems:  # from 0.6 on, those of the image lead to other systems
        transformations += scales.coordinateTransformations
    factors = [
        scale[-1]
        for transformation in transformations
        for scale in _scales(transformation)
        if len(scale) == len(axes)
    ]
    unit = units[-1]
    factor = _MICROMETRES.get((unit or "micrometer").lower())
    if not factors or factor is None:
        return None
    written = math.prod(factors)
    if unit is None and written == 1.0:  # the default that writers put where they know nothing
        return None
    size = written * factor
    return size if math.isfinite(size) and size > 0 else None


def _scales(transformation: _Transformation) -> list[list[float]]:
    """Every `scale` in a transformation; 0.6 nests them in a `sequence`."""
    own = [transformation.scale] if transformation.type == "scale" and transformation.scale else []
    return own + [scale for inner in transformation.transformations for scale in _scales(inner)]


def _array_v2(document: dict[str, Any]) -> ArrayFacts:
    compressor = document.get("compressor")
    if compressor is None:
        codec = "none"
    elif compressor["id"] == "blosc":
        codec = f"blosc-{compressor.get('cname', 'lz4')}"
    else:
        codec = str(compressor["id"])
    dtype = document["dtype"]
    return ArrayFacts(
        zarr_format=2,
        shape=_sizes(document["shape"]),
        chunks=_sizes(document["chunks"]),
        shards=None,
        dtype=_V2_DTYPES.get(dtype, dtype) if isinstance(dtype, str) else reprlib.repr(dtype),
        codec=one_line(codec),
        document=document,
    )


def _array_v3(document: dict[str, Any]) -> ArrayFacts:
    if document.get("node_type") != "array":
        raise ValueError("it describes no array")
    chunks = _sizes(document["chunk_grid"]["configuration"]["chunk_shape"])
    shards = None
    codecs = document["codecs"]
    if not isinstance(codecs, list) or not codecs:
        raise ValueError("it lists no codecs")
    names: list[str] = []
    for codec in codecs:
        if codec["name"] == "sharding_indexed":
            inner = codec["configuration"]
            shards, chunks = chunks, _sizes(inner["chunk_shape"])
            names += map(_codec_name, inner["codecs"])
        else:
            names.append(_codec_name(codec))
    data_type = document["data_type"]
    return ArrayFacts(
        zarr_format=3,
        shape=_sizes(document["shape"]),
        chunks=chunks,
        shards=shards,
        dtype=data_type if isinstance(data_type, str) else reprlib.repr(data_type),
        codec="+".join(name for name in names if name) or "none",
        document=document,
    )


def _codec_name(codec: dict[str, Any]) -> str:
    """A v3 codec for a person; empty for what changes no size."""
    name = str(codec["name"])
    if name in ("bytes", "crc32c", "transpose"):
        return ""
    return one_line(f"blosc-{codec['configuration']['cname']}" if name == "blosc" else name)


def _sizes(values: object) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise TypeError(f"{reprlib.repr(values)} are not whole numbers")
    if any(value >= 2**63 for value in values):
        raise ValueError(f"{reprlib.repr(values)} are beyond all sizes")
    return tuple(values)
