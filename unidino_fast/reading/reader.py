"""What callers see: fields of a plate in, pixels (C, Y, X) in the stored dtype out."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from unidino_fast.cores import reading_cores
from unidino_fast.errors import PixelError
from unidino_fast.reading.buffers import FieldBuffers, Scratch
from unidino_fast.reading.fallback import read_into
from unidino_fast.reading.looks import Look
from unidino_fast.reading.plan import (
    FieldRequest,
    check_size,
    chunk,
    chunk_bytes,
    grouped,
    memory_bytes,
)
from unidino_fast.reading.recipe import recipe
from unidino_fast.reading.shards import Indices
from unidino_fast.reading.stream import Batch, Job, ReadAhead, Slot
from unidino_fast.reading.watcher import unwatched

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from unidino_fast.plate_model import Field
    from unidino_fast.reading.formats import UnsupportedError
    from unidino_fast.reading.recipe import Recipe, Step, Wanted
    from unidino_fast.reading.watcher import Known, Watching
    from unidino_fast.storage import Storage

    Pixels = NDArray[Any]
    MakeLook = Callable[[Sequence[int]], Look]
    """Given in how many parts each plane of a field is read."""

Noted = TypeVar("Noted")
Gathered = TypeVar("Gathered")

_LOG = logging.getLogger(__name__)
_MOST_IN_FLIGHT = 2**28
_LOCAL_THREADS = 32
"""At most: up to 16 cores each is worth itself (85 % at 16, on a Xeon)."""
_REMOTE_THREADS = 32
"""Fetches that run side by side: each waits for its trip."""


class FieldReader:
    """Reads fields of one plate; safe to use from several threads.

    Args:
        storage: where the plate lies.
        n_threads: that fetch and decode, whoever waits for a field among them but where each read
            is a trip; as many as this process has cores (32 at most), 32 for trips, by default.
        max_in_flight: bytes of pixels and chunks that are read ahead; 256 MiB, or an eighth of the
            memory where that is less, by default.
        allocate: makes the memory of the arrays, of so many bytes; ordinary memory by default.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        n_threads: int | None = None,
        max_in_flight: int | None = None,
        allocate: Callable[[int], memoryview] | None = None,
    ) -> None:
        self._storage = storage
        self._n_threads = n_threads or (
            _REMOTE_THREADS if storage.is_remote else min(reading_cores(), _LOCAL_THREADS)
        )
        self._most = max_in_flight or min(_MOST_IN_FLIGHT, memory_bytes() // 8)
        self._indices = Indices()
        self._buffers = FieldBuffers(allocate=allocate)
        self._scratches: deque[Scratch] = deque(maxlen=self._n_threads)
        self._said: set[tuple[str, str]] = set()
        self._recipe: Recipe | None = None

    def read(self, field: Field, *, time: int, channels: Sequence[int], z: str | int) -> Pixels:
        """Pixels (C, Y, X) of some channels in native byte order.

        Args:
            field: what to read.
            time: index along t.
            channels: indices along c, in the order wanted.
            z: `max` or `mean` over the planes, or the index of one. The mean is rounded to the
                stored dtype.

        Raises:
            PixelError: a chunk cannot be read or decoded (names it), or the field is too large for
                this machine.
        """
        wanted = tuple(dict.fromkeys(channels))
        with contextlib.closing(self.stream([FieldRequest(field, time, wanted, z)])) as found:
            pixels = next(found)
        if isinstance(pixels, PixelError):
            raise pixels
        if wanted == tuple(channels):
            return pixels
        repeated: Pixels = pixels[[wanted.index(channel) for channel in channels]]
        return repeated

    def stream(
        self, requests: Iterable[FieldRequest]
    ) -> Generator[Pixels | PixelError, None, None]:
        """Reads fields in order, further ones ahead in threads, which end when it is closed.

        Each chunk is fetched and decoded once for all neighbours that share it: regions of one
        image, time points in one chunk. Only where their pixels together go beyond half of
        `max_in_flight` are chunks on the border read again.

        An array may be kept; its memory is used again once nothing refers to it. What is not yet
        asked for stays within `max_in_flight`.

        Yields:
            For each request, pixels (C, Y, X) in native byte order or the error in their place: a
            chunk cannot be read (it is named), or the field is too large for this machine.
        """
        with contextlib.closing(self._slots(requests, None)) as slots:
            for slot in slots:
                yield _outcome(slot)

    def stream_noted(
        self,
        requests: Iterable[FieldRequest],
        note: Callable[[Pixels, Sequence[int], Sequence[Known]], Sequence[Noted]],
        gather: Callable[[list[Noted]], Gathered],
        watching: Watching = unwatched,
    ) -> Generator[tuple[Pixels, Gathered] | PixelError, None, None]:
        """As `stream`, with what is noted of the pixels of each field.

        Args:
            requests: of the fields.
            note: says something of each of some planes, given the pixels (C, Y, X) of a field,
                which of its planes are complete by now, and what is known of each of them. It is
                asked in the threads that read, of several fields at a time.
            gather: makes one of what was said of the planes of a field, in order.
            watching: says what is told of the pixels of planes while they are decoded block by
                block, where they are. It is asked in the same threads.
        """
        look = partial(Look, note, watching=watching)
        with contextlib.closing(self._slots(requests, look)) as slots:
            for slot in slots:
                yield _noted_outcome(slot, gather)

    def _slots(
        self, requests: Iterable[FieldRequest], look: MakeLook | None
    ) -> Generator[Slot, None, None]:
        return iter(
            ReadAhead(
                self._batches(requests, look),
                n_threads=self._n_threads,
                helps=not self._storage.is_remote,
                max_in_flight=self._most,
                scratches=self._scratches,
            )
        )

    def _batches(self, requests: Iterable[FieldRequest], look: MakeLook | None) -> Iterator[Batch]:
        for group in grouped(requests, most_bytes=self._most // 2):
            found = self._recipe_of(group)
            slots = [
                self._slot(request, wanted, None if look is None else look(parts))
                for request, wanted, parts in zip(group, found.wanted, found.parts, strict=True)
            ]
            if found.lacks is not None:
                self._say(group[0].field, found.lacks)
                yield Batch(slots, self._jobs_by_zarr(group, slots))
                continue
            array = group[0].field.array_path
            jobs = [
                Job(
                    partial(_read_lots, step, array, slots),
                    tuple([slots[number] for number in step.requests]),
                    step.n_bytes,
                    step.lots[0].first,
                )
                for step in found.steps
            ]
            yield Batch(slots, jobs)

    def _recipe_of(self, requests: list[FieldRequest]) -> Recipe:
        """That of the fields before where they were alike, as in most plates."""
        found = self._recipe  # which another stream may replace at any moment
        if found is None or not found.suits(requests):
            found = self._recipe = recipe(
                requests, self._storage, self._indices, n_threads=self._n_threads
            )
        return found

    def _slot(self, request: FieldRequest, wanted: Wanted, look: Look | None) -> Slot:
        field = request.field
        name = f"{field.array_path} of {wanted.size}"
        if not wanted.fits:
            return Slot(name, 0, fault=_misfit(request))
        make = partial(self._buffers.empty, wanted.shape, field.array.dtype)
        return Slot(name, wanted.n_bytes, make, look)

    def _jobs_by_zarr(self, requests: list[FieldRequest], slots: list[Slot]) -> list[Job]:
        return [
            Job(partial(self._by_zarr, request, slot), (slot,), _block_bytes(request))
            for request, slot in zip(requests, slots, strict=True)
            if slot.fault is None
        ]

    def _by_zarr(self, request: FieldRequest, slot: Slot, scratch: Scratch) -> None:
        if slot.planes is not None:
            read_into(slot.planes, request, self._storage)
            _look(slot, range(len(request.channels)), 0)

    def _say(self, field: Field, reason: UnsupportedError) -> None:
        """Says once for each kind of array why zarr-python reads it."""
        kind = (field.array.codec, str(reason))
        if kind not in self._said:
            self._said.add(kind)
            _LOG.warning(
                "%s and arrays like it are read by zarr-python, which is slower: %s",
                field.array_path,
                reason,
            )


def _misfit(request: FieldRequest) -> PixelError | None:
    """Why a field cannot be meant."""
    try:
        check_size(request)
    except PixelError as error:
        return error
    return None


def _read_lots(step: Step, array: str, slots: list[Slot], scratch: Scratch) -> None:
    """Reads some strips; a fault is that of the fields that take pixels from its lot."""
    for lot in step.lots:
        fields, watching = {}, None
        for request in lot.planes:
            slot = slots[request]
            if slot.planes is not None and not slot.is_lost(lot.first):
                fields[request] = slot.planes
                watching = None if slot.look is None else slot.look.watching
        if not fields:
            continue
        try:
            known = step.reader.read(array, lot, fields, scratch, watching=watching)
        except (PixelError, MemoryError) as error:
            _forget_frames(error)
            for request in lot.planes:
                slots[request].blame(error, lot.first)
        else:
            for request in fields:
                _look(slots[request], lot.planes[request], lot.first, known)


def _look(slot: Slot, numbers: Sequence[int], at: int, known: Sequence[Known] = ()) -> None:
    """Says that another part of some planes is there; what is wrong with them is its fault."""
    if slot.look is not None and slot.planes is not None:
        try:
            slot.look.take(slot.planes, numbers, known)
        except Exception as error:
            _forget_frames(error)
            slot.blame(error, at)


def _forget_frames(error: BaseException) -> None:
    """Whoever keeps an error is not to keep the pixels that stand in the frames it came through."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__


def _outcome(slot: Slot) -> Pixels | PixelError:
    """Pixels, of which the slot lets go, or what went wrong with them."""
    planes, slot.planes = slot.planes, None
    if slot.fault is None and planes is not None:
        return planes
    if isinstance(slot.fault, MemoryError):
        return PixelError(f"field {slot.name} does not fit in memory")
    if isinstance(slot.fault, PixelError):
        return slot.fault
    raise slot.fault or RuntimeError(f"field {slot.name} was not read")


def _noted_outcome(
    slot: Slot, gather: Callable[[list[Any]], Gathered]
) -> tuple[Pixels, Gathered] | PixelError:
    """As `_outcome`, with what was noted; no frame holds the pixels while further ones are read."""
    pixels = _outcome(slot)
    if isinstance(pixels, PixelError):
        return pixels
    return pixels, gather([] if slot.look is None else slot.look.noted)


def _block_bytes(request: FieldRequest) -> int:
    """What zarr-python holds while it reads a field: a block of planes, and chunks."""
    field = request.field
    planes = request.n_bytes // len(request.channels) * min(chunk(field, "c"), field.length("c"))
    return 2 * chunk_bytes(field) + planes * min(chunk(field, "z"), field.length("z"))
