"""Cell Health: how well profiles tell the readouts of other assays, and AUC_s over all readouts.

A random forest regressor learns each readout from the profiles of one cell line; R2 is measured on
held-out folds. `S_t` is the share of readouts with R2 of at least t, and `AUC_s` its integral
(Morelli et al. 2025, Table 5; readouts of Way et al. 2022). N rows, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import polars as pl

from unidino_fast.columns import find_column
from unidino_fast.errors import TableError, UsageError
from unidino_fast.evaluation.forest import forest_features, matching_columns
from unidino_fast.evaluation.table import check_complete, tidy
from unidino_fast.names import one_line
from unidino_fast.results import METADATA_PREFIX
from unidino_fast.threads import in_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    Values = NDArray[np.float64]

Rule = Literal["paper", "released"]

FOLDS = 5
TREES = 100
_PAPER_STEPS = 1000
_RELEASED_STEPS = 200
_RELEASED_SMALLEST_LEAF = 0.01
_ALL_ROWS = "all"


class ReadoutScore(NamedTuple):
    """How well one readout is told in one cell line.

    Attributes:
        r2: mean over folds; by the paper's rule of what is clipped to 0 from below.
        folds: R2 of each held-out fold, as it came out.
        n: rows in which the readout is known.
    """

    cell_line: str
    readout: str
    r2: float
    folds: tuple[float, ...]
    n: int


@dataclass(frozen=True, slots=True)
class CellHealthResult:
    """Scores of all readouts in all cell lines, and what they come to.

    Attributes:
        rule: see `cell_health`.
        auc: AUC_s of each cell line, in the order in which they first appear.
        scores: one a cell line and readout.
        thresholds: (T,) of the curve.
        shares: S_t of each cell line, (T,) each.
        seed: of folds and forests.
    """

    rule: Rule
    auc: dict[str, float]
    scores: tuple[ReadoutScore, ...]
    thresholds: tuple[float, ...]
    shares: dict[str, tuple[float, ...]]
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "metric": "cell-health",
            "auc_s": self.auc,
            "rule": self.rule,
            "seed": self.seed,
            "readouts": [{**score._asdict(), "folds": list(score.folds)} for score in self.scores],
            "curve": {
                "threshold": list(self.thresholds),
                "share": {line: list(shares) for line, shares in self.shares.items()},
            },
        }

    def to_frame(self) -> pl.DataFrame:
        """Tidy rows `metric, subject, value, lower, upper, n`: AUC_s, R2 and the curve S_t."""
        auc = [
            ("AUC_s", line, value, None, None, self._n_readouts(line))
            for line, value in self.auc.items()
        ]
        r2 = [
            ("R2", f"{score.cell_line} {score.readout}", score.r2, None, None, score.n)
            for score in self.scores
        ]
        curve = [
            (f"S_{threshold:g}", line, share, None, None, self._n_readouts(line))
            for line, shares in self.shares.items()
            for threshold, share in zip(self.thresholds, shares, strict=True)
        ]
        return tidy([*auc, *r2, *curve])

    def summary(self) -> str:
        """A line a cell line, with the readouts that are told best."""
        lines = []
        for line, auc in self.auc.items():
            best = sorted(
                (score for score in self.scores if score.cell_line == line),
                key=lambda score: -score.r2,
            )[:3]
            told = ", ".join(f"{one_line(score.readout)} {score.r2:.2f}" for score in best)
            lines.append(
                f"AUC_s {auc:.3f} {one_line(line)} ({self._n_readouts(line)} readouts, best {told})"
            )
        return "\n".join([*lines, f"rule {self.rule}; R2 of random forests on held-out folds"])

    def _n_readouts(self, line: str) -> int:
        return sum(score.cell_line == line for score in self.scores)


def cell_health(
    profiles: pl.DataFrame,
    readouts: Sequence[str],
    *,
    cell_line: str | None = None,
    rule: Rule = "paper",
    folds: int = FOLDS,
    trees: int = TREES,
    seed: int = 0,
    n_jobs: int | None = None,
    on_readout: Callable[[int, int], None] | None = None,
) -> CellHealthResult:
    """AUC_s of each cell line: how many readouts profiles tell, and how well.

    Args:
        profiles: one row a profile, readouts in its metadata columns. Where a readout is missing
            (null or NaN) the row is left out for that readout.
        readouts: their columns, with or without `Metadata_`, or patterns such as `cc_*`.
        cell_line: column whose values are asked apart; None asks all rows together.
        rule: `paper`: R2 below 0 counts as 0 in each fold, S_t is the share of R2 >= t, integrated
            from 0 to 1 (the paper names no grid: steps of .001). `released` (the authors' code):
            leaves hold 1 % of the rows or more, R2 is not clipped, S_t is the share of R2 > t at
            0, .005 ... .995, so that .995 is the most that can be reached.
        folds: of the shuffled cross-validation.
        trees: of each forest.
        seed: of folds and forests: equal seeds give equal results, whatever n_jobs is.
        n_jobs: forests grown at once; None for one a core.
        on_readout: is told how many readouts of how many are done.

    Raises:
        UsageError: an unknown rule, or numbers out of range.
        TableError: a column is missing or unfit, or a readout is known in too few rows or constant.
    """
    if rule not in get_args(Rule):
        raise UsageError(f"rule {rule!r} is unknown: use {' or '.join(get_args(Rule))}")
    if folds < 2 or trees < 1:
        raise UsageError(f"folds {folds}, trees {trees}: use 2 folds and 1 tree at least")
    columns = matching_columns(profiles, readouts)
    if not columns:
        raise UsageError("no readout was given: name columns such as --readout 'cc_*'")
    for name in columns:
        _check_number(profiles, name)
    tasks = [
        _task(str(line), name, features, part[name])
        for line, part in _cell_lines(profiles, cell_line)
        for features in [forest_features(part)]
        for name in columns
    ]
    for task in tasks:
        _check_task(task, folds)
    smallest = _RELEASED_SMALLEST_LEAF if rule == "released" else 1
    score = partial(_fold_scores, folds=folds, trees=trees, smallest_leaf=smallest, seed=seed)
    found = []
    for r2 in in_threads(score, tasks, n_jobs):
        found.append(r2)
        if on_readout is not None:
            on_readout(len(found), len(tasks))
    scores = tuple(
        ReadoutScore(
            task.cell_line,
            task.readout.removeprefix(METADATA_PREFIX),
            mean_r2(r2, rule),
            tuple(r2),
            len(task.rows),
        )
        for task, r2 in zip(tasks, found, strict=True)
    )
    curves = {
        line: share_curve([score.r2 for score in scores if score.cell_line == line], rule)
        for line in dict.fromkeys(task.cell_line for task in tasks)
    }
    thresholds = next(iter(curves.values()))[0]
    return CellHealthResult(
        rule=rule,
        auc={line: area(*curve) for line, curve in curves.items()},
        scores=scores,
        thresholds=tuple(thresholds.tolist()),
        shares={line: tuple(shares.tolist()) for line, (_, shares) in curves.items()},
        seed=seed,
    )


def mean_r2(folds: Sequence[float], rule: Rule) -> float:
    """Mean R2 over held-out folds; by the paper's rule negatives count as 0."""
    values = np.asarray(folds, dtype=np.float64)
    return float(np.maximum(values, 0).mean() if rule == "paper" else values.mean())


def share_curve(r2: Sequence[float], rule: Rule) -> tuple[Values, Values]:
    """Thresholds t (T,) and S_t (T,), the share of R2 that reach (released: exceed) them."""
    values = np.asarray(r2, dtype=np.float64)
    if rule == "paper":
        thresholds = np.arange(_PAPER_STEPS + 1) / _PAPER_STEPS
        reached = values >= thresholds[:, None]
    else:
        thresholds = np.arange(_RELEASED_STEPS) / _RELEASED_STEPS
        reached = values > thresholds[:, None]
    return thresholds, reached.mean(axis=1)


def area(thresholds: Values, shares: Values) -> float:
    """AUC_s: the integral of S_t by the trapezoid rule."""
    return float(np.sum(np.diff(thresholds) * (shares[1:] + shares[:-1]) / 2))


class _Task(NamedTuple):
    cell_line: str
    readout: str
    features: NDArray[np.float32]  # (M, D) all rows of the cell line
    rows: NDArray[np.int64]  # (N,) those in which the readout is known
    target: Values  # (N,)


def _task(line: str, name: str, features: NDArray[np.float32], readout: pl.Series) -> _Task:
    values = readout.cast(pl.Float64).fill_null(np.nan).to_numpy()
    rows = np.flatnonzero(~np.isnan(values))
    return _Task(line, name, features, rows, values[rows])


def _cell_lines(
    profiles: pl.DataFrame, cell_line: str | None
) -> Iterator[tuple[str, pl.DataFrame]]:
    if profiles.is_empty():
        raise TableError("the profiles have no rows: there is nothing to evaluate")
    if cell_line is None:
        yield _ALL_ROWS, profiles
        return
    column = find_column(profiles, cell_line)
    check_complete(profiles, column)
    for (line,), rows in profiles.group_by([column], maintain_order=True):
        yield str(line), rows


def _check_number(profiles: pl.DataFrame, name: str) -> None:
    values = profiles[name]
    if not values.dtype.is_numeric():
        raise TableError(f"readout {name} holds {values.dtype}: a readout must be a number")
    if values.cast(pl.Float64).is_infinite().any():
        raise TableError(f"readout {name} is infinite in some rows: empty those cells")


def _check_task(task: _Task, folds: int) -> None:
    n = len(task.target)
    where = "" if task.cell_line == _ALL_ROWS else f" of {task.cell_line}"
    if n < 2 * folds:  # R2 of a single row does not exist
        raise TableError(
            f"readout {task.readout} is known in {n} rows{where}, but {folds} folds need"
            f" {2 * folds} or more: leave the readout out"
        )
    if task.target.min() == task.target.max():
        raise TableError(
            f"readout {task.readout} is {task.target[0]:g} in all rows{where}: R2 needs a readout"
            " that varies, leave it out"
        )


def _fold_scores(
    task: _Task, folds: int, trees: int, smallest_leaf: float, seed: int
) -> list[float]:
    """R2 of each held-out fold."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.metrics import r2_score
    from sklearn.model_selection import KFold

    features = task.features[task.rows]
    scores = []
    for train, test in KFold(folds, shuffle=True, random_state=seed).split(features):
        forest = RandomForestRegressor(
            n_estimators=trees, min_samples_leaf=smallest_leaf, random_state=seed
        )
        forest.fit(features[train], task.target[train])
        scores.append(float(r2_score(task.target[test], forest.predict(features[test]))))
    return scores
