"""How fields are read, but for where they lie: worked out once for all that are alike."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from unidino_fast.errors import PixelError
from unidino_fast.reading.formats import UnsupportedError, format_of
from unidino_fast.reading.piles import PileReader
from unidino_fast.reading.placed import PlacedReader
from unidino_fast.reading.plan import check_size, chunk_bytes, runs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unidino_fast.plate_model import Field
    from unidino_fast.reading.formats import ArrayFormat
    from unidino_fast.reading.lots import Lot
    from unidino_fast.reading.plan import FieldRequest, Run, Strip
    from unidino_fast.reading.shards import Indices
    from unidino_fast.storage import Storage

_STEP_BYTES = 2**23
"""Pixels that a thread reads in one go, in chunks smaller than that."""


class Wanted(NamedTuple):
    """What is asked for of a field.

    Attributes:
        shape: of its pixels (C, Y, X).
        n_bytes: of these.
        size: for messages.
        fits: whether it may be read.
    """

    shape: tuple[int, int, int]
    n_bytes: int
    size: str
    fits: bool


class Step(NamedTuple):
    """What one thread reads in one go.

    Attributes:
        reader: of all arrays that are alike.
        lots: of strips, in order.
        requests: indices of those that wait for it.
        n_bytes: that the thread holds meanwhile, beside the pixels.
    """

    reader: PileReader
    lots: list[Lot]
    requests: tuple[int, ...]
    n_bytes: int


class Recipe(NamedTuple):
    """How requests of one array are read.

    Attributes:
        requests: for which it was worked out.
        wanted: one a request.
        steps: in order.
        parts: one a request: of each of its planes, in how many parts it is read.
        lacks: why zarr-python must read them; None where it need not.
    """

    requests: Sequence[FieldRequest]
    wanted: tuple[Wanted, ...]
    steps: list[Step]
    parts: tuple[tuple[int, ...], ...]
    lacks: UnsupportedError | None = None

    def suits(self, requests: Sequence[FieldRequest]) -> bool:
        """Whether requests of another array are alike in all that the recipe depends on."""
        return len(requests) == len(self.requests) and all(map(_alike, requests, self.requests))


def recipe(
    requests: Sequence[FieldRequest], storage: Storage, indices: Indices, *, n_threads: int
) -> Recipe:
    """Works out how requests of one array, of one choice of z, are read by some threads."""
    wanted = tuple(map(_wanted, requests))
    places = [place for place, one in enumerate(wanted) if one.fits]
    sound = [requests[place] for place in places]
    try:
        form = format_of(requests[0].field.array)
    except UnsupportedError as error:
        whole = tuple([(1,) * len(request.channels) for request in requests])
        return Recipe(requests, wanted, [], whole, error)
    steps = _steps(sound, places, form, storage, indices, n_threads) if sound else []
    return Recipe(requests, wanted, steps, _parts(requests, steps))


def _steps(
    requests: Sequence[FieldRequest],
    places: Sequence[int],
    form: ArrayFormat,
    storage: Storage,
    indices: Indices,
    n_threads: int,
) -> list[Step]:
    """The steps of requests that stand at these places among all."""
    field = requests[0].field
    reader = PileReader(PlacedReader(storage, field, form, indices), requests[0])
    # a trip each where reads are trips; else enough that a job costs little beside them
    most = 1 if storage.is_remote else 1 + _STEP_BYTES // chunk_bytes(field)
    shapes = {place: request.shape for place, request in zip(places, requests, strict=True)}
    steps = []
    first = 0
    for run in runs(requests, most=most, fits=reader.fits, n_threads=n_threads):
        strips = [_placed(strip, places) for strip in run.strips]
        takers = tuple(places[number] for number in run.requests)
        own = list(reader.lots(strips, first, shapes))
        steps.append(Step(reader, own, takers, _held_bytes(requests[0], run)))
        first += len(strips)
    return steps


def _parts(requests: Sequence[FieldRequest], steps: Sequence[Step]) -> tuple[tuple[int, ...], ...]:
    found = [[0] * len(request.channels) for request in requests]
    for lot in (one for step in steps for one in step.lots):
        for request, planes in lot.planes.items():
            for position in planes:
                found[request][position] += 1
    return tuple(map(tuple, found))


def _wanted(request: FieldRequest) -> Wanted:
    try:
        check_size(request)
    except PixelError:
        fits = False
    else:
        fits = True
    shape = request.shape
    return Wanted(shape, request.n_bytes, f"{shape[1]} x {shape[2]} px", fits)


def _alike(one: FieldRequest, other: FieldRequest) -> bool:
    a, b = one.field, other.field
    return (
        (a.array is b.array or (a.array == b.array and _stored(a) == _stored(b)))
        and a.axes == b.axes
        and a.region == b.region
        and (one.time, one.channels, one.z) == (other.time, other.channels, other.z)
    )


def _stored(field: Field) -> str:
    """How its array is stored, as the document says it; attributes do not matter."""
    document = {key: said for key, said in field.array.document.items() if key != "attributes"}
    return json.dumps(document, sort_keys=True)  # as text: true is not 1 there


def _placed(strip: Strip, places: Sequence[int]) -> Strip:
    """A strip whose targets count all requests, not only those that fit."""
    return strip._replace(
        targets=[target._replace(request=places[target.request]) for target in strip.targets]
    )


def _held_bytes(request: FieldRequest, run: Run) -> int:
    """A strip, stored and decoded; and sums."""
    n_bytes = 2 * run.n_places * chunk_bytes(request.field)
    if request.z == "mean":
        n_bytes += 8 * run.n_targets * chunk_bytes(request.field)
    return n_bytes
