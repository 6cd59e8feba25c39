"""Says whether profiles are any good: nearest-neighbour metrics and what follows from them."""

from __future__ import annotations

from unidino_fast.evaluation.nearest_neighbour import NearestNeighbourResult, evaluate

__all__ = ["NearestNeighbourResult", "evaluate"]
