"""Walks a plate's documents: plate -> wells -> images -> arrays, a level at a time.

Nothing raises here: what is wrong, absent or odd is collected, and `open_plate` judges it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unidino_fast import ngff
from unidino_fast.documents import digest_of
from unidino_fast.errors import PlateError
from unidino_fast.mosaic import regions_of
from unidino_fast.names import WellName, one_line, parse_well
from unidino_fast.plate_model import Field, Well
from unidino_fast.storage import StorageFault

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unidino_fast.documents import Document, Documents, JsonObject
    from unidino_fast.ngff import ArrayFacts, ImageFacts, PlateDocument, PlateWell

_LONGEST = {"c": 1_000, "z": 100_000, "t": 100_000}
"""Axes beyond these are no microscopy: refused here, before anything is as long as they are."""
_LETTERS, _DIGITS = re.compile("[A-Za-z]{1,2}"), re.compile("[0-9]{1,9}")


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


class PlateReader:
    """Reads the wells of one plate.

    Args:
        documents: of the plate.
        plate: the plate's own document.
        acquisition: keep the fields of this acquisition only.

    Attributes:
        acquisitions: numbers that the wells mention.
        faults: a line for each document that cannot be read or is malformed or unsafe.
        is_server_at_fault: whether one of these is no fault of the document.
        is_forbidden: whether one of these was refused.
        missing: a line for each well or field that is listed but absent.
        warnings: a line for each other oddity.
    """

    def __init__(self, documents: Documents, plate: PlateDocument, acquisition: int | None) -> None:
        self.documents = documents
        self.plate = plate
        self.acquisition = acquisition
        self.acquisitions: set[int] = set()
        self.faults: list[str] = []
        self.is_server_at_fault = self.is_forbidden = False
        self.missing: list[str] = []
        self.warnings: list[str] = []
        self._misnamed: list[_Image] = []
        self._arrays: dict[str, tuple[ArrayFacts, str]] = {}
        self._images_facts: dict[ImageFacts, ImageFacts] = {}
        self._labels: dict[tuple[str, ...], tuple[str, ...]] = {}

    def read(self) -> tuple[Well, ...]:
        """The readable wells in plate order."""
        positions = self._positions()
        images = self._images(positions)
        fields: dict[WellName, list[Field]] = {}
        for image, parts in self._fields(images):
            fields.setdefault(image.position, []).extend(parts)
        listed = {image.position for image in images}
        self.missing += [
            f"well {position} ({path}) has no readable field"
            for position, path in positions.items()
            if position in listed and position not in fields
        ]
        if self._misnamed:
            self.warnings.append(
                f"{len(self._misnamed)} fields (first {self._misnamed[0]}) name another number of"
                " channels than they hold: theirs are called ch0, ch1, ..."
            )
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
                position = _position(path, entry, self.plate)
            except PlateError as error:
                self.faults.append(f"list of wells: {error}")
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
            if len({image.site for image in listed}) != len(listed):
                self.faults.append(f"well {position} ({path}) lists a field twice")
                continue
            self.acquisitions |= {i.acquisition for i in listed if i.acquisition is not None}
            images += [
                image
                for image in listed
                if self.acquisition is None or image.acquisition == self.acquisition
            ]
        return images

    def _fields(self, images: list[_Image]) -> list[tuple[_Image, list[Field]]]:
        """The fields of each readable image: one, or several where it is a mosaic."""
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
                fields.append((image, self._field(image, facts, path, found)))
            except PlateError as error:
                self.faults.append(f"field {image} ({path}): {error}")
        return self._with_regions(fields)

    def _parsed(self, image: _Image, attributes: JsonObject) -> ImageFacts | None:
        """What an image's document says; kept once, as what an array's says."""
        try:
            facts = ngff.parse_image(attributes)
        except PlateError as error:
            self.faults.append(f"field {image} ({image.path}): {error}")
            return None
        return self._images_facts.setdefault(facts, facts)

    def _array(self, document: JsonObject) -> tuple[ArrayFacts, str]:
        """What an array's document says, and its digest; those that say the same are kept once."""
        said = json.dumps(document, sort_keys=True)
        if said not in self._arrays:
            facts = ngff.parse_array(document, self.documents.zarr_format)
            self._arrays[said] = facts, digest_of(document)
        return self._arrays[said]

    def _field(self, image: _Image, facts: ImageFacts, path: str, document: JsonObject) -> Field:
        array, array_digest = self._array(document)
        if len(array.shape) != len(facts.axes):
            raise PlateError(
                f"array of {len(array.shape)} dimensions does not have the axes {facts.axes!r}"
            )
        for axis, most in _LONGEST.items():
            length = array.shape[facts.axes.index(axis)] if axis in facts.axes else 1
            if length > most:
                raise PlateError(f"axis {axis} is {length} long: at most {most} are read")
        n_channels = array.shape[facts.axes.index("c")] if "c" in facts.axes else 1
        labels = facts.labels
        if labels and len(labels) != n_channels:
            self._misnamed.append(image)
            labels = ()
        channels = unique_labels(labels or (None,) * n_channels)
        return Field(
            site=image.site,
            array_path=self.documents.key(path),
            axes=facts.axes,
            array=array,
            channels=self._labels.setdefault(channels, channels),
            pixel_size_um=facts.pixel_size_um,
            acquisition=image.acquisition,
            metadata_digest=digest_of(path, facts.axes, channels, array_digest),
        )

    def _with_regions(self, fields: list[tuple[_Image, Field]]) -> list[tuple[_Image, list[Field]]]:
        """Splits mosaics (an acquisition's only image, with a field-of-view table) into fields."""
        counts: dict[tuple[WellName, int | None], int] = {}
        for image, _ in fields:
            key = (image.position, image.acquisition)
            counts[key] = counts.get(key, 0) + 1
        lone = {
            image.path: field_
            for image, field_ in fields
            if counts[image.position, image.acquisition] == 1
        }
        regions, notes = regions_of(self.documents, lone)
        self.warnings += notes
        return [(image, regions.get(image.path, [field_])) for image, field_ in fields]

    def _present(self, document: Document, what: str, path: str) -> JsonObject | None:
        if document is None:
            self.missing.append(f"{what} ({path}) is listed but absent")
        elif isinstance(document, StorageFault):
            self.is_server_at_fault |= document.is_of_server
            self.is_forbidden |= document.is_forbidden
            self.faults.append(f"{what}: metadata at {path}: {one_line(document.reason)}")
        else:
            return document
        return None


def unique_labels(labels: Sequence[str | None]) -> tuple[str, ...]:
    """Channel names: `ch<index>` for what has none, `_2`, `_3` ... on repeats.

    A label that would hide its features among the `Metadata_` columns is prefixed with `ch_`.
    """
    names: list[str] = []
    for index, label in enumerate(labels):
        base = label or f"ch{index}"
        base = f"ch_{base}" if f"{base}_".startswith("Metadata_") else base
        name, repeat = base, 1
        while name in names or (name != base and name in labels):
            repeat += 1
            name = f"{base}_{repeat}"
        names.append(name)
    return tuple(names)


def _position(path: str, entry: PlateWell, plate: PlateDocument) -> WellName:
    """The well's position by its path, or, where that is no well name, by its indices."""
    row_name, _, column_name = f"/{path}".rpartition("/")
    row_name = row_name.rsplit("/", 1)[-1]
    is_pair = _LETTERS.fullmatch(row_name) and _DIGITS.fullmatch(column_name)
    named = parse_well(f"{row_name}{column_name}" if is_pair else column_name)
    if named is not None:
        return named
    row, column = entry.rowIndex, entry.columnIndex
    if row is None or column is None or not (0 <= row < 702 and 0 <= column < 999):
        raise PlateError(f"well path {path!r} is no well name and has no row and column index")
    letters = plate.rows[row].name if row < len(plate.rows) else ""
    number = plate.columns[column].name if column < len(plate.columns) else ""
    return parse_well(f"{letters}{number}") or WellName(row, column + 1)
