"""Puts the pixels of piles of chunks where they belong: planes, or projections along z."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from unidino_fast.reading.placing import Windows
from unidino_fast.reading.plan import layers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from unidino_fast.reading.buffers import Scratch
    from unidino_fast.reading.chunks import ChunkReader
    from unidino_fast.reading.plan import FieldRequest, Place, Strip, Target

    Pixels = NDArray[Any]


class Taker(NamedTuple):
    """A field that takes pixels of a pile, and where they go.

    Attributes:
        planes: (C, Y, X).
        target: where in these.
        sums: whether checksums of planes are asked for.
    """

    planes: Pixels
    target: Target
    sums: bool = False


class PileReader:
    """Reads piles of arrays that are alike; for several threads, each with its scratch.

    Args:
        chunks: of the arrays.
        request: any of those that the piles were planned for.
    """

    def __init__(self, chunks: ChunkReader, request: FieldRequest) -> None:
        self._chunks = chunks
        self._layers = layers(request.field, request.z)
        self._n_planes = sum(len(within) for _, within in self._layers)
        self._is_mean = request.z == "mean" and self._n_planes > 1
        _, n_channels, _, height, width = chunks.block_shape
        self._block = n_channels, height, width
        self.fits = chunks.fits_planes and not self._is_mean
        """Whether chunks are put into place as they are."""

    def read(
        self, array: str, strip: Strip, takers: Sequence[Taker], scratch: Scratch
    ) -> int | None:
        """Reads the piles of a strip, and puts their pixels into all fields that take some.

        Args:
            array: where it lies in the storage.
            strip: of the plan.
            takers: those of its targets whose pixels are still wanted.
            scratch: of this thread.

        Returns:
            XXH3 (64 bits) of the one plane that a strip is, where it was taken on the way.

        Raises:
            PixelError: a chunk cannot be read or decoded (names it).
        """
        if self._is_mean:
            self._read_mean(array, strip.places[0], takers, scratch)
            return None
        checksum = self._place(array, strip, takers, scratch)
        n_placed = int(checksum is not None)
        if n_placed == len(self._layers):
            return checksum or None
        if len(strip.places) > 1:
            self._read_strip(array, strip.places, takers[0], scratch, n_placed)
        else:
            self._read_pile(array, strip, takers, scratch, n_placed)
        return None

    def _place(
        self, array: str, strip: Strip, takers: Sequence[Taker], scratch: Scratch
    ) -> int | None:
        """Has chunks of the first layer decoded to where their pixels belong, if that can be."""
        if not self._chunks.is_placed or len(takers) > 1:
            return None
        planes, target, sums = takers[0]
        n_channels, _, width = self._block
        (to_y, to_x), (of_y, of_x) = target.to, target.of
        if of_y.start or of_x.start or (n_channels > 1 and strip.whole is None):
            return None
        pitch = planes.shape[-1]
        start = (target.channels[0][0] * planes.shape[-2] + to_y.start) * pitch + to_x.start
        windows = Windows(
            planes.reshape(-1),
            range(start, start + len(strip.places) * width, width),
            pitch,
            rows=n_channels * (of_y.stop - of_y.start),
            columns=of_x.stop - of_x.start,
            sums=sums and n_channels == 1 and planes[0].shape == self._block[1:],
        )
        t, c, y, x = strip.places[0]
        layer, _ = self._layers[0]
        return self._chunks.place(array, (t, c, layer, y, x), scratch, windows)

    def _read_strip(
        self, array: str, places: Sequence[Place], taker: Taker, scratch: Scratch, n_placed: int
    ) -> None:
        planes, target, _ = taker
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
                for planes, target, _ in takers:
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
        for number, (planes, target, _) in enumerate(takers):
            sums.append([])
            for position, _ in target.channels:
                shape = planes[position][target.to].shape
                held = scratch.bytes(f"sum {number} {position}", 8 * shape[0] * shape[1])
                sums[-1].append(held.view(np.float64).reshape(shape))
                sums[-1][-1][...] = 0
        for layer, within in self._layers:
            block = self._chunks.block(array, (t, c, layer, y, x), scratch)
            for (_, target, _), totals in zip(takers, sums, strict=True):
                for (_, offset), total in zip(target.channels, totals, strict=True):
                    for plane in within:
                        total += block[target.time, offset, plane][target.of]
        for (planes, target, _), totals in zip(takers, sums, strict=True):
            for (position, _), total in zip(target.channels, totals, strict=True):
                total /= self._n_planes
                if planes.dtype.kind in "iu":
                    np.rint(total, out=total)
                planes[position][target.to] = total
