"""Executes reads: a field's stored chunks -> (C, Y, X) pixels in the stored dtype.

The way of a chunk: `plan` (which chunks, and who takes their pixels), `stream` (threads that run
ahead within a bound), `chunks` (fetched, decoded, put in place), which asks `formats` (what an
array's document says), `shards` and `codecs`. `fallback` has zarr-python read whatever `formats`
does not know. Arrays are built from metadata that `open_plate` has parsed; nothing is read twice.
"""

from __future__ import annotations

from unidino_fast.reading.plan import FieldRequest
from unidino_fast.reading.reader import FieldReader
from unidino_fast.reading.stored import Absent, stored_chunks
from unidino_fast.reading.watcher import Known, Watcher, unwatched

__all__ = [
    "Absent",
    "FieldReader",
    "FieldRequest",
    "Known",
    "Watcher",
    "stored_chunks",
    "unwatched",
]
