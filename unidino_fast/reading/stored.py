"""How much of a plate is stored: as it is listed, or as reading finds it."""

from __future__ import annotations

import math
import re
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from unidino_fast.storage.remote import RemoteStorage

if TYPE_CHECKING:
    from unidino_fast.plate_model import Plate
    from unidino_fast.storage import Storage

_CHUNK_KEY = re.compile(r"(c[/.])?[0-9]+([/.][0-9]+)*")


def stored_chunks(plate: Plate) -> tuple[int | None, int | None, int]:
    """Bytes on disk, chunks (or shards) that are not there, and how many there should be.

    The first two are None where the storage cannot tell.
    """
    n_bytes, n_found, n_chunks = 0, 0, 0
    for path, field in {field.array_path: field for field in plate.fields}.items():
        grid = field.array.shards or field.array.chunks
        n_chunks += math.prod(
            -(-length // size) for length, size in zip(field.array.shape, grid, strict=True)
        )
        stamps = plate.storage.stamps(path)
        if stamps is None:
            return None, None, n_chunks
        sizes = [size for key, size, _ in stamps if _CHUNK_KEY.fullmatch(key, len(path) + 1)]
        n_bytes += sum(sizes)
        n_found += len(sizes)
    return n_bytes, max(n_chunks - n_found, 0), n_chunks


def absent_seen(storage: Storage) -> AbstractContextManager[set[str]]:
    """Gives a set that fills with the keys of absent chunks (or shards) while they are asked for.

    It stays empty where the storage can be listed: `stored_chunks` counts those.
    """
    return storage.absent_seen() if isinstance(storage, RemoteStorage) else nullcontext(set())
