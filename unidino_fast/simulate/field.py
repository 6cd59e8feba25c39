"""Stains a simulated scene, takes its picture: one function a channel, then optics and camera.

C channels, H x W the padded canvas, Y x X the field. Light is relative to 1 (the cytoplasm or
nucleus of an untreated cell) until the camera turns it into counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from unidino_fast.errors import UsageError
from unidino_fast.simulate.phenotypes import UNTREATED, Phenotype
from unidino_fast.simulate.scene import Scene

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

CHANNELS = ("DNA", "ER", "RNA", "AGP", "Mito")

_FULL_SCALE = {"DNA": 7000.0, "ER": 8000.0, "RNA": 6500.0, "AGP": 6500.0, "Mito": 10000.0}
_OFFSET, _BACKGROUND, _READ_NOISE, _COUNTS_PER_ELECTRON = 240.0, 60.0, 7.0, 2.5
_MARGIN = 16
_FULL_FIELD = 224  # pixels; smaller fields show the same cells at a lower magnification


def field_scale(size: tuple[int, int]) -> float:
    """Magnification of a field: 1 from 224 pixels upward, less below, so that cells still fit."""
    return min(1.0, min(size) / _FULL_FIELD)


def simulate_field(
    rng: np.random.Generator,
    phenotype: Phenotype = UNTREATED,
    *,
    size: tuple[int, int] = (448, 448),
    channels: Sequence[str] = CHANNELS,
    light: Sequence[float] | float = 1.0,
    defocus: float = 0.0,
    unevenness: float = 0.0,
) -> NDArray[np.uint16]:
    """Draws one field of view.

    Each channel has a random stream of its own: leaving one out, or another order, does not change
    the pixels of the rest.

    Args:
        rng: source of all randomness; children are spawned from it.
        phenotype: what the cells look like.
        size: (Y, X) in pixels, each at least 16. Below 224 the cells shrink with the field.
        channels: any of `CHANNELS`, in the order to return.
        light: factor on the signal of all channels, or of each.
        defocus: sigma in pixels of a blur that all channels suffer before the camera.
        unevenness: light at the right edge over the mean, less that at the left; 2 at most.

    Returns:
        (C, Y, X) camera counts.

    Raises:
        UsageError: an unknown channel or a field too small.
    """
    check_field(size, channels)
    factors = np.broadcast_to(np.asarray(light, dtype=np.float32), (len(channels),))
    scale = field_scale(size)
    canvas = tuple(-(-(edge + 2 * _MARGIN) // 16) * 16 for edge in size)
    scene_rng, *stain_rngs = rng.spawn(1 + len(CHANNELS))
    scene = Scene.draw(scene_rng, phenotype, (canvas[0], canvas[1]), scale)
    view = _View.of(scene, scale)
    pixels = np.empty((len(channels), *size), dtype=np.uint16)
    for index, channel in enumerate(channels):
        stain_rng = stain_rngs[CHANNELS.index(channel)]
        stain = _STAINS[channel](stain_rng, view, phenotype)
        sharp = 0.9 * max(scale, 0.7)
        seen = _blur(
            stain,
            sharp if defocus == 0 else (sharp**2 + defocus**2) ** 0.5,
            haze=0.22,
            haze_sigma=9 * scale,
        )
        seen = seen[_MARGIN : _MARGIN + size[0], _MARGIN : _MARGIN + size[1]]
        signal = seen * (factors[index] * _FULL_SCALE[channel])
        if unevenness:
            signal *= 1 + np.linspace(-0.5, 0.5, size[1], dtype=np.float32) * np.float32(unevenness)
        pixels[index] = _expose(stain_rng, signal)
    return pixels


def check_field(size: tuple[int, int], channels: Sequence[str]) -> None:
    """Raises UsageError for a field that cannot be drawn."""
    unknown = [channel for channel in channels if channel not in CHANNELS]
    if unknown:
        raise UsageError(f"channel {unknown[0]!r} is not simulated: use {', '.join(CHANNELS)}")
    if not channels or len(set(channels)) < len(channels):
        raise UsageError(f"channels {tuple(channels)} must be one or more, each once")
    if len(size) != 2 or min(size) < 16:
        raise UsageError(f"field size {size} is too small: use two edges of 16 pixels or more")


@dataclass(frozen=True, slots=True)
class _View:
    """The scene and the maps that several stains share, all (H, W) float32."""

    scene: Scene
    scale: float
    body: NDArray[Any]  # 1 in cells, 0 outside, soft over two pixels
    height: NDArray[Any]  # thickness of the cell
    inside: NDArray[Any]  # 1 in nuclei, 0 outside, soft
    outside: NDArray[Any]  # pixels from the nucleus' edge, 0 inside

    @classmethod
    def of(cls, scene: Scene, scale: float) -> _View:
        depth = np.clip(scene.depth, 0, 1)
        radius = scene.cells.radius.astype(np.float32)[scene.cell]
        body = np.clip(depth * radius / np.float32(2 * scale), 0, 1)
        thickness = scene.height.astype(np.float32)[scene.cell]
        return cls(
            scene=scene,
            scale=scale,
            body=body,
            height=thickness * (depth * (2 - depth)) ** np.float32(0.7),
            inside=1 / (1 + np.exp(np.clip(scene.beyond / np.float32(0.6 * scale), -30, 30))),
            outside=np.maximum(scene.beyond, 0),
        )

    @property
    def shape(self) -> tuple[int, int]:
        return self.scene.cell.shape[0], self.scene.cell.shape[1]

    def texture(self, rng: np.random.Generator, coarse: float, fine: float = 0.0) -> NDArray[Any]:
        """Noise of unit variance with structure between two sizes, in pixels at scale 1."""
        noise = rng.standard_normal(self.shape, dtype=np.float32)
        return _band(noise, fine * self.scale, max(coarse * self.scale, 0.6))

    def spots(
        self, rng: np.random.Generator, y: NDArray[Any], x: NDArray[Any], sigma: float
    ) -> NDArray[Any]:
        """Round spots of uneven brightness, about 1 high."""
        image = np.zeros(self.shape, dtype=np.float32)
        rows, columns = np.rint(y).astype(np.int64), np.rint(x).astype(np.int64)
        seen = (rows >= 0) & (rows < self.shape[0]) & (columns >= 0) & (columns < self.shape[1])
        sigma = max(sigma * self.scale, 0.6)
        weight = rng.lognormal(0, 0.3, len(rows)) * (2 * np.pi * sigma**2)
        np.add.at(image, (rows[seen], columns[seen]), weight[seen])
        spots: NDArray[Any] = np.maximum(_blur(image, sigma), 0)
        return spots

    def around(self, pixels: float) -> NDArray[Any]:
        """Fall-off from the nucleus into the cytoplasm."""
        return np.exp(-self.outside / np.float32(pixels * self.scale))


def _stain_dna(rng: np.random.Generator, view: _View, phenotype: Phenotype) -> NDArray[Any]:
    scene = view.scene
    brightness = scene.condensed.astype(np.float32)[scene.nucleus]
    radius = scene.nuclei.radius.astype(np.float32)[scene.nucleus]
    dome = 0.78 + 0.22 * np.clip(-scene.beyond / (0.6 * radius), 0, 1)
    grain = 1 + 0.16 * phenotype.chromatin * view.texture(rng, 3.0, 1.2)
    return phenotype.dna * view.inside * brightness * dome * np.maximum(grain, 0.3)


def _stain_er(rng: np.random.Generator, view: _View, phenotype: Phenotype) -> NDArray[Any]:
    mesh = np.exp(-np.square(view.texture(rng, 2.6, 1.0) / 0.7))
    sheet = view.texture(rng, 7.0, 3.0)
    clumps = np.clip(sheet, 0, 2)
    lace = 0.35 + 0.75 * mesh + 0.12 * sheet
    weight = min(phenotype.er_clumps, 1.0)
    texture = (1 - 0.5 * weight) * lace + 0.7 * weight * clumps
    fall = 0.16 + 0.84 * view.around(15 * phenotype.er_reach)
    envelope = 0.3 * np.exp(-np.square(view.scene.beyond / (1.5 * view.scale)))
    cytoplasm = view.height * fall * np.maximum(texture, 0) * (1 - 0.72 * view.inside)
    light: NDArray[Any] = phenotype.er * (cytoplasm + envelope * view.body)
    return light


def _stain_rna(rng: np.random.Generator, view: _View, phenotype: Phenotype) -> NDArray[Any]:
    scene = view.scene
    resting = np.flatnonzero(scene.resting)
    count = rng.poisson(phenotype.nucleoli_count, len(resting)) + 1
    owner = np.repeat(resting, count)
    reach = 0.5 * np.sqrt(rng.random(len(owner))) * scene.nuclei.radius[owner]
    angle = rng.uniform(0, 2 * np.pi, len(owner))
    y = scene.nuclei.y[owner] + reach * np.sin(angle)
    x = scene.nuclei.x[owner] + reach * np.cos(angle)
    nucleoli = np.minimum(view.spots(rng, y, x, 1.9), 1.6) * view.inside
    cloud = 1 + 0.13 * view.texture(rng, 4.0, 1.0)
    cytoplasm = view.height * (0.3 + 0.6 * view.around(20)) * cloud * (1 - 0.5 * view.inside)
    light: NDArray[Any] = phenotype.rna * (cytoplasm + 0.75 * phenotype.nucleoli * nucleoli)
    return light


def _stain_agp(rng: np.random.Generator, view: _View, phenotype: Phenotype) -> NDArray[Any]:
    patchy = view.texture(rng, 9.0, 3.0)
    rim = np.exp(-np.square(view.scene.edge / np.float32(1.9 * view.scale)))
    ruffles = phenotype.actin_edge * rim * view.body**0.3 * np.clip(0.55 + 0.4 * patchy, 0.1, None)
    fibres = phenotype.actin_fibres * _fibres(rng, view, patchy)
    grain = 1 + 0.14 * view.texture(rng, 2.0, 0.8)
    body = 0.3 * view.height * grain + 0.26 * view.inside
    light: NDArray[Any] = (
        body + 0.55 * ruffles + 0.3 * fibres + 1.5 * phenotype.golgi * _golgi(rng, view, phenotype)
    )
    if phenotype.actin_clumps > 0:
        clumps = np.clip(view.texture(rng, 2.4, 1.2) - 1.7, 0, None) * view.body
        light += 1.6 * phenotype.actin_clumps * clumps * (1 - 0.7 * view.inside)
    light *= phenotype.agp
    return light


def _fibres(rng: np.random.Generator, view: _View, patchy: NDArray[Any]) -> NDArray[Any]:
    """Stress fibres: wavy stripes along each cell, in the thin parts of its body."""
    height, width = view.shape
    angle = view.scene.cells.angle.astype(np.float32)
    across_y, across_x = np.cos(angle)[view.scene.cell], -np.sin(angle)[view.scene.cell]
    y = np.arange(height, dtype=np.float32)[:, None]
    x = np.arange(width, dtype=np.float32)[None, :]
    warp = 1.5 * view.texture(rng, 30.0, 12.0)
    stripes = np.cos(
        (across_y * y + across_x * x) * np.float32(2 * np.pi / 5.5 / view.scale) + warp
    )
    flat = view.body * np.clip(1 - 0.35 * view.height, 0, 1)
    fibres: NDArray[Any] = (
        np.clip(stripes, 0, 1) ** 3 * flat * np.clip(0.45 + 0.6 * patchy, 0, None)
    )
    return fibres


def _golgi(rng: np.random.Generator, view: _View, phenotype: Phenotype) -> NDArray[Any]:
    """A cluster of bright vesicles beside each resting nucleus, scattered where it is disrupted."""
    nuclei = view.scene.nuclei
    owner = np.repeat(np.flatnonzero(view.scene.resting), 14)
    side = rng.uniform(0, 2 * np.pi, len(nuclei))[owner]
    reach = nuclei.radius[owner] + 2.5 * view.scale
    scatter = rng.normal(0, 3.2 * view.scale * phenotype.golgi_scatter, (2, len(owner)))
    y = nuclei.y[owner] + reach * np.sin(side) + scatter[0]
    x = nuclei.x[owner] + reach * np.cos(side) + scatter[1]
    spots = np.minimum(view.spots(rng, y, x, 1.2) / phenotype.golgi_scatter**0.5, 2.5)
    vesicles: NDArray[Any] = 0.45 * spots * view.body * (1 - 0.5 * view.inside)
    return vesicles


def _stain_mito(rng: np.random.Generator, view: _View, phenotype: Phenotype) -> NDArray[Any]:
    noise = view.texture(rng, 3.6, 1.7)
    breaks = view.texture(rng, 6.0, 2.0)
    filaments = np.exp(-np.square(noise / 0.4)) * np.clip(0.75 + 0.4 * breaks, 0, 1.6)
    weight = min(phenotype.mito_fragmented, 1.0)
    texture = (1 - weight) * filaments
    if weight > 0:
        texture += weight * 1.1 * np.clip(view.texture(rng, 1.6, 0.9) - 0.9, 0, None)
    fall = 0.1 + 0.9 * view.around(13 * phenotype.mito_reach)
    light = view.height * fall * (texture + 0.1) * (1 - 0.85 * view.inside)
    return phenotype.mito * light


_STAINS: dict[str, Callable[[np.random.Generator, _View, Phenotype], NDArray[Any]]] = {
    "DNA": _stain_dna,
    "ER": _stain_er,
    "RNA": _stain_rna,
    "AGP": _stain_agp,
    "Mito": _stain_mito,
}


def _frequencies(shape: tuple[int, int]) -> NDArray[np.float32]:
    """Squared spatial frequency (radians a pixel) of each rfft2 coefficient."""
    y = np.fft.fftfreq(shape[0]).astype(np.float32)[:, None]
    x = np.fft.rfftfreq(shape[1]).astype(np.float32)[None, :]
    return np.float32(4 * np.pi**2) * (y * y + x * x)


def _blur(
    image: NDArray[Any], sigma: float, *, haze: float = 0.0, haze_sigma: float = 0.0
) -> NDArray[Any]:
    """Gaussian blur, with a share of the light in a wide second Gaussian (out of focus)."""
    square = _frequencies((image.shape[0], image.shape[1]))
    transfer = (1 - haze) * np.exp(-0.5 * sigma**2 * square)
    if haze > 0:
        transfer += haze * np.exp(-0.5 * haze_sigma**2 * square)
    return np.fft.irfft2(np.fft.rfft2(image) * transfer, s=image.shape)


def _band(noise: NDArray[Any], fine: float, coarse: float) -> NDArray[Any]:
    """Band of a noise image between two Gaussian sizes, scaled to unit variance."""
    square = _frequencies((noise.shape[0], noise.shape[1]))
    transfer = np.exp(-0.5 * fine**2 * square) - np.exp(-0.5 * coarse**2 * square)
    image = np.fft.irfft2(np.fft.rfft2(noise) * transfer, s=noise.shape)
    unit: NDArray[Any] = image / image.std()
    return unit


def _expose(rng: np.random.Generator, light: NDArray[Any]) -> NDArray[np.uint16]:
    """Camera: vignette, offset, shot noise (normal, of the Poisson's variance), read noise."""
    y = np.linspace(-1, 1, light.shape[0], dtype=np.float32)[:, None] - np.float32(0.12)
    x = np.linspace(-1, 1, light.shape[1], dtype=np.float32)[None, :] + np.float32(0.08)
    counts = np.maximum(light + np.float32(_BACKGROUND), 0) * (
        1 - np.float32(0.08) * (y * y + x * x)
    )
    spread = np.sqrt(counts * np.float32(_COUNTS_PER_ELECTRON) + np.float32(_READ_NOISE**2))
    counts += spread * rng.standard_normal(light.shape, dtype=np.float32) + np.float32(_OFFSET)
    return np.clip(np.rint(counts), 0, 65535).astype(np.uint16)
