"""What tells whether pixels are still those that a part was made of, without reading them again.

In a folder that is the size and time of every file of a well, in a zip its checksums. Remote stores
are not listed, and a request for each chunk would cost as much as reading: there it is the tag
(ETag, or time and size) of one chunk of each field and time point, drawn by the field's name, so
that among the fields of a well every channel and corner has its turn. The tags of what is embedded
come with the pixels; only wells that were finished before are asked for. So a single chunk that
is replaced may go unseen; `--verify` compares all pixels. Chunks that were absent are kept in mind
too, a few of each field: a plate may be embedded before it is complete. What the metadata say of a
field is compared by its own digest (`Field.metadata_digest`).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import zlib
from typing import TYPE_CHECKING, TypeAlias

from unidino_fast.errors import PlateError
from unidino_fast.names import one_line
from unidino_fast.reading.plan import chunk, layers, touched
from unidino_fast.storage import StorageFault
from unidino_fast.storage.remote import ABSENT, RemoteStorage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from unidino_fast.planning import FieldTask, WellTask
    from unidino_fast.plate_model import Field
    from unidino_fast.storage import Storage

PixelStamp: TypeAlias = str | dict[str, str]
"""A digest of what the storage lists, or tags of chunks by their keys; JSON-ready."""


_MOST_ABSENT = 4
"""Absent chunks of a field that are asked for again."""
_MOST_LOOKED_AT = 10_000
"""Chunks of a field beyond which none is looked for."""


def stamps_before(
    storage: Storage,
    tasks: Sequence[WellTask],
    finished: Sequence[WellTask],
    z: str | int,
    held: Mapping[str, PixelStamp | None] | None = None,
) -> dict[str, PixelStamp | None]:
    """Stamps of wells as they are now, by name; None where that is not known, or not yet.

    Args:
        storage: of the plate.
        tasks: all wells.
        finished: those of them that are asked for where asking costs trips.
        z: the planes that are read of them.
        held: stamps of finished wells as they were, whose absent chunks are asked for too.

    Raises:
        PlateError: the storage cannot tell, though it should.
    """
    if not isinstance(storage, RemoteStorage):
        return {task.name: _listed(storage, task) for task in tasks}
    keys = {
        task.name: [*_sampled(task, z), *_were_absent(task, (held or {}).get(task.name))]
        for task in finished
    }
    wanted = list(dict.fromkeys(key for own in keys.values() for key in own))
    found = dict(zip(wanted, storage.tags(wanted), strict=True))
    return {
        task.name: _tags({key: found[key] for key in keys.get(task.name, ())}, task.name)
        for task in tasks
    }


def stamp_as_read(
    storage: Storage, task: WellTask, z: str | int, before: PixelStamp | None
) -> PixelStamp | None:
    """The stamp of pixels that have just been read; None where the storage does not tell.

    No fault: a well that is finished is kept whether or not its store still answers.

    Args:
        storage: that they were read from.
        task: the well.
        z: the planes that were read.
        before: what `stamps_before` gave.
    """
    if not isinstance(storage, RemoteStorage):
        return before
    keys = _sampled(task, z)
    tags = dict(zip(keys, storage.tags_as_read(keys), strict=True))
    for field in {one.field.array_path: one.field for one in task.fields}.values():
        absent = itertools.islice(storage.absent_as_read(_all_keys(field)), _MOST_ABSENT)
        tags |= dict.fromkeys(absent, ABSENT)
    return _known(tags)


def difference(before: PixelStamp | None, now: PixelStamp | None, well: str) -> str | None:
    """What changed, in words that "since" can follow; None if nothing is known to have changed.

    Stamps of different kinds of storage say nothing about each other.
    """
    if isinstance(before, str) and isinstance(now, str) and before != now:
        return f"sizes or times of the chunks of well {well} changed"
    if isinstance(before, dict) and isinstance(now, dict):
        for key, tag in before.items():
            if now.get(key, tag) != tag:
                return f"chunk {key} of well {well} changed (it was: {tag}; now: {now[key]})"
    return None


def absent_chunks(stamp: PixelStamp | None) -> list[str]:
    """Keys of chunks that a stamp knows to be absent; of remote stores alone."""
    return [] if not isinstance(stamp, dict) else [k for k, tag in stamp.items() if tag == ABSENT]


def _listed(storage: Storage, task: WellTask) -> str | None:
    """Digest of what a storage lists of a well's chunks."""
    digest = hashlib.sha256()
    for path in sorted({field.field.array_path for field in task.fields}):
        stamps = storage.stamps(path)
        if stamps is None:
            return None
        digest.update(json.dumps(stamps).encode())
    return digest.hexdigest()


def _tags(found: dict[str, str | StorageFault | None], well: str) -> dict[str, str] | None:
    """A stamp of tags that were asked for; raises PlateError where there was no answer."""
    for key, tag in found.items():
        if isinstance(tag, StorageFault):
            raise PlateError(
                f"whether chunk {key} of well {well} changed cannot be found out"
                f" ({one_line(tag.reason)}): try again later, or use another --out"
            )
    return _known(found)


def _known(found: Mapping[str, str | StorageFault | None]) -> dict[str, str] | None:
    return {key: tag for key, tag in found.items() if isinstance(tag, str)} or None


def _sampled(task: WellTask, z: str | int) -> list[str]:
    """Keys of the chunks that stand for a well, one a field and time point."""
    keys = [_drawn(field, z) for field in task.fields]
    return [key for key in dict.fromkeys(keys) if key is not None]


def _were_absent(task: WellTask, held: PixelStamp | None) -> list[str]:
    """The chunks of a well that its stamp says were absent; of its own arrays only."""
    own = tuple(f"{field.field.array_path}/" for field in task.fields)
    return [
        key for key in absent_chunks(held) if key.startswith(own) and ".." not in key.split("/")
    ]


def _all_keys(field: Field) -> Iterator[str]:
    """Keys of all stored objects of a field's array, where they are not too many."""
    facts = field.array
    steps = [
        (-(-length // size), size // inner)
        for length, size, inner in zip(
            facts.shape, facts.shards or facts.chunks, facts.chunks, strict=True
        )
    ]
    if math.prod(n for n, _ in steps) > _MOST_LOOKED_AT:
        return
    for index in itertools.product(*(range(0, n * step, step) for n, step in steps)):
        key = _key(field, index)
        if key is not None:
            yield key


def _drawn(task: FieldTask, z: str | int) -> str | None:
    """One of the stored objects that a field is read from; None where its name is not known."""
    field = task.field
    draw = zlib.crc32(f"{field.array_path} {field.site} {task.time}".encode())

    def one_of(choices: Sequence[int]) -> int:
        nonlocal draw
        draw, place = divmod(draw, len(choices))
        return choices[place]

    y, x = (field.region.y, field.region.x) if field.region else (0, 0)
    index = {
        "t": task.time // chunk(field, "t"),
        "c": one_of(task.channels) // chunk(field, "c"),
        "z": one_of([layer for layer, _ in layers(field, z)]),
        "y": one_of(touched(y, field.height, chunk(field, "y"))),
        "x": one_of(touched(x, field.width, chunk(field, "x"))),
    }
    return _key(field, [index[axis] for axis in field.axes])


def _key(field: Field, index: Sequence[int]) -> str | None:
    """Key of the stored object that holds a chunk; of arrays that zarr-python reads too."""
    facts = field.array
    if facts.shards is not None:
        sizes = zip(index, facts.chunks, facts.shards, strict=True)
        index = [place * inner // outer for place, inner, outer in sizes]
    parts, separator = [str(place) for place in index], "."
    try:
        if facts.zarr_format == 2:
            separator = facts.document.get("dimension_separator", ".")
        else:
            keys = facts.document["chunk_key_encoding"]
            is_default = keys["name"] == "default"
            separator = keys.get("configuration", {}).get("separator", "/" if is_default else ".")
            if is_default:
                parts.insert(0, "c")
            elif keys["name"] != "v2":
                return None
    except (KeyError, TypeError, AttributeError):
        return None  # zarr-python judges it
    return f"{field.array_path}/{separator.join(parts)}" if separator in (".", "/") else None
