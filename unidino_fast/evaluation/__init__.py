"""Says whether profiles are any good: nearest-neighbour metrics and what follows from them."""

from __future__ import annotations

from unidino_fast.evaluation.batch_effects import (
    BatchEffectResult,
    batch_effects,
    compare_batch_effects,
)
from unidino_fast.evaluation.nearest_neighbour import NearestNeighbourResult, evaluate
from unidino_fast.evaluation.replicates import (
    ReplicateResult,
    percent_matching,
    percent_replicating,
)
from unidino_fast.evaluation.retrieval import RetrievalResult, mean_average_precision
from unidino_fast.evaluation.search import search

__all__ = [
    "BatchEffectResult",
    "NearestNeighbourResult",
    "ReplicateResult",
    "RetrievalResult",
    "batch_effects",
    "compare_batch_effects",
    "evaluate",
    "mean_average_precision",
    "percent_matching",
    "percent_replicating",
    "search",
]
