"""The self-check: a fast engine must agree with the reference on tiles of the plate at hand."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from unidino_fast.errors import EngineError

if TYPE_CHECKING:
    from torch import Tensor

    from unidino_fast.engines.embedder import Embedder

LIMITS = {"fp32": 0.99999, "bf16": 0.999, "fp16": 0.999, "fp8": 0.995}
"""Lowest cosine between an embedding and the reference's, by precision."""


@dataclass(frozen=True, slots=True)
class SelfCheck:
    """What a self-check found; goes into the manifest."""

    engine: str
    precision: str
    n_tiles: int
    lowest_cosine: float
    limit: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def self_check(model: Embedder, patches: Tensor) -> SelfCheck | None:
    """Embeds a sample with the engine and with the reference (eager, fp32) and compares.

    Args:
        model: the embedder to check.
        patches: (N, T, P * P), a sample of the tiles to embed.

    Returns:
        What was found; None where the sample is empty.

    Raises:
        EngineError: an embedding differs by more than the precision excuses.
    """
    if not len(patches):
        return None
    found, expected = (_embedded(one, patches) for one in (model, model.reference()))
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    lowest = float(((found * expected).sum(axis=1) / np.maximum(lengths, 1e-300)).min())
    limit = LIMITS[model.precision]
    if not lowest >= limit:
        raise EngineError(
            f"engine {model.engine} in {model.precision} is wrong here: cosine {lowest:.5f} to the"
            f" reference on {len(patches)} tiles of this plate, below {limit}:"
            " use --engine eager --precision fp32"
        )
    return SelfCheck(model.engine, model.precision, len(patches), round(lowest, 7), limit)


def _embedded(model: Embedder, patches: Tensor) -> Any:
    packer = model.packer()
    ticket = packer.add(patches)
    packer.flush()
    return ticket.features.astype(np.float64)
