"""Masks of patches, drawn with the sample that they hide a part of.

T tokens of a view, one a patch, in a square grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ASPECT = math.log(0.3), -math.log(0.3)
_ATTEMPTS = 10


class Masks(Protocol):
    """A way to hide patches; goes to other processes by pickling."""

    def draw(self, generator: np.random.Generator) -> NDArray[np.bool_]:
        """Which patches of a view are hidden, (T,)."""
        ...


@dataclass(frozen=True)
class RandomMasks:
    """Patches at random, always the same number of them (He et al. 2022).

    Attributes:
        grid: patches along an edge.
        n_seen: patches that are not hidden.
    """

    grid: int
    n_seen: int

    def draw(self, generator: np.random.Generator) -> NDArray[np.bool_]:
        """See `Masks`."""
        hidden = np.ones(self.grid**2, dtype=bool)
        hidden[generator.permutation(self.grid**2)[: self.n_seen]] = False
        return hidden


@dataclass(frozen=True)
class BlockMasks:
    """Rectangles of patches, as iBOT (Zhou et al. 2022) takes them from BEiT (Bao et al. 2022).

    A view is masked at all with a probability. Then a share is drawn, and rectangles of random
    place, area and aspect are hidden until they cover it: never more, and less where ten attempts
    bring nothing.

    Attributes:
        grid: patches along an edge.
        probability: that a view is masked.
        share: of its patches, on average.
        spread: the share is uniform within plus and minus this.
    """

    grid: int
    probability: float
    share: float
    spread: float

    def draw(self, generator: np.random.Generator) -> NDArray[np.bool_]:
        """See `Masks`."""
        hidden = np.zeros((self.grid, self.grid), dtype=bool)
        if generator.random() < self.probability:
            share = generator.uniform(self.share - self.spread, self.share + self.spread)
            wanted = share * self.grid**2
            while hidden.sum() < wanted and self._hide(hidden, wanted - hidden.sum(), generator):
                pass
        return hidden.ravel()

    def _hide(self, hidden: NDArray[np.bool_], most: float, generator: np.random.Generator) -> bool:
        """Hides one rectangle more, of at most `most` patches yet seen, if one is found."""
        least = (self.grid // 3) ** 2
        for _ in range(_ATTEMPTS):
            area = least + (most - least) * generator.random()
            aspect = math.exp(generator.uniform(*_ASPECT))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if height >= self.grid or width >= self.grid:
                continue
            top = generator.integers(0, self.grid - height, endpoint=True)
            left = generator.integers(0, self.grid - width, endpoint=True)
            place = hidden[top : top + height, left : left + width]
            if 0 < place.size - place.sum() <= most:
                place[:] = True
                return True
        return False
