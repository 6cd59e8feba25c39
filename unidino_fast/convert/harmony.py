"""Harmony's `Index.idx.xml` (Opera Phenix, Operetta): plate name, channel names, pixel size.

Read as a stream with expat, so that an index of hundreds of megabytes takes no memory; a document
type declaration, and with it every entity, is refused before it can do anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn
from xml.parsers import expat

from unidino_fast.convert.index import PlateFacts
from unidino_fast.errors import ConvertError, first_line

if TYPE_CHECKING:
    from pathlib import Path

INDEX_NAMES = ("Index.idx.xml", "Index.xml")
_WANTED = ("ChannelID", "ChannelName", "ImageResolutionX")
_RECORDS = ("Image", "Entry")  # Entry: a channel's record under Maps, Harmony 5 upward
_MICROMETRES = {"m": 1e6, "mm": 1e3, "um": 1.0, "µm": 1.0, "nm": 1e-3}


class _UnsafeXmlError(ValueError):
    """The document declares a type or entities."""


def find_index(folder: Path) -> Path | None:
    """The index file beside the images or one folder up."""
    places = [place / name for place in (folder, folder.parent) for name in INDEX_NAMES]
    return next((place for place in places if place.is_file()), None)


def read_index(path: Path) -> tuple[str | None, PlateFacts]:
    """Plate name (where told) and facts; channels as `ch1`, `ch2`, ... like in the file names.

    Raises:
        ConvertError: it cannot be read, is no XML or declares a document type.
    """
    reader = _Reader()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = _refuse
    parser.EntityDeclHandler = _refuse
    try:
        with path.open("rb") as file:
            parser.ParseFile(file)
    except _UnsafeXmlError as error:
        raise ConvertError(
            f"{path} declares a document type or entities, which no microscope writes: "
            "take the file away or get a clean copy"
        ) from error
    except (OSError, ValueError, LookupError, expat.ExpatError) as error:
        raise ConvertError(
            f"{path} cannot be read as XML ({first_line(error)}): copy it again or take it away"
        ) from error
    return reader.plate, PlateFacts(_unique(reader.labels), reader.pixel_size_um)


def _refuse(*_: object) -> NoReturn:
    raise _UnsafeXmlError


def _unique(labels: dict[str, str]) -> dict[str, str]:
    """Labels that name one channel only; the others keep the file names' `ch1`."""
    values = list(labels.values())
    return {key: label for key, label in labels.items() if values.count(label) == 1}


@dataclass
class _Reader:
    plate: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    pixel_size_um: float | None = None
    _path: list[str] = field(default_factory=list)
    _record: dict[str, str] = field(default_factory=dict)
    _unit: str = "m"
    _text: str = ""

    def start(self, name: str, attributes: dict[str, str]) -> None:
        tag = name.rpartition(":")[2]
        self._path.append(tag)
        self._text = ""
        if tag in _RECORDS:
            self._record = {"ChannelID": attributes.get("ChannelID", "")}
        elif tag == "ImageResolutionX":
            self._unit = attributes.get("Unit", "m")

    def text(self, data: str) -> None:
        self._text += data[:4096]

    def end(self, name: str) -> None:
        tag = self._path.pop()
        text, self._text = self._text.strip(), ""
        parent = self._path[-1] if self._path else ""
        if tag in _WANTED and parent in _RECORDS and text:
            self._record[tag] = text
        elif tag == "Name" and parent == "Plate" and self.plate is None and text:
            self.plate = text
        elif tag in _RECORDS:
            self._keep(self._record)
            self._record = {}

    def _keep(self, record: dict[str, str]) -> None:
        channel = record.get("ChannelID", "")
        if channel.isdecimal() and record.get("ChannelName"):
            self.labels.setdefault(f"ch{int(channel)}", record["ChannelName"])
        if self.pixel_size_um is None and "ImageResolutionX" in record:
            try:
                size = float(record["ImageResolutionX"]) * _MICROMETRES[self._unit]
            except (ValueError, KeyError):
                return
            self.pixel_size_um = size if 0 < size < 1e4 else None
