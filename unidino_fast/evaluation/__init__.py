"""Says whether profiles are any good: nearest-neighbour metrics and what follows from them."""

from __future__ import annotations

from unidino_fast.evaluation.baselines import baseline_table
from unidino_fast.evaluation.batch_effects import (
    BatchEffectResult,
    batch_effects,
    compare_batch_effects,
)
from unidino_fast.evaluation.cell_health import CellHealthResult, cell_health
from unidino_fast.evaluation.cellprofiler import as_profiles, mean_of_cells, read_profiles
from unidino_fast.evaluation.channels import ChannelResult, channel_importance
from unidino_fast.evaluation.linear_probe import LinearProbeResult, linear_probe
from unidino_fast.evaluation.nearest_neighbour import NearestNeighbourResult, evaluate
from unidino_fast.evaluation.protocols import (
    ProtocolResult,
    load_recipe,
    run_recipe,
    shipped_recipes,
)
from unidino_fast.evaluation.questions import Question, answer
from unidino_fast.evaluation.replicates import (
    ReplicateResult,
    percent_matching,
    percent_replicating,
)
from unidino_fast.evaluation.retrieval import RetrievalResult, mean_average_precision
from unidino_fast.evaluation.search import search

__all__ = [
    "BatchEffectResult",
    "CellHealthResult",
    "ChannelResult",
    "LinearProbeResult",
    "NearestNeighbourResult",
    "ProtocolResult",
    "Question",
    "ReplicateResult",
    "RetrievalResult",
    "answer",
    "as_profiles",
    "baseline_table",
    "batch_effects",
    "cell_health",
    "channel_importance",
    "compare_batch_effects",
    "evaluate",
    "linear_probe",
    "load_recipe",
    "mean_average_precision",
    "mean_of_cells",
    "percent_matching",
    "percent_replicating",
    "read_profiles",
    "run_recipe",
    "search",
    "shipped_recipes",
]
