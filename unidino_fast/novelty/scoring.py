"""Distances from the controls, with p-values by controls that were left out.

Every control is scored once by a model that has not seen it, and every other row by the same
models. A p-value is the share of left-out controls that lie as far out or farther than the row,
each compared under the model that left it out: cross-conformal p-values (Vovk 2015,
"Cross-conformal predictors"; Bates et al. 2023 on their use with Benjamini and Hochberg's
procedure). N rows, n controls, K folds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from unidino_fast.evaluation.ranking import adjust_p_values
from unidino_fast.novelty.space import ControlModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from unidino_fast.novelty.space import Codes, Values

    Mask = NDArray[np.bool_]

Measure = Literal["mahalanobis", "knn"]
Tail = Literal["empirical", "lognormal"]

MOST_FOLDS = 10


@dataclass(frozen=True, slots=True)
class Scored:
    """One measure of all rows.

    Attributes:
        distance: (N,), of a control by the model that left it out, of others the mean over models.
        p: (N,); of a control among the other controls.
        q: (N,) corrected for a false discovery rate over the rows that are no controls, NaN for
            controls.
    """

    distance: Values
    p: Values
    q: Values


def folds_of(units: Codes, groups: Codes) -> Codes:
    """A fold for each control (n,): rows of a unit (a well) together, a group's units apart."""
    firsts = np.unique(units, return_index=True)[1]
    in_order = firsts[np.lexsort((firsts, groups[firsts]))]  # group by group, each as in the table
    fold_of_unit = np.empty(int(units.max()) + 1, dtype=np.int32)
    fold_of_unit[units[in_order]] = np.arange(len(in_order)) % min(MOST_FOLDS, len(in_order))
    folds: Codes = fold_of_unit[units]
    return folds


def score(
    components: Values,
    is_control: Mask,
    groups: Codes,
    folds: Codes,
    *,
    k: int,
    tail: Tail,
) -> dict[Measure, Scored]:
    """Both measures of all rows.

    Args:
        components: (N, P).
        is_control: (N,).
        groups: (N,) from 0; each has a control outside of every fold.
        folds: of the controls (n,).
        k: neighbours of `knn`.
        tail: see `find_unusual`.
    """
    controls, others = components[is_control], components[~is_control]
    of_controls, of_others = groups[is_control], groups[~is_control]
    n, n_folds, n_groups = len(controls), int(folds.max()) + 1, int(groups.max()) + 1
    left_out = {measure: np.empty(n) for measure in ("mahalanobis", "knn")}
    at_least = {measure: np.zeros(len(others)) for measure in left_out}
    logs = {measure: np.zeros(len(others)) for measure in left_out}
    total = {measure: np.zeros(len(others)) for measure in left_out}
    for fold in range(n_folds):
        out = folds == fold
        model = ControlModel.fit(controls[~out], of_controls[~out], n_groups)
        white_out = model.whiten(controls[out], of_controls[out])
        white = model.whiten(others, of_others)
        for measure in left_out:
            if measure == "mahalanobis":
                known, asked = model.mahalanobis(white_out), model.mahalanobis(white)
            else:
                known, asked = model.knn(white_out, k), model.knn(white, k)
            left_out[measure][out] = known
            at_least[measure] += len(known) - np.searchsorted(np.sort(known), asked, side="left")
            logs[measure] += _log(asked) / n_folds
            total[measure] += asked / n_folds
    found: dict[Measure, Scored] = {}
    names: tuple[Measure, ...] = ("mahalanobis", "knn")
    for name in names:
        distance, p, q = np.empty(len(components)), np.empty(len(components)), np.empty(0)
        distance[is_control], distance[~is_control] = left_out[name], total[name]
        if tail == "empirical":
            p[~is_control] = (1 + at_least[name]) / (n + 1)
            p[is_control] = _ranks(left_out[name])
        else:
            p[~is_control] = lognormal_p(logs[name], _log(left_out[name]))
            p[is_control] = _lognormal_p_of_controls(_log(left_out[name]))
        q = np.full(len(components), np.nan)
        q[~is_control] = adjust_p_values(p[~is_control])
        found[name] = Scored(distance, p, q)
    return found


def lognormal_p(asked: Values, known: Values) -> Values:
    """P-values of logarithms (R,) among those of n controls, taken as normal.

    Of the t-distribution with n - 1 degrees of freedom, as of one more observation.
    """
    from scipy.stats import t

    n = len(known)
    spread = float(known.std(ddof=1)) * np.sqrt(1 + 1 / n)
    deviation = (asked - known.mean()) / max(spread, np.finfo(np.float64).tiny)
    p: Values = t.sf(deviation, n - 1)
    return p


def _lognormal_p_of_controls(known: Values) -> Values:
    """Each control among the others."""
    n = len(known)
    return np.array(
        [lognormal_p(known[i : i + 1], np.delete(known, i))[0] for i in range(n)], dtype=np.float64
    )


def _ranks(distances: Values) -> Values:
    """Share of controls that lie as far out as each or farther, itself among them."""
    in_order = np.sort(distances)
    ranks: Values = (len(distances) - np.searchsorted(in_order, distances, side="left")) / len(
        distances
    )
    return ranks


def _log(distances: Values) -> Values:
    logs: Values = np.log(np.maximum(distances, np.finfo(np.float64).tiny))
    return logs
