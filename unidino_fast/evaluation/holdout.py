"""Accuracy on rows whose groups were held out, by any choice of features, with its interval.

N rows, D features, G groups, B resamples.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from unidino_fast.threads import in_threads

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Places = NDArray[np.int64]
    Bounds = tuple[float, float] | tuple[None, None]

_INTERVAL = (2.5, 97.5)


class HeldOut:
    """Balanced random forests, cross-validated so that groups stay whole.

    Attributes:
        features: (N, D).
        labels: (N,).
        groups: (N,) from 0.
    """

    def __init__(
        self,
        features: NDArray[np.float32],
        labels: NDArray[Any],
        groups: NDArray[Any],
        *,
        trees: int,
        folds: int,
        repeats: int,
        seed: int,
        n_jobs: int | None,
    ) -> None:
        self.features, self.labels, self.groups = features, labels, groups
        self._forest = {"n_estimators": trees, "class_weight": "balanced", "random_state": seed}
        self._n_jobs = n_jobs
        random = np.random.default_rng(seed)
        self._splits = [group_folds(labels, groups, folds, random) for _ in range(repeats)]

    def told_by(self, places: Places) -> NDArray[np.float64]:
        """Share of repeats (N,) in which a row's label is told by the features at some places."""
        chosen = np.ascontiguousarray(self.features[:, places])
        splits = [split for repeat in self._splits for split in repeat]
        told = np.zeros(len(self.labels))
        found = in_threads(partial(self._hits, chosen), splits, self._n_jobs)
        for (_, test), hits in zip(splits, found, strict=True):
            told[test] += hits
        return told / len(self._splits)

    def _hits(self, chosen: NDArray[np.float32], split: tuple[Places, Places]) -> NDArray[np.bool_]:
        from sklearn.ensemble import RandomForestClassifier

        train, test = split
        forest = RandomForestClassifier(**self._forest).fit(chosen[train], self.labels[train])
        hits: NDArray[np.bool_] = forest.predict(chosen[test]) == self.labels[test]
        return hits


class GroupIntervals:
    """95 % percentile intervals of means over rows, of resamples of whole groups.

    Every interval is of the same resamples, so that differences are paired.
    """

    def __init__(self, groups: NDArray[Any], bootstrap: int, seed: int) -> None:
        n = int(groups.max()) + 1
        self._groups = groups
        self._draws = np.random.default_rng(seed).multinomial(
            n, np.full(n, 1 / n), size=bootstrap
        )  # (B, G) how often each group is drawn
        self._sizes = self._draws @ np.bincount(groups, minlength=n)

    def of(self, values: NDArray[np.float64]) -> Bounds:
        """Lower and upper bound of the mean of some values (N,); None of no resamples."""
        if not len(self._draws):
            return None, None
        totals = self._draws @ np.bincount(self._groups, weights=values)
        low, high = np.percentile(totals / self._sizes, _INTERVAL)
        return float(low), float(high)


def group_folds(
    labels: NDArray[Any], groups: NDArray[Any], folds: int, random: np.random.Generator
) -> list[tuple[Places, Places]]:
    """Training and test rows of each fold; groups stay whole.

    Each class deals out its groups in turn, so that a class of two groups (of its own) is never
    absent from training, which folds drawn at random do not promise.
    """
    fold_of: dict[int, int] = {}
    turn = 0
    for name in np.unique(labels):
        for group in random.permutation(np.unique(groups[labels == name])):
            if group not in fold_of:
                fold_of[group] = turn % folds
                turn += 1
    fold = np.array([fold_of[group] for group in groups])
    used = [number for number in range(folds) if (fold == number).any()]
    return [(np.flatnonzero(fold != number), np.flatnonzero(fold == number)) for number in used]
