"""Footers of Parquet files, a few row groups at a time.

A footer describes every column of every row group. Parsed by Arrow that is .7 KB each, 1.3 MB for a
row group of 1,920 columns, which stays in memory while a file is open: at a thousand row groups
more than the rows of a portion. As bytes it is an eighth of that, and a reader needs the row groups
alone that it is reading, a writer none before it ends.

The bytes are a Thrift struct (compact protocol), of which no more is understood here than where its
parts end: https://github.com/apache/parquet-format, `FileMetaData`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MAGIC = b"PAR1"
_TAIL = 8
"""Bytes at the end of a file: the length of the footer before them, and the magic number."""
_ROW_GROUPS = 4
"""Number of the field of `FileMetaData` that lists them."""
_STOP, _TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _, _STRUCT = range(13)
_INTEGERS = (_I16, _I32, _I64)
_Places: TypeAlias = "dict[int, _Places | None]"
_PLACES: _Places = {
    1: {2: None, 3: {9: None, 10: None, 11: None, 14: None}, 4: None, 6: None},
    5: None,
}
"""Fields of a row group that are places in the file: those of its columns (1), their metadata (3)
and pages among them, and its own (5)."""
_DEEPEST = 16
"""Structs in structs; those of Parquet go five deep."""


class Footer:
    """A footer cut into its row groups.

    Raises:
        pyarrow.ArrowException: it is none.
    """

    def __init__(self, raw: bytes) -> None:
        try:
            self._before, self._groups, self._after = _cut(raw)
        except (IndexError, RecursionError) as error:
            raise pa.ArrowInvalid("the footer is malformed") from error

    @classmethod
    def of(cls, path: Path) -> Footer:
        """The footer of a file.

        Raises:
            pyarrow.ArrowException: it has none that is readable.
            OSError: it cannot be read.
        """
        with path.open("rb") as file:
            raw, _ = last_footer(file)
        return cls(raw)

    def moved(self, by: int) -> bytes:
        """The footer of the same rows, so many bytes further on in a file."""
        groups = (_moved(group, by) for group in self._groups)
        return b"".join((self._before, _list_header(self.n_groups), *groups, self._after))

    @property
    def n_groups(self) -> int:
        """Row groups."""
        return len(self._groups)

    def metadata(self, start: int = 0, stop: int = 0) -> pq.FileMetaData:
        """What Arrow makes of some row groups; `num_rows` is that of the whole file."""
        chosen = self._groups[start:stop]
        parts = (self._before, _list_header(len(chosen)), *chosen, self._after)
        return parsed(b"".join(parts))


def last_footer(file: BinaryIO) -> tuple[bytes, int]:
    """The footer at the end of a file, and where it begins.

    Raises:
        pyarrow.ArrowInvalid: there is none, or it is encrypted.
    """
    end = file.seek(0, 2)
    if end < len(MAGIC) + _TAIL:
        raise pa.ArrowInvalid("the file is too short for a Parquet file")
    file.seek(end - _TAIL)
    tail = file.read(_TAIL)
    start = end - _TAIL - int.from_bytes(tail[:4], "little")
    if tail[4:] != MAGIC or start < len(MAGIC):
        raise pa.ArrowInvalid("the file does not end as Parquet files do")
    file.seek(start)
    return file.read(end - _TAIL - start), start


def parsed(raw: bytes) -> pq.FileMetaData:
    """What Arrow makes of a footer."""
    whole = b"".join((MAGIC, raw, len(raw).to_bytes(4, "little"), MAGIC))
    return pq.read_metadata(pa.BufferReader(whole))


def joined(footers: Sequence[bytes]) -> pq.FileMetaData:
    """One footer for the row groups of several, which have one schema."""
    whole = parsed(footers[0])
    for raw in footers[1:]:
        whole.append_row_groups(parsed(raw))
    return whole


def _cut(raw: bytes) -> tuple[bytes, list[bytes], bytes]:
    """What stands before the list of row groups, each of them, and what stands after it."""
    at = field = 0
    while raw[at] != _STOP:
        kind, step = raw[at] & 15, raw[at] >> 4
        at += 1
        if step:
            field += step
        else:
            number, at = _varint(raw, at)
            field = number >> 1  # zigzag, and no field has a negative number
        if field == _ROW_GROUPS and kind == _LIST:
            start = at
            n, of, at = _list(raw, at)
            if n and of != _STRUCT:
                raise IndexError
            groups = []
            for _ in range(n):
                begins, at = at, _after_struct(raw, at, 1)
                groups.append(raw[begins:at])
            if at > len(raw):
                raise IndexError
            return raw[:start], groups, raw[at:]
        at = _after(raw, at, kind, 1)
    raise IndexError


def _after_struct(raw: bytes, at: int, depth: int) -> int:
    """Where the struct that begins somewhere ends; most of the time is spent here."""
    if depth > _DEEPEST:
        raise RecursionError
    while True:
        head = raw[at]
        at += 1
        if head == _STOP:
            return at
        kind = head & 15
        if head < 16:  # the number of the field is written out
            while raw[at] > 127:
                at += 1
            at += 1
        if kind in _INTEGERS:
            while raw[at] > 127:
                at += 1
            at += 1
        elif kind == _BINARY and raw[at] < 128:
            at += 1 + raw[at]
        elif kind == _STRUCT:
            at = _after_struct(raw, at, depth + 1)
        else:
            at = _after(raw, at, kind, depth)


def _after(raw: bytes, at: int, kind: int, depth: int) -> int:
    """Where the value of a field ends."""
    if kind in (_TRUE, _FALSE):
        return at
    if kind == _BYTE:
        return at + 1
    if kind == _DOUBLE:
        return at + 8
    if kind in _INTEGERS:
        return _varint(raw, at)[1]
    if kind == _BINARY:
        length, at = _varint(raw, at)
        return at + length
    if kind == _STRUCT:
        return _after_struct(raw, at, depth + 1)
    if kind not in (_LIST, _SET):
        raise IndexError
    n, of, at = _list(raw, at)
    if of in (_TRUE, _FALSE):  # in lists they take a byte
        return at + n
    for _ in range(n):
        raw[at]  # a count may be larger than the file
        at = _after(raw, at, of, depth + 1)
    return at


def _moved(group: bytes, by: int) -> bytes:
    """A row group with other places in the file."""
    parts: list[bytes] = []
    end = _move(group, 0, _PLACES, by, parts)
    return b"".join(parts) + group[end:]


def _move(raw: bytes, at: int, places: _Places, by: int, parts: list[bytes]) -> int:
    """Adds the struct that begins somewhere to the parts; says where it ends."""
    begins, field = at, 0
    while raw[at] != _STOP:
        kind, step = raw[at] & 15, raw[at] >> 4
        at += 1
        if step:
            field += step
        else:
            number, at = _varint(raw, at)
            field = number >> 1
        if field not in places:
            at = _after(raw, at, kind, 1)
            continue
        inner = places[field]
        if inner is None:
            parts.append(raw[begins:at])
            place, at = _varint(raw, at)
            parts.append(_as_varint(place + 2 * by if place else 0))  # zigzag; 0 is for nowhere
        else:
            n, start = (1, at) if kind == _STRUCT else _list(raw, at)[::2]
            parts.append(raw[begins:start])
            at = start
            for _ in range(n):
                at = _move(raw, at, inner, by, parts)
        begins = at
    parts.append(raw[begins : at + 1])
    return at + 1


def _list(raw: bytes, at: int) -> tuple[int, int, int]:
    """Entries of a list, their kind, and where they begin."""
    n, kind = raw[at] >> 4, raw[at] & 15
    at += 1
    if n == 15:  # fourteen is the most that fits
        n, at = _varint(raw, at)
    return n, kind, at


def _list_header(n: int) -> bytes:
    """What a list of so many structs begins with."""
    if n < 15:
        return bytes([n << 4 | _STRUCT])
    return bytes([0xF0 | _STRUCT]) + _as_varint(n)


def _as_varint(value: int) -> bytes:
    """An unsigned number as it is written."""
    found = []
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """An unsigned number, and where it ends."""
    value = shift = 0
    while True:
        byte = raw[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError
