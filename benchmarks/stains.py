"""Stains told apart on images never seen: `python -m unidino_fast.benchmarks.stains FOLDER W...`.

Every tile of every image is asked for its nearest tile in another field: is it of the same stain?
A backbone that has memorised the textures of its training images instead of learning to see does
no better at this than a random one. Letters: N tiles, D features.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from unidino_fast import ops
from unidino_fast.backbones import open_backbone
from unidino_fast.benchmarks.held_out import mad_normalized, random_of_the_same_size
from unidino_fast.convert.images import is_image, read_header, read_pixels
from unidino_fast.engines import load_backbone
from unidino_fast.errors import UsageError
from unidino_fast.preprocess import STRETCH, STRETCH_EPSILON

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

TILE = 224
PATTERN = r"(?P<field>[A-Z]\d+)_.*_(?P<stain>[A-Z]+)_\d+\.tif"
PERCENTILES = (1, 5, 25, 50, 75, 90, 95, 99)


class Tiles(NamedTuple):
    """Tiles stretched as by `--intensity percentile`, and where they are from."""

    pixels: NDArray[np.float32]
    """(N, 224, 224) in [0, 1]."""
    field: NDArray[np.str_]
    stain: NDArray[np.str_]


def read_tiles(folder: Path, pattern: str) -> Tiles:
    """The tiles of all images of a folder whose names fit.

    Raises:
        UsageError: none does.
    """
    pixels, fields, stains = [], [], []
    for path in sorted(folder.rglob("*")):
        found = re.search(pattern, path.name)
        if found is None or not is_image(path.name):
            continue
        plane = read_pixels(str(path), read_header(str(path)))[0, 0, 0]
        low, high = ops.intensity_range(torch.from_numpy(plane[None].copy()), STRETCH)[0].tolist()
        scaled = ((plane - low) / (high - low + STRETCH_EPSILON)).clip(0, 1).astype(np.float32)
        rows, columns = (size // TILE for size in scaled.shape)
        cut = scaled[: rows * TILE, : columns * TILE].reshape(rows, TILE, columns, TILE)
        pixels.append(cut.swapaxes(1, 2).reshape(-1, TILE, TILE))
        fields += [found["field"]] * len(pixels[-1])
        stains += [found["stain"]] * len(pixels[-1])
    if not pixels:
        raise UsageError(f"no image in {folder} fits pattern {pattern}: correct one of them")
    return Tiles(np.concatenate(pixels), np.array(fields), np.array(stains))


def accuracy(features: Array, tiles: Tiles) -> float:
    """Share of tiles whose nearest by cosine, in another field, is of the same stain."""
    values = mad_normalized(features)
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    similar = unit @ unit.T
    similar[tiles.field[:, None] == tiles.field] = -np.inf
    return float((tiles.stain[similar.argmax(axis=1)] == tiles.stain).mean())


def intensity_statistics(tiles: Tiles) -> Array:
    """(N, 10): mean, SD and eight percentiles of each tile."""
    flat = tiles.pixels.reshape(len(tiles.pixels), -1).astype(np.float64)
    return np.stack([flat.mean(1), flat.std(1), *np.percentile(flat, PERCENTILES, axis=1)], axis=1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints an accuracy a line."""
    parser = argparse.ArgumentParser(prog="python -m unidino_fast.benchmarks.stains")
    parser.add_argument("folder", type=Path)
    parser.add_argument("weights", nargs="+", help="as for embed")
    parser.add_argument("--pattern", default=PATTERN, help="of file names: groups field, stain")
    options = parser.parse_args(arguments)
    tiles = read_tiles(options.folder, options.pattern)
    print(f"{len(tiles.stain)} tiles of {len(set(tiles.stain))} stains")
    print(f"intensity statistics: {accuracy(intensity_statistics(tiles), tiles):.3f}")
    backbone = open_backbone(options.weights[0])
    with random_of_the_same_size(backbone) as path:
        for name in (*options.weights, str(path)):
            model = load_backbone(name, device="cpu", precision="fp32", tile=TILE)
            features = model.embed_tiles(tiles.pixels).astype(np.float64)
            label = "random ViT, same size" if name == str(path) else name
            print(f"{label}: {accuracy(features, tiles):.3f}", flush=True)


if __name__ == "__main__":
    main()
