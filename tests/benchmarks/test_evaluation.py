"""What the benchmark of evaluations compares is one and the same job."""

from __future__ import annotations

import numpy as np

from unidino_fast.benchmarks.evaluation import profiles_of, released_loop
from unidino_fast.evaluation import evaluate


def test_the_loop_and_the_seed_rule_find_the_same() -> None:
    table = profiles_of(900, 16)
    right = released_loop(table.to_pandas())
    result = evaluate(table, "Compound", ["Batch", "Well"], rule="seed")
    assert 0 < np.count_nonzero(right) == result.n_correct < 900
