"""What a run says of chunks that are not there: the format allows it, a broken copy does it too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unidino_fast.errors import PlateError
from unidino_fast.names import counted, natural_key
from unidino_fast.reading import stored_chunks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from unidino_fast.plate_model import Plate
    from unidino_fast.reading import Absent


def said_of_absent(plate: Plate, seen: Absent, before: Mapping[str, Sequence[str]]) -> list[str]:
    """Lines where chunks of a plate are absent, as it is listed or, at a URL, as it was read.

    It is listed only where there is something to say: of a large plate that takes long.

    Args:
        plate: of the run.
        seen: what this run missed.
        before: keys that a former run missed there, by the wells that it finished.
    """
    if not seen.n:
        return _said_of_url(seen, before)
    try:
        listed = said_of_listed(plate)
    except PlateError:  # it is being moved, or removed: what was read of it stands
        listed = []
    if listed is None:
        return _said_of_url(seen, before)
    return listed or [
        f"chunks {_reads(2)}, the first {seen.first}: is the copy of the plate complete?"
    ]


def said_of_listed(plate: Plate) -> list[str] | None:
    """A line where a plate lacks chunks; None where it cannot be listed."""
    stored = stored_chunks(plate)
    if stored.n_absent is None:
        return None
    if stored.n_absent == 0:
        return []
    return [
        f"{stored.n_absent} of the plate's {stored.n_chunks} chunks {_reads(stored.n_absent)},"
        f" the first in {stored.lacking}: is the copy of the plate complete?"
    ]


def _said_of_url(seen: Absent, before: Mapping[str, Sequence[str]]) -> list[str]:
    lines = []
    if seen.n:
        lines.append(
            f"{seen.n} of the chunks that this run read {_reads(seen.n)}, the first {seen.first}:"
            " is the plate at its URL complete?"
        )
    if before:
        wells = counted(len(before), "well")
        first = min((key for keys in before.values() for key in keys), key=natural_key)
        lines.append(
            f"chunks of {wells} that a former run finished {_reads(2)}, the first {first}: is the"
            " plate at its URL complete?"
        )
    return lines


def _reads(n_absent: int) -> str:
    return f"{'are absent and read' if n_absent > 1 else 'is absent and reads'} as the fill value"
