"""Doubles for what surrounds the pipeline: a plate, and networks and devices that cost nothing."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

import numpy as np
import torch

from unidino_fast.engines.embedder import Embedder
from unidino_fast.engines.packing import Ticket, TilePacker
from unidino_fast.names import WellName
from unidino_fast.planning import TileGrid
from unidino_fast.plate import open_plate
from unidino_fast.writing import PlateWriter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from unidino_fast.plate_model import Plate

CHANNELS = ("DNA", "ER", "RNA", "AGP", "Mito")
EDGE = 1080
DISTINCT = 4
"""Wells of a noise plate that differ."""


@dataclass(frozen=True, slots=True)
class PlateShape:
    """How large a simulated plate is."""

    n_wells: int
    n_fields: int = 1
    n_channels: int = 2
    edge: int = EDGE

    def __str__(self) -> str:
        fields = "1 field" if self.n_fields == 1 else f"{self.n_fields} fields"
        size = f"{self.edge} x {self.edge} px"
        return f"{self.n_wells} wells x {fields} x {self.n_channels} channels of {size}"


class FreeEngine:
    """Takes patches, gives zeros, costs nothing."""

    name = "free"
    step = 8

    def __init__(self, dim: int) -> None:
        self._dim = dim

    def __call__(self, patches: Tensor) -> Tensor:
        """(N, T, P * P) -> zeros (N, D)."""
        return torch.zeros(len(patches), self._dim)


class FreeNetwork(Embedder):
    """An embedder whose network costs nothing; scaling and packing are done."""

    def _built(self) -> Any:
        return FreeEngine(self.dim)


class FreeDevice(Embedder):
    """An embedder whose device costs nothing, to be used within `free_scaling`.

    What is left is the host's share of a run on a fast GPU: reading, checksums, the choice of
    tiles, the bookkeeping, part files and tables.
    """

    def packer(self) -> TilePacker:
        """Gives zeros at once."""
        return cast("TilePacker", _FreePacker(self.dim))


class _FreePacker:
    patch = 16
    dtype = torch.float32
    device = torch.device("cuda")
    """It stands for one: the tiles of all channels are cut in one step."""

    def __init__(self, dim: int) -> None:
        self._dim = dim

    def add(self, patches: Tensor) -> Ticket:
        return _zeros(len(patches), self._dim)

    def flush(self) -> None:
        """Nothing is left."""


@lru_cache(maxsize=8)
def _zeros(n_tiles: int, dim: int) -> Ticket:
    ticket = Ticket(n_tiles, dim)
    ticket.fill(0, np.zeros((n_tiles, dim), np.float32))
    return ticket


@lru_cache(maxsize=8)
def _empty(n_planes: int, n_tiles: int) -> Tensor:
    return torch.zeros((n_planes, n_tiles, 1, 1))


@contextmanager
def free_scaling() -> Iterator[None]:
    """Embedding cuts no tiles meanwhile: it gets as many empty ones."""

    def tiles_of(planes: Tensor, *_: object, tile: int, stride: int, **__: object) -> Tensor:
        return _empty(len(planes), TileGrid(tile, stride).n_tiles(*planes.shape[1:]))

    with mock.patch("unidino_fast.embedding.tiles_of", tiles_of):
        yield


def noise_plate(path: Path, shape: PlateShape) -> Plate:
    """Noise over a dim background, as of a camera: it compresses as such images do.

    Beyond `DISTINCT` wells the files are links to theirs: every chunk is opened, read and decoded
    for each well, but a long run fits on a small disk, and into the page cache.
    """
    rng = np.random.default_rng(0)
    n_distinct = min(shape.n_wells, DISTINCT)
    channels = list(CHANNELS[: shape.n_channels])
    with PlateWriter(path, name="p", channels=channels) as writer:
        for index in range(n_distinct):
            for field in range(shape.n_fields):
                size = (shape.n_channels, shape.edge, shape.edge)
                pixels = rng.poisson(300, size).astype(np.uint16)
                writer.add_field(str(_position(index)), str(field), pixels)
    _link_wells(path, n_distinct, shape.n_wells)
    return open_plate(path)


def _position(index: int) -> WellName:
    return WellName(index // 24, index % 24 + 1)


def _link_wells(path: Path, n_distinct: int, n_wells: int) -> None:
    """Adds wells that are links to the first ones."""
    attributes = path / ".zattrs"
    document = json.loads(attributes.read_text())
    plate = document["plate"]
    for index in range(n_distinct, n_wells):
        row, column = _position(index).row_letters, str(_position(index).column)
        shutil.copytree(
            path / "A" / str(index % n_distinct + 1), path / row / column, copy_function=os.link
        )
        for kind, name in (("rows", row), ("columns", column)):
            if {"name": name} not in plate[kind]:
                plate[kind].append({"name": name})
        if not (path / row / ".zgroup").exists():
            shutil.copy(path / ".zgroup", path / row)
        plate["wells"].append(
            {
                "path": f"{row}/{column}",
                "rowIndex": plate["rows"].index({"name": row}),
                "columnIndex": plate["columns"].index({"name": column}),
            }
        )
    attributes.write_text(json.dumps(document))
