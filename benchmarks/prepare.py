"""Candidates made ready: built, run once, compared with the reference; one that fails is named."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch.nn import functional

from unidino_fast.errors import first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    Job = Callable[[], Tensor]

_FAULTS = (ImportError, RuntimeError, ValueError)
"""What a candidate that does not work here raises; the others are measured all the same."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A candidate that runs, or None and why it does not.

    Attributes:
        facts: fields of its row.
    """

    run: Job | None
    facts: dict[str, Any]


def prepare_all(
    builds: Mapping[str, Callable[[], Job]],
    expected: Tensor,
    *,
    limit: float,
    say: Callable[[str], None],
    seconds: float = math.inf,
) -> dict[str, Ready]:
    """Prepares candidates in their order.

    Args:
        builds: give the call to measure, which gives features (N, D).
        expected: (N, D) on the CPU, the reference's features in float32.
        limit: the lowest cosine that passes without a remark.
        say: is told what is under way, because compilers take minutes.
        seconds: no candidate is begun later than this; those are left out.
    """
    began = time.monotonic()
    ready = {}
    for name, build in builds.items():
        if time.monotonic() - began > seconds:
            ready[name] = Ready(None, {"note": "left out: no time to prepare it"})
            continue
        say(f"  preparing {name}")
        ready[name] = _prepare(build, expected, limit)
        if ready[name].run is None:
            say(f"  {ready[name].facts['note']}")
    return ready


def agreement(found: Tensor, expected: Tensor) -> dict[str, float]:
    """Lowest cosine of a row, and relative error, of (N, D) to (N, D)."""
    one, other = found.double(), expected.double()
    return {
        "cosine": float(functional.cosine_similarity(one, other, dim=-1).min()),
        "error": float((one - other).norm() / other.norm()),
    }


def _prepare(build: Callable[[], Job], expected: Tensor, limit: float) -> Ready:
    start = time.perf_counter()
    try:
        run = build()
        features = run().float().cpu().clone()
    except _FAULTS as error:
        return Ready(None, {"note": f"left out: {first_line(error)}"})
    facts: dict[str, Any] = {"prepare_seconds": time.perf_counter() - start}
    facts |= agreement(features, expected)
    if not facts["cosine"] >= limit:
        facts["note"] = f"WRONG: cosine below {limit}"
    return Ready(run, facts)
