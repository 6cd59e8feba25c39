"""OME-Zarr plate metadata -> frozen Plate / Well / Field, parsed once.

Every fault in the metadata is collected and raised together. Wells and fields that the metadata
lists but the disk does not hold are left out and reported (`Plate.missing`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from unidino_fast import ngff
from unidino_fast.documents import Document, Documents, open_documents
from unidino_fast.errors import PlateError, UsageError
from unidino_fast.mosaic import regions_of
from unidino_fast.names import WellName, parse_well, plate_stem, row_index
from unidino_fast.plate_model import Field, Plate, Region, Well
from unidino_fast.storage import Storage, StorageFault, open_storage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unidino_fast.ngff import ImageFacts, PlateWell

__all__ = ["Field", "Plate", "Region", "Well", "open_plate"]

OnError = Literal["fail", "skip"]


def open_plate(
    location: str | os.PathLike[str],
    *,
    acquisition: int | None = None,
    strict: bool = False,
    on_error: OnError = "fail",
) -> Plate:
    """Opens an OME-Zarr plate (NGFF 0.1 to 0.6) in a folder, a `.zip`/`.ozx` file or at a URL.

    Metadata is read once: for W wells and F fields a well, 2 reads find the root, then W wells,
    W*F images and W*F arrays are read, plus one for each well that holds a single image (it may be
    a mosaic with a table of fields).

    Args:
        location: path or URL.
        acquisition: keep the fields of this acquisition only.
        strict: what is listed but absent is an error too.
        on_error: `skip` leaves faulty wells and fields out and reports them as warnings.

    Raises:
        PlateError: no plate is there, its metadata is broken or unsafe, or no well is readable.
        UsageError: the acquisition does not exist.
    """
    storage = open_storage(location)
    documents, attributes = _find_plate(storage)
    plate = ngff.parse_plate(attributes)
    reader = _PlateReader(documents, plate, acquisition)
    wells = reader.read()
    faults = reader.faults + (reader.missing if strict else [])
    if faults and (strict or on_error == "fail"):
        raise PlateError(f"{storage.location}: {_joined(faults)}")
    if acquisition is not None and not wells and reader.acquisitions:
        present = ", ".join(str(number) for number in sorted(reader.acquisitions))
        raise UsageError(f"acquisition {acquisition} is not in the plate: it has {present}")
    if not wells:
        reasons = reader.missing + reader.faults or ["its list of wells is empty"]
        raise PlateError(f"{storage.location} has no readable well: {_joined(reasons)}")
    version = ngff.version_of(attributes)
    return Plate(
        name=plate.name.strip() if plate.name and plate.name.strip() else plate_stem(storage.location),
        location=storage.location,
        root=documents.prefix,
        wells=wells,
        channels=tuple(dict.fromkeys(c for w in wells for f in w.fields for c in f.channels)),
        pixel_size_um=wells[0].fields[0].pixel_size_um,
        ngff_version=version,
        zarr_format=documents.zarr_format,
        acquisitions=tuple(sorted(reader.acquisitions)),
        missing=tuple(reader.missing),
        warnings=tuple(reader.faults + reader.warnings + _plate_warnings(version, reader)),
        digest=documents.digest,
        storage=storage,
    )


def _find_plate(storage: Storage) -> tuple[Documents, dict[str, object]]:
    """The plate at the root or one folder down; `plate` and `<name>.zarr` are tried unlisted."""
    stem = plate_stem(storage.location)
    guesses = storage.children() or ["plate", f"{stem}.zarr", stem]
    found = []
    faults = []
    for prefix in ["", *guesses]:
        documents, attributes = open_documents(storage, prefix)
        if isinstance(attributes, StorageFault):
            faults.append(f"metadata at {documents.key('') or 'its root'} {attributes.reason}")
        elif attributes is not None and "plate" in attributes:
            found.append((documents, attributes))
        if found and prefix == "":
            break
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(documents.prefix for documents, _ in found)
        raise PlateError(f"{storage.location} holds {len(found)} plates: open one of {names}")
    if faults:
        raise PlateError(f"{storage.location} is no readable plate: {_joined(faults)}")
    raise PlateError(
        f"{storage.location} is not an OME-Zarr plate: neither zarr.json nor .zattrs there, or one"
        " folder down, holds `plate` metadata (image files become a plate by `unidino-fast convert`)"
    )


class _PlateReader:
    """Walks plate -> wells -> images -> arrays, level by level, and collects what is wrong."""

    def __init__(
        self, documents: Documents, plate: ngff.PlateDocument, acquisition: int | None
    ) -> None:
        self.documents = documents
        self.plate = plate
        self.acquisition = acquisition
        self.acquisitions: set[int] = set()
        self.faults: list[str] = []
        self.missing: list[str] = []
        self.warnings: list[str] = []

    def read(self) -> tuple[Well, ...]:
        positions = self._positions()
        images = self._images(positions)
        fields: dict[WellName, list[Field]] = {}
        for position, field_ in self._fields(images):
            fields.setdefault(position, []).append(field_)
        for position, path in positions.items():
            if position not in fields and any(image.position == position for image in images):
                self.missing.append(f"well {position} ({path}) has no readable field")
        return tuple(
            Well(position, positions[position], tuple(fields[position]))
            for position in sorted(fields)
        )

    def _positions(self) -> dict[WellName, str]:
        """Path of each listed well, by its position."""
        positions: dict[WellName, str] = {}
        for entry in self.plate.wells:
            try:
                path = ngff.safe_path(entry.path)
                position = _position(entry, self.plate)
            except PlateError as error:
                self.faults.append(str(error))
                continue
            if position in positions:
                self.faults.append(
                    f"well {position} is listed twice ({positions[position]}, {path})"
                )
            else:
                positions[position] = path
        return positions

    def _images(self, positions: dict[WellName, str]) -> list[_Image]:
        """The images that the wells list, of the acquisition asked for."""
        images = []
        documents = self.documents.groups(list(positions.values()))
        for (position, path), document in zip(positions.items(), documents, strict=True):
            attributes = self._present(document, f"well {position}", path)
            if attributes is None:
                continue
            try:
                listed = [
                    _Image(position, path, ngff.safe_path(image.path), image.acquisition)
                    for image in ngff.parse_well(attributes).images
                ]
            except PlateError as error:
                self.faults.append(f"well {position} ({path}): {error}")
                continue
            if not listed:
                self.missing.append(f"well {position} ({path}) lists no field")
            self.acquisitions |= {i.acquisition for i in listed if i.acquisition is not None}
            images += [
                image
                for image in listed
                if self.acquisition is None or image.acquisition == self.acquisition
            ]
        return images

    def _fields(self, images: list[_Image]) -> list[tuple[WellName, Field]]:
        described = []
        for image, document in zip(
            images, self.documents.groups([image.path for image in images]), strict=True
        ):
            attributes = self._present(document, f"field {image}", image.path)
            if attributes is not None and (facts := self._parsed(image, attributes)) is not None:
                described.append((image, facts))
        arrays = self.documents.arrays([f"{i.path}/{facts.array_path}" for i, facts in described])
        fields = []
        for (image, facts), document in zip(described, arrays, strict=True):
            path = f"{image.path}/{facts.array_path}"
            found = self._present(document, f"array of field {image}", path)
            if found is None:
                continue
            try:
                fields.append((image.position, self._field(image, facts, path, found)))
            except PlateError as error:
                self.faults.append(f"field {image} ({path}): {error}")
        return self._with_regions(fields)

    def _parsed(self, image: _Image, attributes: dict[str, object]) -> ImageFacts | None:
        try:
            return ngff.parse_image(attributes)
        except PlateError as error:
            self.faults.append(f"field {image} ({image.path}): {error}")
            return None

    def _field(
        self, image: _Image, facts: ImageFacts, path: str, document: dict[str, object]
    ) -> Field:
        array = ngff.parse_array(document, self.documents.zarr_format)
        if len(array.shape) != len(facts.axes):
            raise PlateError(f"array of shape {array.shape} does not have the axes {facts.axes!r}")
        n_channels = array.shape[facts.axes.index("c")] if "c" in facts.axes else 1
        labels = facts.labels
        if labels and len(labels) != n_channels:
            self.warnings.append(
                f"field {image} names {len(labels)} channels but holds {n_channels}:"
                " they are called ch0, ch1, ..."
            )
            labels = ()
        return Field(
            site=image.site,
            array_path=self.documents.key(path),
            axes=facts.axes,
            array=array,
            channels=unique_labels(labels or (None,) * n_channels),
            pixel_size_um=facts.pixel_size_um,
            acquisition=image.acquisition,
        )

    def _with_regions(self, fields: list[tuple[WellName, Field]]) -> list[tuple[WellName, Field]]:
        """Splits mosaics (a lone image with a field-of-view table) into their fields."""
        counts: dict[WellName, int] = {}
        for position, _ in fields:
            counts[position] = counts.get(position, 0) + 1
        lone = [field_ for position, field_ in fields if counts[position] == 1]
        regions, notes = regions_of(self.documents, lone)
        self.warnings += notes
        return [
            (position, part)
            for position, field_ in fields
            for part in regions.get(field_.array_path, [field_])
        ]

    def _present(self, document: Document, what: str, path: str) -> dict[str, object] | None:
        if document is None:
            self.missing.append(f"{what} ({path}) is listed but absent")
        elif isinstance(document, StorageFault):
            self.faults.append(f"{what}: metadata at {path} {document.reason}")
        else:
            return document
        return None


@dataclass(frozen=True, slots=True)
class _Image:
    """An image that a well lists."""

    position: WellName
    well_path: str
    site: str
    acquisition: int | None

    @property
    def path(self) -> str:
        return f"{self.well_path}/{self.site}"

    def __str__(self) -> str:
        return f"{self.position}/{self.site}"


def unique_labels(labels: Sequence[str | None]) -> tuple[str, ...]:
    """Channel names: `ch<index>` for what has none, `_2`, `_3` ... on repeats.

    A label that starts with `Metadata_` would hide its features among the metadata columns, so it
    is prefixed with `ch_`.
    """
    names: list[str] = []
    for index, label in enumerate(labels):
        base = label or f"ch{index}"
        base = f"ch_{base}" if base.startswith("Metadata_") else base
        name, repeat = base, 1
        while name in names or (name != base and name in labels):
            repeat += 1
            name = f"{base}_{repeat}"
        names.append(name)
    return tuple(names)


def _position(entry: PlateWell, plate: ngff.PlateDocument) -> WellName:
    """The well's position by its path, or, where that is no well name, by its indices."""
    by_path = parse_well("".join(entry.path.split("/")[-2:]))
    if by_path is not None:
        return by_path
    row, column = entry.rowIndex, entry.columnIndex
    if row is None or column is None or row < 0 or column < 0:
        raise PlateError(
            f"well path {entry.path!r} is no well name and has no row and column index"
        )
    letters = plate.rows[row].name if row < len(plate.rows) else ""
    number = plate.columns[column].name if column < len(plate.columns) else ""
    return WellName(
        row_index(letters) if letters.isascii() and letters.isalpha() and len(letters) < 3 else row,
        int(number) if number.isascii() and number.isdigit() else column + 1,
    )


def _plate_warnings(version: str | None, reader: _PlateReader) -> list[str]:
    warnings = []
    if version is None or not ngff.KNOWN_VERSIONS.fullmatch(version):
        warnings.append(f"NGFF version {version!r} is unknown: read like the nearest known one")
    if len(reader.acquisitions) > 1 and reader.acquisition is None:
        numbers = ", ".join(str(number) for number in sorted(reader.acquisitions))
        warnings.append(f"wells hold acquisitions {numbers}, all used: choose with --acquisition N")
    return warnings


def _joined(lines: Sequence[str], most: int = 3) -> str:
    more = f"; and {len(lines) - most} more" if len(lines) > most else ""
    return "; ".join(lines[:most]) + more
