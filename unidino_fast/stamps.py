"""What tells whether pixels are still those that a part was made of, without reading them again.

In a folder that is the size and time of every file that a well is read from, in a zip its
checksum. Remote stores
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
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from unidino_fast.errors import PlateError
from unidino_fast.names import one_line
from unidino_fast.planning import channels_to_read
from unidino_fast.reading.plan import chunk, layers, touched
from unidino_fast.storage import StorageFault
from unidino_fast.storage.remote import ABSENT, RemoteStorage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from unidino_fast.config import EmbedOptions
    from unidino_fast.planning import FieldTask, WellTask
    from unidino_fast.plate_model import Field
    from unidino_fast.storage import Stamp, Storage

PixelStamp: TypeAlias = str | dict[str, str]
"""A digest of what the storage lists, or tags of chunks by their keys; JSON-ready."""


_MOST_ABSENT = 4
"""Absent chunks of a field that are asked for again."""
_MOST_ASKED = 100_000
"""Objects of a field beyond which its folder is listed: metadata may claim any number of them."""
_MOST_LOOKED_AT = 10_000
"""Chunks of a field beyond which none is looked for."""


def stamps_before(
    storage: Storage,
    tasks: Sequence[WellTask],
    finished: Sequence[WellTask],
    options: EmbedOptions,
    held: Mapping[str, PixelStamp | None] | None = None,
) -> dict[str, PixelStamp | None]:
    """Stamps of wells as they are now, by name; None where that is not known, or not yet.

    Args:
        storage: of the plate.
        tasks: all wells.
        finished: those of them that are asked for where asking costs trips.
        options: what is read of them.
        held: stamps of finished wells as they were, whose absent chunks are asked for too.

    Raises:
        PlateError: the storage cannot tell, though it should.
    """
    if not isinstance(storage, RemoteStorage):
        return {task.name: _looked_at(storage, task, options) for task in tasks}
    keys = {
        task.name: [*_sampled(task, options.z), *_were_absent(task, (held or {}).get(task.name))]
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


def _looked_at(storage: Storage, task: WellTask, options: EmbedOptions) -> str | None:
    """Digest of sizes and times of the objects that a well is read from.

    They are asked for by name: to list the folders that chunks lie in takes twice as long.
    """
    keys: dict[str, None] = {}
    listed: dict[str, list[Stamp] | None] = {}
    for field in task.fields:
        path = field.field.array_path
        naming, places = _naming(field.field), _places_read(field, options)
        if naming is not None and math.prod(map(len, places)) <= _MOST_ASKED:
            own = itertools.product(*(map(str, along) for along in places))
            keys |= dict.fromkeys(map(naming.key, own))
        elif path not in listed:
            listed[path] = storage.stamps(path)
            there = {key for key, *_ in listed[path] or ()}
            claimed = (naming.key(map(str, place)) for place in _each(places)) if naming else ()
            absent = next((key for key in claimed if key not in there), None)
            keys |= {} if absent is None else {absent: None}  # one of them, to be told of it
    found = storage.sizes_and_times(list(keys))
    if found is None:
        return None
    return hashlib.sha256(json.dumps([list(keys), found, listed]).encode()).hexdigest()


def _places_read(task: FieldTask, options: EmbedOptions) -> list[Sequence[int]]:
    """Places along each axis of the stored objects that a field is read from."""
    field = task.field
    y, x = (field.region.y, field.region.x) if field.region else (0, 0)
    chunks: dict[str, Sequence[int]] = {
        "t": [task.time // chunk(field, "t")],
        "c": [channel // chunk(field, "c") for channel in channels_to_read(task, options)],
        "z": [layer for layer, _ in layers(field, options.z)],
        "y": touched(y, field.height, chunk(field, "y")),
        "x": touched(x, field.width, chunk(field, "x")),
    }
    return [
        range(along[0] // n, along[-1] // n + 1)  # of any length that the metadata claim
        if isinstance(along, range)
        else list(dict.fromkeys(index // n for index in along))
        for along, n in zip((chunks[axis] for axis in field.axes), _in_object(field), strict=True)
    ]


def _each(places: Sequence[Sequence[int]]) -> Iterator[tuple[int, ...]]:
    """As `itertools.product`, which would first make lists of ranges."""
    if not places:
        yield ()
        return
    for place in places[0]:
        for others in _each(places[1:]):
            yield place, *others


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
    naming = _naming(field)
    if naming is None:
        return None
    return naming.key([str(place // n) for place, n in zip(index, _in_object(field), strict=True)])


def _in_object(field: Field) -> list[int]:
    """Chunks along each axis of a stored object: one, but in shards."""
    facts = field.array
    sizes = zip(facts.shards or facts.chunks, facts.chunks, strict=True)
    return [outer // inner for outer, inner in sizes]


class _Naming(NamedTuple):
    """How the objects of an array are called."""

    start: str
    separator: str

    def key(self, places: Iterable[str]) -> str:
        """That of the object at these places in the grid."""
        return self.start + self.separator.join(places)


def _naming(field: Field) -> _Naming | None:
    """Of arrays that zarr-python reads too; None where it is to judge the array."""
    facts = field.array
    start, separator = f"{field.array_path}/", "."
    try:
        if facts.zarr_format == 2:
            separator = facts.document.get("dimension_separator", ".")
        else:
            keys = facts.document["chunk_key_encoding"]
            is_default = keys["name"] == "default"
            separator = keys.get("configuration", {}).get("separator", "/" if is_default else ".")
            if is_default:
                start += f"c{separator}"
            elif keys["name"] != "v2":
                return None
    except (KeyError, TypeError, AttributeError):
        return None
    return _Naming(start, separator) if separator in (".", "/") else None
