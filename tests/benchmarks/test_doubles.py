"""Doubles that cost nothing go the whole way of a run: what they measure is what users run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import pytest

import unidino_fast as uf
from unidino_fast.benchmarks.doubles import FreeDevice, FreeNetwork, free_scaling
from unidino_fast.config import EmbedOptions

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("double", [FreeNetwork, FreeDevice])
def test_doubles_give_zeros_for_the_same_tiles(
    double: type[uf.Embedder],
    small_plate: tuple[Path, pl.DataFrame],
    model: uf.Embedder,
    tmp_path: Path,
) -> None:
    options = EmbedOptions(tile=32)
    wanted = uf.embed_to_folder(uf.open_plate(small_plate[0]), model, tmp_path / "real", options)
    free = double(model.backbone, "eager", model.device, "fp32")
    run = uf.embed_to_folder if double is FreeNetwork else free_scaling()(uf.embed_to_folder)
    found = run(uf.open_plate(small_plate[0]), free, tmp_path / "free", options)
    assert (found.n_tiles, found.n_tiles_dropped) == (wanted.n_tiles, wanted.n_tiles_dropped)
    tables = [
        pl.read_parquet(tmp_path / kind / "small/fields.parquet") for kind in ("real", "free")
    ]
    assert tables[0].columns == tables[1].columns
    features = uf.feature_columns(tables[1])
    assert tables[0].drop(features).equals(tables[1].drop(features))
    assert (tables[1].select(features).to_numpy() == 0).all()
