"""Made-up screens: Gaussian controls, and rows that differ from them as far as a test wants."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

CONTROLS = 'Metadata_Compound == "DMSO"'


def screen(
    rng: np.random.Generator,
    *,
    n_controls: int,
    shifts: Any,
    mixing: Any = None,
    plates: int = 1,
    **metadata: Any,
) -> pl.DataFrame:
    """Controls, then one row a shift (R, F); noise that a matrix mixes, plates with offsets.

    Metadata are of the shifted rows, null for controls.
    """
    shifts = np.asarray(shifts, dtype=float)
    n, n_features = n_controls + len(shifts), shifts.shape[1]
    values = rng.standard_normal((n, n_features))
    if mixing is not None:
        values = values @ mixing
    values[n_controls:] += shifts
    plate = np.arange(n) % plates
    values += 5 * rng.standard_normal((plates, n_features))[plate] * (plates > 1)
    compounds = ["DMSO"] * n_controls + [f"C{i}" for i in range(len(shifts))]
    columns: dict[str, Any] = {
        "Metadata_Plate": [f"P{i}" for i in plate],
        "Metadata_Well": [f"{chr(65 + i // 24)}{i % 24 + 1:02d}" for i in range(n)],
        "Metadata_Compound": compounds,
    }
    columns |= {f"Metadata_{k}": [None] * n_controls + list(v) for k, v in metadata.items()}
    return pl.DataFrame(columns | {f"DNA_{i:03d}": values[:, i] for i in range(n_features)})
