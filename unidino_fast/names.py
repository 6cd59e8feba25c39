"""Names of wells and plates: one form inside (`A01`, `AA12`), every usual form at the door."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

QUALITY = "qc.json"
REPORT = "report.html"
"""Of a plate, and of all plates of an output folder, where they stand beside the plates' folders.
Reports are made on request; they go when the tables that they are made of are replaced."""
_UNSAFE = re.compile(r"[^\w .()+-]|^\.+")
_LONGEST_NAME = 200
"""Bytes of a folder's; file systems take 255."""
_DIGITS = re.compile(r"(\d+)")
_WELL = re.compile(r"\s*([A-Za-z]{1,2})[\s_/-]*0{0,9}([1-9][0-9]{0,2})\s*")


@dataclass(frozen=True, order=True, slots=True)
class WellName:
    """A position on a plate: `row` counts from 0, `column` from 1; sorts in plate order."""

    row: int
    column: int

    @property
    def row_letters(self) -> str:
        """Row as letters: `A` ... `Z`, `AA`, `AB` ..."""
        return row_letters(self.row)

    def __str__(self) -> str:
        return f"{self.row_letters}{self.column:02d}"


def place_left_out(name: str) -> str:
    """What was left out of a plate in words: `well A02`, `array of field A02/0`."""
    return name if " " in name else f"well {name}"


def left_out_for(fault: str) -> tuple[str, str]:
    """The name that `place_left_out` takes, and why, of a line such as `well A02: why`."""
    what, _, why = fault.partition(": ")
    return what.removeprefix("well "), why or fault


def row_letters(row: int) -> str:
    """Letters of a zero-based row index: 0 is `A`, 25 `Z`, 26 `AA`."""
    letters = ""
    row += 1
    while row > 0:
        row, rest = divmod(row - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters


def row_index(letters: str) -> int:
    """Zero-based row index of letters: `A` is 0, `AA` 26."""
    index = 0
    for letter in letters.upper():
        index = index * 26 + ord(letter) - ord("A") + 1
    return index - 1


def parse_well(text: str) -> WellName | None:
    """Well name of `A1`, `a01`, `A/1`, `A-01`, `AA12`; None where the text is none."""
    match = _WELL.fullmatch(text)
    if match is None:
        return None
    return WellName(row_index(match[1]), int(match[2]))


def one_line(text: str) -> str:
    """Foreign text made fit for messages and column names: one line, nothing unprintable."""
    return printable(" ".join(text.split()))


def printable(line: str) -> str:
    """A line with `_` for what would steer a terminal; spaces stay as they are."""
    return line if line.isprintable() else "".join(c if c.isprintable() else "_" for c in line)


def short_line(value: object, longest: int) -> str:
    """A foreign value as one line, nothing unprintable (nor what overrides its direction), cut."""
    line = one_line(str(value))
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def counted(count: int, noun: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{count} {noun}" + "s" * (count != 1)


def natural_key(text: str) -> list[tuple[int, int, str]]:
    """Sort key that puts `ch2` before `ch10`."""

    def key(part: str) -> tuple[int, int, str]:
        if not part.isdecimal():
            return 1, 0, part
        digits = part.lstrip("0")
        return 0, len(digits), digits  # as numbers, of which Python reads no more than 4,300 digits

    return [key(part) for part in _DIGITS.split(text) if part]


def distinct_names(values: Iterable[Any], shown: Callable[[Any], str]) -> dict[Any, str]:
    """Each value's name as it is shown; values that differ keep names that differ."""
    names: dict[Any, str] = {}
    taken: dict[str, int] = {}
    for value in dict.fromkeys(values):
        name = shown(value)
        count = taken[name] = taken.get(name, 0) + 1
        names[value] = name if count == 1 else f"{name} ({count})"
    return names


def plate_stem(location: str) -> str:
    """A plate's name by its place: `plate_1` of `/data/plate_1.ome.zarr` or `https://x/plate_1.ozx`."""
    name = location.split("?")[0].rstrip("/").replace("\\", "/").rsplit("/", 1)[-1]
    if name in ("", ".", ".."):
        name = os.path.basename(os.path.abspath(location))  # noqa: PTH119, PTH100
    for suffix in (".zip", ".ozx", ".zarr", ".ome"):
        name = name.removesuffix(suffix)
    return name or "plate"


def folder_name(plate: str) -> str:
    """A plate's name as a folder's: characters that could lead elsewhere become `_`.

    A name that no file system would take keeps its beginning and gets a digest as its end.
    """
    safe = _UNSAFE.sub("_", plate).strip() or "plate"
    if safe.lower() in (QUALITY, REPORT):  # which stand beside the folders of plates
        safe = safe.replace(".", "_")
    if len(safe.encode()) <= _LONGEST_NAME:
        return safe
    digest = hashlib.sha256(plate.encode(errors="surrogatepass")).hexdigest()[:12]
    return f"{safe.encode()[:_LONGEST_NAME].decode(errors='ignore')}_{digest}"
