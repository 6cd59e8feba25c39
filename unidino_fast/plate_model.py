"""The frozen objects that a plate's metadata becomes: Plate, Well, Field, Region."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unidino_fast.names import WellName
    from unidino_fast.ngff import ArrayFacts
    from unidino_fast.storage import Storage


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle of a mosaic image that is one field of view, in pixels."""

    y: int
    x: int
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Field:
    """One field of view.

    Attributes:
        site: path of the field in its well, as the plate writes it (`0`, `fov0`).
        array_path: key of the full-resolution array in the plate's storage.
        axes: axis letters in array order, out of `tczyx`.
        channels: one label an index of the channel axis, unique.
        region: the part of a mosaic that this field is; None for the whole image.
        metadata_digest: of all that the metadata say about its pixels and their names.
    """

    site: str
    array_path: str
    axes: str
    array: ArrayFacts
    channels: tuple[str, ...]
    pixel_size_um: float | None
    acquisition: int | None
    region: Region | None = None
    metadata_digest: str = field(kw_only=True)

    def length(self, axis: str) -> int:
        """Length of an axis; 1 where the image does not have it."""
        return self.array.shape[self.axes.index(axis)] if axis in self.axes else 1

    @property
    def height(self) -> int:
        """Pixels along y."""
        return self.region.height if self.region else self.length("y")

    @property
    def width(self) -> int:
        """Pixels along x."""
        return self.region.width if self.region else self.length("x")


@dataclass(frozen=True, slots=True)
class Well:
    """One well with its fields in the plate's order."""

    position: WellName
    path: str
    fields: tuple[Field, ...]

    @property
    def name(self) -> str:
        """`A01`."""
        return str(self.position)


@dataclass(frozen=True)
class Plate:
    """One plate: what its metadata says, and where its pixels lie.

    Attributes:
        name: the metadata's plate name, or the name of its folder.
        wells: readable wells in plate order (row, then column).
        channels: labels of all channels, in the order in which wells bring them.
        root: path of the plate within its storage, empty where it is the storage itself.
        pixel_size_um: pixel edge in micrometres where known (of the first field).
        missing: what the metadata lists and the disk lacks, a line each.
        skipped: wells and fields left out for a fault (`on_error="skip"`), a line each.
        warnings: other oddities, a line each.
        digest: SHA-256 of all metadata.
    """

    name: str
    location: str
    root: str
    wells: tuple[Well, ...]
    channels: tuple[str, ...]
    pixel_size_um: float | None
    ngff_version: str | None
    zarr_format: int
    acquisitions: tuple[int, ...]
    missing: tuple[str, ...]
    skipped: tuple[str, ...]
    warnings: tuple[str, ...]
    digest: str
    storage: Storage = field(repr=False, compare=False)

    @property
    def fields(self) -> tuple[Field, ...]:
        """All fields of all wells."""
        return tuple(field for well in self.wells for field in well.fields)

    def __repr__(self) -> str:
        """One line: all that a screening plate holds is a million characters."""
        return (
            f"<Plate {self.name!r}: {len(self.wells)} wells, {len(self.fields)} fields,"
            f" channels {list(self.channels)} at {self.location!r}>"
        )
