"""Where cells and nuclei lie in a simulated field: outlines, and the maps that pixels look up.

N shapes (cells or nuclei), K outline angles, H x W the padded canvas in pixels. Lengths are in
pixels at `scale` 1 (about 0.6 micrometres a pixel) and shrink with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from unidino_fast.simulate.phenotypes import Phenotype

_CELLS_PER_PIXEL = 48 / 448**2
_CELL_RADIUS = 33.0
_NUCLEUS_RADIUS = 11.5
_ANGLES = 256
_FAR = 99.0
_INTERPHASE, _MULTINUCLEATED, _MITOTIC, _APOPTOTIC = range(4)


@dataclass(frozen=True, slots=True)
class Shapes:
    """N closed outlines: an ellipse times a radius per angle."""

    y: NDArray[Any]  # (N,)
    x: NDArray[Any]  # (N,)
    major: NDArray[Any]  # (N,) half axis
    minor: NDArray[Any]  # (N,) half axis
    angle: NDArray[Any]  # (N,) of the major axis, radians
    outline: NDArray[Any]  # (N, K) factor on the ellipse

    def __len__(self) -> int:
        return len(self.y)

    @property
    def radius(self) -> NDArray[Any]:
        """Radius of the circle of the ellipse's area, (N,)."""
        radius: NDArray[Any] = np.sqrt(self.major * self.minor)
        return radius

    def patch(self, index: int, reach: float, shape: tuple[int, int]) -> _Patch | None:
        """Normalised radius (0 centre, 1 outline) around one shape; None outside the canvas."""
        y, x = self.y[index], self.x[index]
        top, bottom = max(int(y - reach), 0), min(int(y + reach) + 1, shape[0])
        left, right = max(int(x - reach), 0), min(int(x + reach) + 1, shape[1])
        if top >= bottom or left >= right:
            return None
        dy = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(y)
        dx = np.arange(left, right, dtype=np.float32)[None, :] - np.float32(x)
        cos, sin = np.float32(np.cos(self.angle[index])), np.float32(np.sin(self.angle[index]))
        u = (dx * cos + dy * sin) / np.float32(self.major[index])
        v = (dy * cos - dx * sin) / np.float32(self.minor[index])
        bins = (np.arctan2(v, u) * np.float32(_ANGLES / (2 * np.pi))).astype(np.int16)
        rho = np.sqrt(u * u + v * v) / self.outline[index].astype(np.float32)[bins % _ANGLES]
        return _Patch(np.s_[top:bottom, left:right], rho)


@dataclass(frozen=True, slots=True)
class _Patch:
    place: tuple[slice, slice]
    rho: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scene:
    """The maps of one canvas, and the shapes they were painted from."""

    cells: Shapes
    nuclei: Shapes
    height: NDArray[Any]  # (N cells,) thickness relative to a spread cell
    condensed: NDArray[Any]  # (N nuclei,) DNA brightness by cell-cycle state
    resting: NDArray[Any]  # (N nuclei,) True for interphase nuclei (they have nucleoli)
    cell: NDArray[np.int16]  # (H, W) index of the cell; the nearest one in the background
    depth: NDArray[np.float32]  # (H, W) 1 - normalised cell radius; <= 0 is background
    edge: NDArray[np.float32]  # (H, W) pixels to the cell's own edge or its neighbour's
    nucleus: NDArray[np.int16]  # (H, W) index of the nearest nucleus of the cell
    beyond: NDArray[np.float32]  # (H, W) pixels outside the nucleus, negative inside

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        phenotype: Phenotype,
        shape: tuple[int, int],
        scale: float,
    ) -> Self:
        """Places cells and nuclei at random and paints the maps of an H x W canvas."""
        cells, state, height = _draw_cells(rng, phenotype, shape, scale)
        nuclei, owner = _draw_nuclei(rng, phenotype, cells, state, scale)
        cell, rho, gap = _paint_cells(cells, shape, scale)
        nucleus, beyond = _paint_nuclei(nuclei, owner, cell, shape, scale)
        depth = 1 - rho
        return cls(
            cells=cells,
            nuclei=nuclei,
            height=height,
            condensed=_condensation(rng, state[owner]),
            resting=state[owner] <= _MULTINUCLEATED,
            cell=cell,
            depth=depth,
            edge=np.minimum(depth, gap) * cells.radius.astype(np.float32)[cell],
            nucleus=nucleus,
            beyond=beyond,
        )


def _draw_cells(
    rng: np.random.Generator, phenotype: Phenotype, shape: tuple[int, int], scale: float
) -> tuple[Shapes, NDArray[Any], NDArray[Any]]:
    """Cells, the state of each (interphase, mitotic, ...) and their heights."""
    expected = _CELLS_PER_PIXEL / scale**2 * phenotype.density * shape[0] * shape[1]
    spacing = 2.3 * _NUCLEUS_RADIUS * scale * (1 + phenotype.nucleus_size) / 2
    y, x = _scatter(rng, max(int(rng.poisson(expected)), 1), shape, spacing)
    n = len(y)
    shares = np.array([phenotype.apoptotic, phenotype.mitotic, phenotype.multinucleated])
    state = np.full(n, _INTERPHASE)
    lottery = rng.random(n)
    for share, kind in zip(
        np.cumsum(shares)[::-1], (_MULTINUCLEATED, _MITOTIC, _APOPTOTIC), strict=True
    ):
        state[lottery < share] = kind
    rounding = np.clip(phenotype.rounding + rng.normal(0, 0.12, n), 0, 1)
    rounding = np.where(state == _MITOTIC, 0.95, np.where(state == _APOPTOTIC, 0.9, rounding))
    radius = _CELL_RADIUS * scale * phenotype.cell_size * rng.lognormal(0, 0.16, n)
    radius *= 1 - 0.5 * rounding
    radius = np.where(state == _APOPTOTIC, 0.7 * radius, radius)
    stretch = 1 + (1 - rounding) * np.abs(rng.normal(0, 0.45, n))
    spread = (1 - rounding)[:, None]
    outline = 1 + spread * _waves(rng, n, (2, 6), 0.10)
    outline += spread * phenotype.raggedness * _waves(rng, n, (7, 25), 0.012)
    outline += spread * phenotype.protrusions * _protrusions(rng, n, phenotype.protrusions)
    cells = Shapes(
        y=y,
        x=x,
        major=radius * np.sqrt(stretch),
        minor=radius / np.sqrt(stretch),
        angle=rng.uniform(0, np.pi, n),
        outline=np.clip(outline, 0.35, 2.2),
    )
    height = (1 + 1.1 * rounding) / phenotype.cell_size**0.3 * rng.lognormal(0, 0.18, n)
    return cells, state, height


def _scatter(
    rng: np.random.Generator, count: int, shape: tuple[int, int], spacing: float
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Up to `count` points at least `spacing` apart, as many as fit in a bounded search."""
    candidates = rng.uniform(0, 1, (count * 8, 2)) * shape
    chosen = np.empty((count, 2))
    n = 0
    for point in candidates:
        if n == count:
            break
        if n == 0 or np.square(chosen[:n] - point).sum(axis=1).min() > spacing**2:
            chosen[n] = point
            n += 1
    return chosen[:n, 0], chosen[:n, 1]


def _waves(
    rng: np.random.Generator, n: int, orders: tuple[int, int], amplitude: float
) -> NDArray[Any]:
    """Sums of random cosines around the outline, (n, K)."""
    theta = np.arange(_ANGLES) * (2 * np.pi / _ANGLES)
    order = np.arange(*orders)
    size = amplitude * rng.normal(0, 1, (n, len(order))) * (2 / order) ** 0.5
    phase = rng.uniform(0, 2 * np.pi, (n, len(order)))
    waves: NDArray[Any] = np.einsum(
        "no,nok->nk", size, np.cos(order[:, None] * theta + phase[:, :, None])
    )
    return waves


def _protrusions(rng: np.random.Generator, n: int, sharpness: float) -> NDArray[Any]:
    """Three pointed arms a cell, narrower the sharper, (n, K)."""
    theta = np.arange(_ANGLES) * (2 * np.pi / _ANGLES)
    arms = rng.uniform(0, 2 * np.pi, (n, 3, 1))
    length = 0.32 * np.abs(rng.normal(0, 1, (n, 3, 1)))
    width = 10 * max(sharpness, 0.5)
    bumps: NDArray[Any] = (length * np.exp(width * (np.cos(theta - arms) - 1))).sum(axis=1)
    return bumps - 0.08


def _draw_nuclei(
    rng: np.random.Generator,
    phenotype: Phenotype,
    cells: Shapes,
    state: NDArray[Any],
    scale: float,
) -> tuple[Shapes, NDArray[Any]]:
    """Nuclei of all cells, and the cell that owns each."""
    n_cells = len(cells)
    counts = np.ones(n_cells, dtype=np.int64)
    counts[state == _MULTINUCLEATED] = rng.integers(2, 5, (state == _MULTINUCLEATED).sum())
    counts[state == _APOPTOTIC] = rng.integers(3, 6, (state == _APOPTOTIC).sum())
    anaphase = (state == _MITOTIC) & (rng.random(n_cells) < 0.2)
    counts[anaphase] = 2
    owner = np.repeat(np.arange(n_cells), counts)
    n = len(owner)
    kind, siblings = state[owner], counts[owner]
    base = _NUCLEUS_RADIUS * scale * phenotype.nucleus_size * rng.lognormal(0, 0.1, n_cells)[owner]
    radius = np.select(
        [kind == _MITOTIC, kind == _APOPTOTIC, kind == _MULTINUCLEATED],
        [0.62 * base, 0.28 * base, 0.95 * base / siblings**0.5 * rng.lognormal(0, 0.25, n)],
        base,
    )
    stretch = 1 + np.abs(rng.normal(0.22, 0.15, n))
    stretch = np.where(kind == _MITOTIC, rng.uniform(1.4, 2.8, n), stretch)
    room = 0.85 * cells.minor[owner]
    radius = np.minimum(radius, 0.8 * room / np.sqrt(np.where(siblings > 1, 2.0, stretch)))
    turn = cells.angle[owner] + rng.normal(0, 0.35, n)
    order = np.arange(n) - np.searchsorted(owner, owner)  # 0, 1, ... within each cell
    around = 2 * np.pi * order / siblings + cells.angle[owner]
    apart = np.where(siblings > 1, np.where(kind == _MULTINUCLEATED, 1.25, 1.9) * radius, 0)
    apart = np.where((kind == _MITOTIC) & (siblings > 1), 0.75 * radius, apart)
    apart = np.minimum(apart, np.maximum(room - radius, 0))
    turn = np.where(kind == _MITOTIC, around + np.pi / 2, turn)
    shift = rng.normal(0, 0.15, (2, n_cells))[:, owner] * np.maximum(room - apart - radius, 0)
    wobble = 0.035 * phenotype.nucleus_irregularity
    nuclei = Shapes(
        y=cells.y[owner] + shift[0] + apart * np.sin(around),
        x=cells.x[owner] + shift[1] + apart * np.cos(around),
        major=radius * np.sqrt(stretch),
        minor=radius / np.sqrt(stretch),
        angle=turn,
        outline=np.clip(1 + _waves(rng, n, (2, 5), wobble), 0.6, 1.5),
    )
    return nuclei, owner


def _condensation(rng: np.random.Generator, kind: NDArray[Any]) -> NDArray[Any]:
    """DNA brightness: G1 to G2 spread in interphase, bright chromosomes, brighter fragments."""
    cycle = np.where(rng.random(len(kind)) < 0.3, 1.35, 1.0) * rng.lognormal(0, 0.14, len(kind))
    brightness: NDArray[Any] = cycle * np.select(
        [kind == _MITOTIC, kind == _APOPTOTIC], [2.3, 2.4], 1.0
    )
    return brightness


def _paint_cells(
    cells: Shapes, shape: tuple[int, int], scale: float
) -> tuple[NDArray[np.int16], NDArray[np.float32], NDArray[np.float32]]:
    """Index and normalised radius of the nearest cell, and how much farther the next one is."""
    index = np.zeros(shape, dtype=np.int16)
    best = np.full(shape, _FAR, dtype=np.float32)
    second = np.full(shape, _FAR, dtype=np.float32)
    reach = cells.major * cells.outline.max(axis=1) + 3 * scale
    for number in range(len(cells)):
        patch = cells.patch(number, float(reach[number]), shape)
        if patch is None:
            continue
        old = best[patch.place]
        nearer = patch.rho < old
        second[patch.place] = np.minimum(second[patch.place], np.maximum(old, patch.rho))
        best[patch.place] = np.minimum(old, patch.rho)
        index[patch.place][nearer] = number
    return index, best, second - best


def _paint_nuclei(
    nuclei: Shapes,
    owner: NDArray[Any],
    cell: NDArray[np.int16],
    shape: tuple[int, int],
    scale: float,
) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Index of the cell's nearest nucleus and the pixels to its edge."""
    index = np.zeros(shape, dtype=np.int16)
    beyond = np.full(shape, _FAR * scale, dtype=np.float32)
    radius = nuclei.radius.astype(np.float32)
    for number in range(len(nuclei)):
        patch = nuclei.patch(number, float(radius[number] + 60 * scale), shape)
        if patch is None:
            continue
        pixels = (patch.rho - 1) * radius[number]
        own = (cell[patch.place] == owner[number]) | (pixels < 2 * scale)
        nearer = own & (pixels < beyond[patch.place])
        beyond[patch.place][nearer] = pixels[nearer]
        index[patch.place][nearer] = number
    return index, beyond
