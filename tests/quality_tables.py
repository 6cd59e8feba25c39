"""Tables of quality as a plate would give them, without pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from unidino_fast.names import WellName
from unidino_fast.qc import MEASURES

if TYPE_CHECKING:
    from collections.abc import Sequence

CHANNELS = ("DNA", "ER", "a_b")
USUAL = {
    "DNA": {"Intensity": 800, "Background": 280, "Signal": 7000, "Focus": -7},
    "ER": {"Intensity": 1300, "Background": 290, "Signal": 5000, "Focus": -5},
    "a_b": {"Intensity": 700, "Background": 285, "Signal": 2500, "Focus": -4},
}
"""Medians; other measures are 0."""


def names(rows: int, columns: int) -> list[str]:
    return [str(WellName(row, column + 1)) for row in range(rows) for column in range(columns)]


def plate(
    rows: int = 8,
    columns: int = 12,
    *,
    seed: int = 0,
    spread: float = 0.1,
    name: str = "p",
    channels: Sequence[str] = CHANNELS,
) -> pl.DataFrame:
    """A sound plate: light varies by a share `spread` from well to well, focus by as much."""
    rng = np.random.default_rng(seed)
    wells = names(rows, columns)
    columns_of = {"Metadata_Plate": [name] * len(wells), "Metadata_Well": wells}
    for channel in channels:
        factor = np.exp(rng.normal(0, spread, len(wells)))
        usual = USUAL[channel]
        for measure in MEASURES:
            values = np.full(len(wells), float(usual.get(measure, 0)))
            if measure == "Focus":
                values += rng.normal(0, spread, len(wells))
            elif measure == "Signal":
                values *= factor
            elif measure == "Intensity":
                values = usual["Background"] + (values - usual["Background"]) * factor
            elif measure.startswith("Gradient"):
                values += rng.normal(0, 0.2, len(wells))
            columns_of[f"Metadata_QC_{measure}_{channel}"] = values.astype(np.float32)
    return pl.DataFrame(columns_of)


def change(
    frame: pl.DataFrame, wells: Sequence[str], measure: str, channel: str, value: float
) -> pl.DataFrame:
    """The plate with another value in some wells."""
    column = f"Metadata_QC_{measure}_{channel}"
    is_so = pl.col("Metadata_Well").is_in(list(wells))
    return frame.with_columns(
        pl.when(is_so).then(pl.lit(value, pl.Float32)).otherwise(pl.col(column)).alias(column)
    )


def brighten(
    frame: pl.DataFrame, factor: dict[str, float], channels: Sequence[str] = CHANNELS
) -> pl.DataFrame:
    """The plate with the light of some wells, above the background, times a factor."""
    factors = frame["Metadata_Well"].replace_strict(factor, default=1.0, return_dtype=pl.Float64)
    for channel in channels:
        intensity, background, signal = (
            frame[f"Metadata_QC_{measure}_{channel}"].cast(pl.Float64)
            for measure in ("Intensity", "Background", "Signal")
        )
        frame = frame.with_columns(
            (background + (intensity - background) * factors)
            .cast(pl.Float32)
            .alias(intensity.name),
            (signal * factors).cast(pl.Float32).alias(signal.name),
        )
    return frame
