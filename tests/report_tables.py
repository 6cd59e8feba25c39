"""Tables of made-up plates, as `embed` writes them, for tests of reports."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

import unidino_fast as uf
from unidino_fast.names import WellName

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

CHANNELS = ("DNA", "ER")
DIM = 12


def table(
    *,
    rows: int = 6,
    columns: int = 8,
    seed: int = 0,
    plate: str = "P1",
    features: NDArray[Any] | None = None,
    **metadata: list[Any],
) -> pl.DataFrame:
    """Wells: twelve compounds of four mechanisms, three wells each, and twelve of DMSO."""
    rng = np.random.default_rng(seed)
    wells = [WellName(row, column + 1) for row in range(rows) for column in range(columns)]
    treated = [f"compound {i}" for i in range(12) for _ in range(3)]
    names = (treated + ["DMSO"] * len(wells))[: len(wells)]
    rng.shuffle(names)
    if features is None:
        effect = {name: rng.normal(size=len(CHANNELS) * DIM) for name in sorted(set(names))}
        noise = rng.normal(size=(len(wells), len(CHANNELS) * DIM))
        features = np.stack([3 * effect[name] for name in names]) + noise
    held: dict[str, list[Any]] = {
        "Metadata_Plate": [plate] * len(wells),
        "Metadata_Well": [str(well) for well in wells],
        "Metadata_Row": [well.row_letters for well in wells],
        "Metadata_Column": [well.column for well in wells],
        "Metadata_n_fields": [1] * len(wells),
        "Metadata_n_tiles": [4] * len(wells),
        "Metadata_n_tiles_dropped": [0] * len(wells),
        "Metadata_Compound": names,
        "Metadata_MoA": [
            None if name == "DMSO" else f"mechanism {int(name.split()[1]) // 3}" for name in names
        ],
    }
    held.update(metadata)
    of_channels = {
        f"{channel}_{index:03d}": features[:, place * DIM + index].astype(np.float32)
        for place, channel in enumerate(CHANNELS)
        for index in range(DIM)
    }
    return pl.DataFrame({**held, **of_channels}, strict=False)


def made_up(folder: Path, wells: pl.DataFrame | None = None, **run: Any) -> Path:
    """Writes a plate's folder; returns the folder that `embed --out` would have been given."""
    wells = table() if wells is None else wells
    folder.mkdir(parents=True)
    wells.write_parquet(folder / "wells.parquet")
    uf.normalize(wells).write_parquet(folder / "profiles.parquet")
    manifest = {
        "format": 1,
        "provenance": {"model": {"weights": "random:0"}, "options": {"tile": 224}},
        "run": {"status": "done", "warnings": [], "left_out": {}, **run},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder.parent


def on_pixels(folder: Path, plate: Path, frame: pl.DataFrame, **options: Any) -> Path:
    """Writes the folder of a plate whose pixels are there; options beside tiles of 32 px."""
    made_up(folder, frame, location=str(plate))
    manifest = folder / "manifest.json"
    document = json.loads(manifest.read_text())
    document["provenance"]["plate"] = {"name": "P1", "digest": uf.open_plate(plate).digest}
    document["provenance"]["options"] = {"tile": 32, "stride": 32, "intensity": "dtype", **options}
    manifest.write_text(json.dumps(document))
    return folder
