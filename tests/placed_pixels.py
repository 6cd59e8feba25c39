"""Pixels that compiled code puts into place: read into memory in which it is seen what lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unidino_fast.reading import FieldReader

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from unidino_fast.plate_model import Plate


def used(n_bytes: int) -> memoryview:
    """Memory in which what is not written to is seen."""
    return memoryview(bytearray(b"\xa5" * n_bytes))


def read_into_used_memory(plate: Plate, n_threads: int = 2) -> Iterator[tuple[str, np.ndarray]]:
    """Pixels by the path of each field."""
    reader = FieldReader(plate.storage, n_threads=n_threads, allocate=used)
    for field in plate.fields:
        pixels = reader.read(field, time=0, channels=range(3), z="max")
        yield field.array_path.removesuffix("/0"), pixels


def said(steps: list[tuple[int, int]]) -> list[bool]:
    """What compiled code said of each chunk that it took or refused."""
    found: list[bool] = []
    for n_given, n_taken in steps:
        found += [True] * n_taken
        if n_taken < n_given:
            found.append(False)
    return found
