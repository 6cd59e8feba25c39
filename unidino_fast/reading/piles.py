"""Puts the pixels of piles of chunks where they belong: planes, or projections along z."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from unidino_fast.reading.lots import lots
from unidino_fast.reading.plan import layers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from unidino_fast.reading.buffers import Scratch
    from unidino_fast.reading.lots import Lot
    from unidino_fast.reading.placed import PlacedReader
    from unidino_fast.reading.plan import FieldRequest, Place, Strip, Target
    from unidino_fast.reading.watcher import Known, Watching

    Pixels = NDArray[Any]


class Taker(NamedTuple):
    """A field that takes pixels of a pile, and where they go.

    Attributes:
        planes: (C, Y, X).
        target: where in these.
    """

    planes: Pixels
    target: Target


class PileReader:
    """Reads piles of arrays that are alike; for several threads, each with its scratch.

    Args:
        chunks: of the arrays.
        request: any of those that the piles were planned for.
    """

    def __init__(self, chunks: PlacedReader, request: FieldRequest) -> None:
        self._chunks = chunks
        self._layers = layers(request.field, request.z)
        self._n_planes = sum(len(within) for _, within in self._layers)
        self._is_mean = request.z == "mean" and self._n_planes > 1
        _, n_channels, _, height, width = chunks.block_shape
        self._block = n_channels, height, width
        self.fits = chunks.fits_planes and not self._is_mean
        """Whether chunks are put into place as they are."""

    def lots(
        self, strips: Sequence[Strip], first: int, shapes: Mapping[int, tuple[int, int, int]]
    ) -> Iterator[Lot]:
        """Strips as `read` takes them.

        Args:
            strips: of a step.
            first: number of the first, among those of all steps.
            shapes: of the pixels (C, Y, X) of each request.
        """
        block = self._block if self._chunks.is_placed and not self._is_mean else None
        layers = [layer for layer, _ in self._layers]
        files = self._chunks.files
        return lots(strips, first, block=block, shapes=shapes, layers=layers, files=files)

    def read(
        self,
        array: str,
        lot: Lot,
        fields: Mapping[int, Pixels],
        scratch: Scratch,
        *,
        watching: Watching | None = None,
    ) -> list[Known]:
        """Reads the strips of a lot, and puts their pixels into all fields that take some.

        Args:
            array: where it lies in the storage.
            lot: of `lots`.
            fields: the planes (C, Y, X) of those requests whose pixels are still wanted.
            scratch: of this thread.
            watching: says what is told of planes while they are decoded; None: nothing is asked.

        Returns:
            What is known of each plane, or of none.

        Raises:
            PixelError: a chunk cannot be read or decoded (names it).
        """
        n_placed = 0
        if lot.chunks is not None and self._chunks.is_placed:
            [planes] = fields.values()
            if len(self._layers) > 1:
                watching = None  # of what is not yet the projection
            known = self._chunks.place(array, lot.chunks, planes, scratch, watching=watching)
            n_placed = int(known is not None)
            if known is not None and n_placed == len(self._layers):
                return known
        for strip in lot.strips:
            takers = [
                Taker(fields[target.request], target)
                for target in strip.targets
                if target.request in fields
            ]
            if self._is_mean:
                self._read_mean(array, strip.places[0], takers, scratch)
            elif len(strip.places) > 1:
                self._read_strip(array, strip.places, takers[0], scratch, n_placed)
            else:
                self._read_pile(array, strip, takers, scratch, n_placed)
        return []

    def _read_strip(
        self, array: str, places: Sequence[Place], taker: Taker, scratch: Scratch, n_placed: int
    ) -> None:
        planes, target = taker
        blocks, rows = scratch.blocks((len(places), *self._block), planes.dtype)  # (N, C, Y, X)
        for number, (layer, _) in enumerate(self._layers[n_placed:], n_placed):
            t, c, y, x = places[0]
            self._chunks.put(array, (t, c, layer, y, x), scratch, rows)
            for position, offset in target.channels:
                source = blocks[:, offset, target.of[0]].transpose(1, 0, 2)  # (Y, N, X)
                pixels = planes[position][target.to].reshape(source.shape)  # a view still
                if number == 0:
                    pixels[...] = source
                else:
                    np.maximum(pixels, source, out=pixels)

    def _read_pile(
        self, array: str, strip: Strip, takers: Sequence[Taker], scratch: Scratch, n_placed: int
    ) -> None:
        t, c, y, x = strip.places[0]
        for number, (layer, within) in enumerate(self._layers[n_placed:], n_placed):
            is_first = number == 0
            if is_first and strip.whole is not None:
                into = takers[0].planes[strip.whole].reshape(-1).view(np.uint8)
                self._chunks.put(array, (t, c, layer, y, x), scratch, (into,))
                continue  # of one plane
            block = self._chunks.block(array, (t, c, layer, y, x), scratch)
            for plane in within:
                for planes, target in takers:
                    for position, offset in target.channels:
                        source = block[target.time, offset, plane][target.of]
                        if is_first and plane == within.start:
                            planes[position][target.to] = source
                        else:
                            pixels = planes[position][target.to]
                            np.maximum(pixels, source, out=pixels)

    def _read_mean(
        self, array: str, place: Place, takers: Sequence[Taker], scratch: Scratch
    ) -> None:
        t, c, y, x = place
        sums: list[list[Pixels]] = []
        for number, (planes, target) in enumerate(takers):
            sums.append([])
            for position, _ in target.channels:
                shape = planes[position][target.to].shape
                held = scratch.bytes(f"sum {number} {position}", 8 * shape[0] * shape[1])
                sums[-1].append(held.view(np.float64).reshape(shape))
                sums[-1][-1][...] = 0
        for layer, within in self._layers:
            block = self._chunks.block(array, (t, c, layer, y, x), scratch)
            for (_, target), totals in zip(takers, sums, strict=True):
                for (_, offset), total in zip(target.channels, totals, strict=True):
                    for plane in within:
                        total += block[target.time, offset, plane][target.of]
        for (planes, target), totals in zip(takers, sums, strict=True):
            for (position, _), total in zip(target.channels, totals, strict=True):
                total /= self._n_planes
                if planes.dtype.kind in "iu":
                    np.rint(total, out=total)
                planes[position][target.to] = total
