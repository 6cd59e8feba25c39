"""`Embedder`: a backbone on a device, ready to embed tiles and planes.

Letters: N tiles, P planes, E tile edge, T tokens, D features.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch

from unidino_fast.choices import EngineName, Intensity, Precision
from unidino_fast.engines.choose import (
    BATCH_TILES,
    Engine,
    build_engine,
    choose_engine,
)
from unidino_fast.engines.eager import AUTOCAST_DTYPES
from unidino_fast.engines.graph import InferenceGraph, patches_of
from unidino_fast.engines.packing import Ticket, TilePacker
from unidino_fast.errors import PixelError, UsageError
from unidino_fast.kernels.tile_normalize import PIXEL_DTYPES
from unidino_fast.preprocess import tiles_of

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor

    from unidino_fast.backbones import Backbone

INTENSITIES = get_args(Intensity)


class Embedder:
    """A backbone on a device.

    Attributes:
        backbone: the weights and what is known of them.
        dim: features a tile, D.
        tile: tile edge in pixels, E.
        device: where it runs.
        precision: of its arithmetic.
        engine: name of the engine, `auto` until the size of a job is known.
        batch_size: tiles handed to the engine at once; results do not depend on it.
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
        self.batch_size = batch_size or BATCH_TILES[device.type]
        self._engines: dict[EngineName, Engine] = {}
        self._jobs: dict[tuple[int, bool], Embedder] = {}

    def for_job(self, n_tiles: int, *, begun: bool = False) -> Embedder:
        """This embedder with the engine that suits a job of so many tiles; engines are shared.

        The log says why once, however often a job is asked for; of a job that was begun before with
        other tiles than it has now, it says that too.
        """
        if self.engine != "auto":
            return self
        job = n_tiles, begun
        if job not in self._jobs:
            chosen = choose_engine(self.engine, self.device, self.precision, n_tiles, begun=begun)
            other = Embedder(self.backbone, chosen, self.device, self.precision, self.batch_size)
            other._engines = self._engines
            other.__dict__["_graph"] = self._graph
            self._jobs[job] = other
        return self._jobs[job]

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
            UsageError: the shape does not fit the backbone, or the values are no real numbers or
                are pixels (whole numbers beyond 0 and 1), which `embed_planes` scales.
        """
        given = _tensor_of(tiles, "tiles")
        batch = given.to(torch.float32)
        whole = not given.is_floating_point()
        if whole and batch.numel() and not 0 <= float(batch.min()) <= float(batch.max()) <= 1:
            kind = str(given.dtype).removeprefix("torch.")
            raise UsageError(
                f"tiles of {kind} hold {batch.min():g} to {batch.max():g}, no intensities in"
                " [0, 1]: scale them, or give them to embed_planes, which does"
            )
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
            UsageError: planes smaller than a tile or of another dtype, or an unknown intensity.
            PixelError: NaN, infinite or out-of-range pixels.
        """
        step = self.tile if stride is None else stride
        if intensity not in INTENSITIES or step < 1:
            raise UsageError(
                f"intensity {intensity!r}, stride {step}: use {', '.join(INTENSITIES)},"
                " and a stride of 1 or more"
            )
        packer = self.packer()
        tickets: list[Ticket] = []
        for plane in self._pixels_of(planes):
            pixels_here = plane[None].to(self.device)
            try:
                patches = tiles_of(
                    pixels_here,
                    intensity,
                    tile=self.tile,
                    stride=step,
                    patch=packer.patch,
                    dtype=packer.dtype,
                )
            except PixelError as error:
                raise PixelError(f"plane {len(tickets)}: {error}") from None
            tickets.append(packer.add(patches[0]))
        packer.flush()
        means = [ticket.features.mean(axis=0, dtype=np.float64) for ticket in tickets]
        return np.array(means, np.float32).reshape(len(tickets), self.dim)

    def _pixels_of(self, planes: ArrayLike) -> Tensor:
        """Planes (P, H, W), of which each holds a tile; raises UsageError where they are none."""
        pixels = _tensor_of(planes, "planes")
        if pixels.is_floating_point():
            pixels = pixels.to(torch.float32)
        if pixels.dtype not in PIXEL_DTYPES:
            known = ", ".join(str(dtype).removeprefix("torch.") for dtype in PIXEL_DTYPES)
            raise UsageError(f"planes of {pixels.dtype} are no pixels: make them one of {known}")
        if pixels.ndim != 3 or min(pixels.shape[1:]) < self.tile:
            raise UsageError(
                f"planes of shape {tuple(pixels.shape)} do not hold a tile of {self.tile} px:"
                " give (P, H, W)"
            )
        return pixels

    def packer(self) -> TilePacker:
        """A queue for tiles' patches that runs the network in batches.

        Raises:
            UsageError: the engine is not available here, or reads several channels at once.
        """
        self.check_single_channel()
        engine = self._built()
        patch = self.backbone.patch_size
        return TilePacker(
            self._run,
            check=self._check_finite,
            size=self.batch_size,
            step=engine.step,
            n_tokens=(self.tile // patch) ** 2,
            patch=patch,
            dim=self.dim,
            device=self.device,
            dtype=self._patch_dtype,
        )

    @property
    def _patch_dtype(self) -> torch.dtype:
        """What patches are rounded to before the network: what its first product would round to.

        Exported graphs read float32, and so do the variances of tiles that are standardised.
        """
        narrow = (
            self._name in ("eager", "compile", "fused") and self.backbone.input_norm == "identity"
        )
        return AUTOCAST_DTYPES.get(self.precision, torch.float32) if narrow else torch.float32

    @cached_property
    def _graph(self) -> InferenceGraph:
        return InferenceGraph(self.backbone).eval()

    @property
    def _name(self) -> EngineName:
        return choose_engine(self.engine, self.device, self.precision, None)

    def _built(self) -> Engine:
        """The engine, built on first use."""
        name = self._name
        if name not in self._engines:
            self._engines[name] = build_engine(name, self._graph, self.device, self.precision)
        return self._engines[name]

    def _run(self, patches: Tensor) -> Tensor:
        try:
            return self._built()(patches)
        except torch.OutOfMemoryError as error:
            raise UsageError(
                f"{len(patches)} tiles at once do not fit in the memory of {self.device}: use a"
                " smaller --batch-size, or free it of other work"
            ) from error

    def _check_finite(self, features: NDArray[np.float32]) -> None:
        if not np.isfinite(features).all():
            remedy = "use --precision fp32"
            if self.precision == "fp32":
                remedy = "look for such values in tiles and weights"
            elif self._name == "fused" and self.precision == "bf16":  # its sums are float16
                remedy = "use --engine compile, or --precision fp32"
            raise PixelError(
                f"the backbone gave NaN or infinite features in {self.precision}: {remedy}"
            )

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


def _tensor_of(values: ArrayLike | Tensor, what: str) -> Tensor:
    """Values as a tensor in native byte order.

    Raises:
        UsageError: they are no real numbers, or no array.
    """
    if isinstance(values, torch.Tensor):
        dtype, real = str(values.dtype), not values.is_complex() and values.dtype != torch.bool
        if real:
            return values
    else:
        try:
            array = np.asarray(values)
        except ValueError:  # rows of unequal length
            raise UsageError(f"{what} are no array: give numbers of equal shapes") from None
        dtype = str(array.dtype)
        if array.dtype.kind in "uif" and array.dtype.itemsize <= 8:
            native = array.astype(array.dtype.newbyteorder("="), order="C", copy=False)
            return torch.from_numpy(native if native.flags.writeable else native.copy())
    raise UsageError(f"{what} of {dtype} cannot be embedded: give integers or floats")
