"""`Embedder`: a backbone on a device, ready to embed tiles and planes.

Letters: N tiles, P planes, E tile edge, T tokens, D features.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch

from unidino_fast.backbones import Backbone, open_backbone
from unidino_fast.choices import EngineName, Intensity, Precision
from unidino_fast.engines.choose import (
    COMPUTE_BATCH,
    Engine,
    build_engine,
    check_engine,
    choose_device,
    choose_engine,
    choose_precision,
)
from unidino_fast.engines.graph import InferenceGraph, patches_of
from unidino_fast.engines.packing import TilePacker
from unidino_fast.errors import PixelError, UsageError
from unidino_fast.preprocess import tiles_of

if TYPE_CHECKING:
    import os

    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor

INTENSITIES = get_args(Intensity)


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
        engine: `auto` (by device and size of the job), `eager`, `compile`, `onnx` or `tensorrt`.
        device: `auto` (the first CUDA device, else the CPU), `cpu`, `cuda` or `cuda:N`.
        precision: `auto` (bf16 on CUDA, fp32 on the CPU), `fp32`, `bf16`, `fp16` or, on
            GPUs from Ada and Hopper on, `fp8`.
        tile: tile edge in pixels; the size that the weights were trained at by default.
        batch_size: tiles a step of the network. A fixed size for the device by default: another
            may change the last bits of the embeddings.

    Raises:
        WeightsError: the weights cannot be loaded.
        UsageError: an option is not available here.
    """
    place = choose_device(device)
    arithmetic = choose_precision(precision, place)
    choose_engine(engine, place, None)
    check_engine(engine, arithmetic)
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"batch size {batch_size} is too small: use 1 or more")
    backbone = open_backbone(weights)
    if tile is not None:
        backbone = backbone.with_tile(tile)
    return Embedder(backbone, engine, place, arithmetic, batch_size)


class Embedder:
    """A backbone on a device.

    Attributes:
        backbone: the weights and what is known of them.
        dim: features a tile, D.
        tile: tile edge in pixels, E.
        device: where it runs.
        precision: of its arithmetic.
        engine: name of the engine, `auto` until the size of a job is known.
        batch_size: tiles a step of the network.
    """

    def __init__(
        self,
        backbone: Backbone,
        engine: str,
        device: torch.device,
        precision: Precision,
        batch_size: int | None = None,
    ) -> None:
        self.backbone = backbone
        self.dim = backbone.dim
        self.tile = backbone.image_size
        self.device = device
        self.precision: Precision = precision
        self.engine = engine
        self.batch_size = batch_size or COMPUTE_BATCH[device.type]
        self._engines: dict[EngineName, Engine] = {}

    def for_job(self, n_tiles: int) -> Embedder:
        """This embedder with the engine that suits a job of so many tiles; engines are shared."""
        chosen = choose_engine(self.engine, self.device, n_tiles)
        if chosen == self.engine:
            return self
        other = Embedder(self.backbone, chosen, self.device, self.precision, self.batch_size)
        other._engines = self._engines
        other.__dict__["_graph"] = self._graph
        return other

    @property
    def is_reference(self) -> bool:
        """Whether this is what others are checked against: the eager engine in fp32."""
        return self.engine in ("auto", "eager") and self.precision == "fp32"

    def reference(self) -> Embedder:
        """The eager engine in fp32 on the same device: what others are checked against."""
        other = Embedder(self.backbone, "eager", self.device, "fp32", self.batch_size)
        if self.precision == "fp32":
            other._engines = self._engines
        other.__dict__["_graph"] = self._graph
        return other

    def embed_tiles(self, tiles: ArrayLike | Tensor) -> NDArray[np.float32]:
        """Embeds tiles.

        Args:
            tiles: (N, E, E) float32 in [0, 1].

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
        packer = self.packer()
        ticket = packer.add(patches_of(batch, self.backbone.patch_size))
        packer.flush()
        return ticket.features

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
        packer = self.packer()
        tickets = []
        for plane in pixels:
            pixels_here = plane[None].to(self.device)
            patches = tiles_of(
                pixels_here, intensity, tile=self.tile, stride=step, patch=packer.patch
            )
            tickets.append(packer.add(patches[0]))
        packer.flush()
        means = [ticket.features.mean(axis=0, dtype=np.float64) for ticket in tickets]
        return np.array(means, np.float32).reshape(len(tickets), self.dim)

    def packer(self) -> TilePacker:
        """A queue for tiles' patches that runs the network in batches of one fixed shape."""
        self.check_single_channel()
        patch = self.backbone.patch_size
        return TilePacker(
            self._embed_batch,
            size=self.batch_size,
            n_tokens=(self.tile // patch) ** 2,
            patch=patch,
            dim=self.dim,
            device=self.device,
        )

    @cached_property
    def _graph(self) -> InferenceGraph:
        return InferenceGraph(self.backbone).eval()

    def _embed_batch(self, patches: Tensor) -> NDArray[np.float32]:
        name = choose_engine(self.engine, self.device, None)
        if name not in self._engines:
            self._engines[name] = build_engine(
                name, self._graph, self.device, self.precision, self.batch_size
            )
        try:
            features = self._engines[name](patches).cpu().numpy()
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
            "batch_size": self.batch_size,
        }
