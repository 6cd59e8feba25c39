"""Puts the pixels of piles of chunks where they belong: planes, or projections along z."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from unidino_fast.reading.plan import layers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from unidino_fast.reading.buffers import Scratch
    from unidino_fast.reading.chunks import ChunkReader
    from unidino_fast.reading.plan import FieldRequest, Place, Target

    Pixels = NDArray[Any]


class Taker(NamedTuple):
    """A field that takes pixels of a pile, and where they go: planes (C, Y, X)."""

    planes: Pixels
    target: Target


class PileReader:
    """Reads piles of one array; safe to use from several threads, each with its scratch.

    Args:
        chunks: of the array.
        request: any of those that the piles were planned for.
    """

    def __init__(self, chunks: ChunkReader, request: FieldRequest) -> None:
        self._chunks = chunks
        self._layers = layers(request.field, request.z)
        self._n_planes = sum(len(within) for _, within in self._layers)
        self._is_mean = request.z == "mean" and self._n_planes > 1
        _, n_channels, _, height, width = chunks.block_shape
        self._n_channels = n_channels
        self._block = n_channels, height, width
        self._everything = (slice(0, height), slice(0, width))
        self._fits_planes = chunks.fits_planes

    @property
    def joins(self) -> bool:
        """Whether it reads strips of several piles."""
        return self._fits_planes and not self._is_mean

    def read(self, places: Sequence[Place], takers: Sequence[Taker], scratch: Scratch) -> None:
        """Reads the piles of a strip, and puts their pixels into all fields that take some.

        Raises:
            PixelError: a chunk cannot be read or decoded (names it).
        """
        if len(places) > 1:
            self._read_strip(places, takers[0], scratch)
        elif self._is_mean:
            self._read_mean(places[0], takers, scratch)
        else:
            self._read_pile(places[0], takers, scratch)

    def _read_strip(self, places: Sequence[Place], taker: Taker, scratch: Scratch) -> None:
        planes, target = taker
        blocks, rows = scratch.blocks((len(places), *self._block), planes.dtype)  # (N, C, Y, X)
        for number, (layer, _) in enumerate(self._layers):
            t, c, y, x = places[0]
            self._chunks.put_row((t, c, layer, y, x), scratch, rows)
            for position, offset in target.channels:
                source = blocks[:, offset, target.of[0]].transpose(1, 0, 2)  # (Y, N, X)
                pixels = planes[position][target.to].reshape(source.shape)  # a view still
                if number == 0:
                    pixels[...] = source
                else:
                    np.maximum(pixels, source, out=pixels)

    def _read_pile(self, place: Place, takers: Sequence[Taker], scratch: Scratch) -> None:
        t, c, y, x = place
        into = self._whole(takers)
        for number, (layer, within) in enumerate(self._layers):
            is_first = number == 0
            if is_first and into is not None:
                self._chunks.put((t, c, layer, y, x), scratch, into.reshape(-1).view(np.uint8))
                continue  # of one plane
            block = self._chunks.block((t, c, layer, y, x), scratch)
            for plane in within:
                for planes, target in takers:
                    for position, offset in target.channels:
                        source = block[target.time, offset, plane][target.of]
                        if is_first and plane == within.start:
                            planes[position][target.to] = source
                        else:
                            pixels = planes[position][target.to]
                            np.maximum(pixels, source, out=pixels)

    def _read_mean(self, place: Place, takers: Sequence[Taker], scratch: Scratch) -> None:
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
            block = self._chunks.block((t, c, layer, y, x), scratch)
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

    def _whole(self, takers: Sequence[Taker]) -> Pixels | None:
        """The field's memory where a chunk can be decoded straight into it."""
        if not self._fits_planes or len(takers) != 1:
            return None
        planes, target = takers[0]
        n_channels, first = self._n_channels, target.channels[0][0]
        if target.of != self._everything or target.channels != [
            (first + offset, offset) for offset in range(n_channels)
        ]:
            return None
        found: Pixels = planes[first : first + n_channels, target.to[0], target.to[1]]
        return found if found.flags.c_contiguous else None
