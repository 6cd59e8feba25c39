"""OME-NGFF metadata documents (0.1 to 0.6) -> plain facts. Pure: JSON objects in, values out.

The models are lenient where real writers differ (PLATES.md in the design notes lists them) and
strict where a lie would be dangerous: every path must stay inside the plate.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unidino_fast.errors import PlateError

KNOWN_VERSIONS = re.compile(r"0\.[1-6](rc\d+|\.dev.*)?")
PIXEL_DTYPES = ("uint8", "uint16", "int16", "uint32", "float32")
_AXES = "tczyx"
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
    channels: list[_OmeroChannel] = Field(default_factory=list)


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
    labels = [None if c.label is None else str(c.label).strip() or None for c in omero.channels]
    return ImageFacts(
        array_path=safe_path(scales.datasets[0].path),
        axes=axes,
        pixel_size_um=_pixel_size_um(scales, axes, units),
        labels=tuple(labels),
    )


def version_of(attributes: dict[str, Any]) -> str | None:
    """The NGFF version that a document claims, wherever its writer put it."""
    places = [attributes, attributes.get("plate"), attributes.get("well")]
    places += (attributes.get("multiscales") or [])[:1]
    for place in places:
        if isinstance(place, dict) and isinstance(place.get("version"), str):
            return str(place["version"])
    return None


def parse_array(document: dict[str, Any], zarr_format: Literal[2, 3]) -> ArrayFacts:
    """Facts of `.zarray` (v2) or an array's `zarr.json` (v3); raises PlateError if malformed."""
    try:
        facts = _array_v2(document) if zarr_format == 2 else _array_v3(document)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise PlateError(f"array metadata is malformed ({type(error).__name__}: {error})") from None
    if facts.dtype not in PIXEL_DTYPES:
        raise PlateError(
            f"pixels are {facts.dtype}, but only {', '.join(PIXEL_DTYPES)} can be embedded:"
            " convert the image"
        )
    if len(facts.chunks) != len(facts.shape) or min(facts.chunks, default=1) < 1:
        raise PlateError(f"chunks {facts.chunks} do not fit an array of shape {facts.shape}")
    if min(facts.shape, default=0) < 1:
        raise PlateError(f"array of shape {facts.shape} holds no pixels")
    return facts


def safe_path(path: str) -> str:
    """A relative path that stays inside: `A/1`, not `/etc`, `../..`, `C:\\x` or a URL.

    Raises:
        PlateError: the path is empty or leaves the plate.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if (
        not parts
        or path.startswith("/")
        or ".." in parts
        or any(character in path for character in ("\\", "\0", ":"))
    ):
        raise PlateError(f"path {path!r} leaves the plate or names nothing: refused")
    return "/".join(parts)


def _validated(model: type[Model], document: object, name: str) -> Model:
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in (name, *first["loc"]))
        raise PlateError(f"`{where}` is malformed: {first['msg']}") from None


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
        letters += by_type or axis.name.lower()[:1]
        units.append(axis.unit)
    if (
        letters[-2:] != "yx"
        or any(a not in _AXES for a in letters)
        or len(set(letters)) != len(letters)
    ):
        raise PlateError(f"axes {letters!r} are not among t, c, z, y, x, each once, ending in y, x")
    return letters, units


def _pixel_size_um(scales: Multiscale, axes: str, units: list[str | None]) -> float | None:
    factors = [
        scale[-1]
        for transformation in (
            *scales.datasets[0].coordinateTransformations,
            *scales.coordinateTransformations,
        )
        for scale in _scales(transformation)
        if len(scale) == len(axes)
    ]
    size = float(np.prod(factors)) if factors else None
    unit = units[-1]
    if size is None or not np.isfinite(size) or size <= 0 or (unit is None and size == 1.0):
        return None
    factor = _MICROMETRES.get((unit or "micrometer").lower())
    return None if factor is None else size * factor


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
    return ArrayFacts(
        zarr_format=2,
        shape=_sizes(document["shape"]),
        chunks=_sizes(document["chunks"]),
        shards=None,
        dtype=np.dtype(document["dtype"]).newbyteorder("=").name,
        codec=codec,
        document=document,
    )


def _array_v3(document: dict[str, Any]) -> ArrayFacts:
    chunks = _sizes(document["chunk_grid"]["configuration"]["chunk_shape"])
    shards = None
    codecs = document["codecs"]
    if codecs and codecs[0]["name"] == "sharding_indexed":
        shards = chunks
        chunks = _sizes(codecs[0]["configuration"]["chunk_shape"])
        codecs = codecs[0]["configuration"]["codecs"]
    names = [
        f"blosc-{codec['configuration']['cname']}" if codec["name"] == "blosc" else codec["name"]
        for codec in codecs
        if codec["name"] not in ("bytes", "crc32c", "transpose")
    ]
    return ArrayFacts(
        zarr_format=3,
        shape=_sizes(document["shape"]),
        chunks=chunks,
        shards=shards,
        dtype=np.dtype(document["data_type"]).name,
        codec="+".join(names) or "none",
        document=document,
    )


def _sizes(values: list[Any]) -> tuple[int, ...]:
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        raise TypeError(f"{values} are not whole numbers")
    return tuple(values)
