"""`Embedder`: a backbone on a device, ready to embed tiles and planes.

Letters: N tiles, P planes, T tile edge, D features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, get_args

import numpy as np
import torch

from unidino_fast.backbones import Backbone, open_backbone
from unidino_fast.choices import EngineName, Intensity, PrecisionName
from unidino_fast.engines.eager import EagerEngine, Precision
from unidino_fast.errors import PixelError, UsageError
from unidino_fast.preprocess import standardized, tiles_of

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator

    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor

INTENSITIES = get_args(Intensity)
ENGINES = get_args(EngineName)
PRECISIONS = get_args(PrecisionName)
_BATCH_SIZE = {"cpu": 16, "cuda": 256}


class Engine(Protocol):
    """What runs a backbone: tiles (N, C, T, T) on its device -> features (N, D) float32."""

    name: str

    def __call__(self, tiles: Tensor) -> Tensor:
        """Embeds one batch."""
        ...


def load_backbone(
    weights: str | os.PathLike[str] = "default",
    *,
    engine: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    tile: int | None = None,
    batch_size: int | None = None,
) -> Embedder:
    """Loads weights and makes them ready to embed.

    Args:
        weights: `default`, a file, `FILE#student`, `timm:NAME`, `hf:REPO`, `random[:SEED]`.
        engine: `auto` or `eager`.
        device: `auto` (the first CUDA device, else the CPU), `cpu`, `cuda` or `cuda:N`.
        precision: `auto` (bf16 on CUDA, fp32 on the CPU), `fp32`, `bf16` or `fp16`.
        tile: tile edge in pixels; the size that the weights were trained at by default.
        batch_size: tiles a step; 256 on CUDA, 16 on the CPU by default.

    Raises:
        WeightsError: the weights cannot be loaded.
        UsageError: an option is not available here.
    """
    place = _device(device)
    backbone = open_backbone(weights)
    if tile is not None:
        backbone = backbone.with_tile(tile)
    return Embedder(backbone, engine, place, _precision(precision, place), batch_size)


class Embedder:
    """A backbone on a device.

    Attributes:
        backbone: the weights and what is known of them.
        dim: features a tile, D.
        tile: tile edge in pixels, T.
        device: where it runs.
        precision: of its arithmetic.
        engine: name of the engine.
        batch_size: tiles a step.
    """

    def __init__(
        self,
        backbone: Backbone,
        engine: str,
        device: torch.device,
        precision: Precision,
        batch_size: int | None = None,
    ) -> None:
        if engine not in ENGINES:
            raise UsageError(f"engine {engine!r} is not available: use {' or '.join(ENGINES)}")
        if batch_size is not None and batch_size < 1:
            raise UsageError(f"batch size {batch_size} is too small: use 1 or more")
        self.backbone = backbone
        self.dim = backbone.dim
        self.tile = backbone.image_size
        self.device = device
        self.precision = precision
        self.batch_size = batch_size or _BATCH_SIZE.get(device.type, 16)
        self._engine: Engine = EagerEngine(backbone.module, device, precision)
        self.engine = self._engine.name

    def embed_tiles(self, tiles: ArrayLike | Tensor) -> NDArray[np.float32]:
        """Embeds tiles.

        Args:
            tiles: (N, T, T) float32 in [0, 1].

        Returns:
            (N, D) float32.

        Raises:
            UsageError: the shape does not fit the backbone.
        """
        batch = torch.as_tensor(tiles).to(torch.float32)
        if batch.ndim != 3 or batch.shape[1:] != (self.tile, self.tile):
            raise UsageError(
                f"tiles of shape {tuple(batch.shape)} do not fit:"
                f" give (N, {self.tile}, {self.tile})"
            )
        self.check_single_channel()
        return self.embed_stream([batch])

    def embed_planes(
        self,
        planes: ArrayLike | Tensor,
        intensity: Intensity = "dtype",
        *,
        stride: int | None = None,
    ) -> NDArray[np.float32]:
        """Embeds whole planes: the mean over each plane's tiles.

        Args:
            planes: (P, H, W) uint8, uint16, int16, uint32 or float32.
            intensity: `dtype`, `percentile` or `none`.
            stride: step between tiles in pixels; the tile edge by default.

        Returns:
            (P, D) float32.

        Raises:
            UsageError: planes smaller than a tile, or an unknown intensity.
            PixelError: NaN, infinite or out-of-range pixels.
        """
        step = self.tile if stride is None else stride
        if intensity not in INTENSITIES or step < 1:
            raise UsageError(
                f"intensity {intensity!r}, stride {step}: use {', '.join(INTENSITIES)},"
                " and a stride of 1 or more"
            )
        pixels = torch.as_tensor(planes)
        if pixels.ndim != 3 or min(pixels.shape[1:]) < self.tile:
            raise UsageError(
                f"planes of shape {tuple(pixels.shape)} do not hold a tile of {self.tile} px:"
                " give (P, H, W)"
            )
        self.check_single_channel()
        blocks = (
            tiles_of(plane[None], intensity, tile=self.tile, stride=step)[0] for plane in pixels
        )
        features = self.embed_stream(blocks)
        if not len(pixels):
            return features
        of_planes = features.reshape(len(pixels), -1, self.dim).astype(np.float64)
        return np.asarray(of_planes.mean(axis=1), np.float32)

    def embed_stream(self, blocks: Iterable[Tensor]) -> NDArray[np.float32]:
        """Embeds blocks of tiles (n, T, T), in order, in full batches; (sum of n, D) float32."""
        found = [self._embed_batch(batch) for batch in _batches(blocks, self.batch_size)]
        if not found:
            return np.empty((0, self.dim), np.float32)
        return np.concatenate(found)

    def _embed_batch(self, tiles: Tensor) -> NDArray[np.float32]:
        tiles = tiles.to(self.device, non_blocking=True)
        if self.backbone.input_norm == "per_tile":
            tiles = standardized(tiles)
        try:
            features = self._engine(tiles[:, None]).cpu().numpy()
        except torch.OutOfMemoryError as error:
            raise UsageError(
                f"batch size {self.batch_size} does not fit in the memory of {self.device}:"
                " use a smaller --batch-size"
            ) from error
        if not np.isfinite(features).all():
            raise PixelError(
                f"the backbone gave NaN or infinite features in {self.precision}:"
                " use --precision fp32"
            )
        result: NDArray[np.float32] = features
        return result

    def check_single_channel(self) -> None:
        """Raises UsageError where the backbone cannot embed one channel alone."""
        if self.backbone.in_chans != 1:
            raise UsageError(
                f"weights {self.backbone.name} read {self.backbone.in_chans} channels at once, but"
                " plates are embedded channel by channel: use weights with 1 or 3 input channels"
            )

    def describe(self) -> dict[str, Any]:
        """What decides the numbers, for provenance."""
        return {
            "weights": self.backbone.name,
            "weights_digest": self.backbone.digest,
            "weights_family": self.backbone.family,
            "input_norm": self.backbone.input_norm,
            "engine": self.engine,
            "precision": self.precision,
        }


def _batches(blocks: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """Regroups blocks of tiles into batches of `size`; the last may be smaller."""
    held: list[Tensor] = []
    n_held = 0
    for block in blocks:
        rest = block
        while n_held + len(rest) >= size:
            missing = size - n_held
            yield torch.cat([*held, rest[:missing]])
            held, n_held, rest = [], 0, rest[missing:]
        if len(rest):
            held.append(rest)
            n_held += len(rest)
    if held:
        yield torch.cat(held)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {name!r} is unknown: use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device {name} is not here ({torch.cuda.device_count()} CUDA devices):"
            " use --device auto or cpu"
        )
    return device


def _precision(name: str, device: torch.device) -> Precision:
    if name == "auto":
        return "bf16" if device.type == "cuda" else "fp32"
    if name not in PRECISIONS:
        raise UsageError(f"precision {name!r} is not available: use {', '.join(PRECISIONS)}")
    return name  # type: ignore[return-value]
