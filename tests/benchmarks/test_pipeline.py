"""What `bench pipeline` compares does the same work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

import unidino_fast as uf
from unidino_fast.benchmarks.pipeline import _n_embedded
from unidino_fast.config import EmbedOptions
from unidino_fast.writing import PlateWriter

if TYPE_CHECKING:
    from pathlib import Path


def test_the_network_alone_is_given_the_tiles_of_a_run(tmp_path: Path, tiny_weights: Path) -> None:
    """Fields with empty corners: tiles without signal are no work of the network."""
    rng = np.random.default_rng(0)
    with PlateWriter(tmp_path / "p.zarr", name="p", channels=["a", "b"]) as writer:
        for number, well in enumerate(("A1", "A2", "B1")):
            pixels = rng.integers(100, 60_000, (2, 460, 700), dtype=np.uint16)
            pixels[:, : 230 * number, :240] = 0
            writer.add_field(well, "0", pixels)
    plate = uf.open_plate(tmp_path / "p.zarr")
    model = uf.load_backbone(tiny_weights, device="cpu", tile=224)
    run = uf.embed_to_folder(plate, model, tmp_path / "out", EmbedOptions())
    assert run.n_tiles_dropped == (1 + 2) * 2
    assert _n_embedded(plate) == run.n_tiles == (3 * 6 - 3) * 2
