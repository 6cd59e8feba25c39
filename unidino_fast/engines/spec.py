"""A backbone and how to run it, before it is known where: what travels to workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from unidino_fast.backbones import open_backbone
from unidino_fast.engines.choose import check_available, choose_device, choose_precision
from unidino_fast.engines.embedder import Embedder
from unidino_fast.errors import UsageError

if TYPE_CHECKING:
    import os

    from unidino_fast.backbones import Backbone


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A backbone and the options of its engine, as the user gave them.

    Attributes:
        device: `auto` becomes a device on the machine that builds.
    """

    backbone: Backbone
    engine: str
    device: str
    precision: str
    batch_size: int | None

    @classmethod
    def load(
        cls,
        weights: str | os.PathLike[str],
        *,
        engine: str,
        device: str,
        precision: str,
        tile: int | None,
        batch_size: int | None,
    ) -> Self:
        """Loads the weights; arguments and errors are those of `load_backbone`."""
        if batch_size is not None and batch_size < 1:
            raise UsageError(f"batch size {batch_size} is too small: use 1 or more")
        backbone = open_backbone(weights)
        if tile is not None:
            backbone = backbone.with_tile(tile)
        return cls(backbone, engine, device, precision, batch_size)

    def build(self) -> Embedder:
        """The embedder, on this machine.

        Raises:
            UsageError: the device, precision or engine is not available here.
        """
        place = choose_device(self.device)
        arithmetic = choose_precision(self.precision, place)
        check_available(self.engine, place, arithmetic)
        return Embedder(self.backbone, self.engine, place, arithmetic, self.batch_size)


def check_here(engine: str, device: str, precision: str) -> None:
    """Refuses what is cheap to refuse, before weights are loaded.

    Raises:
        UsageError: the device, precision or engine is not available on this machine.
    """
    place = choose_device(device)
    check_available(engine, place, choose_precision(precision, place))


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
        engine: `auto` (by device and size of the job), `eager`, `compile`, `fused`, `onnx` or
            `tensorrt`.
        device: `auto` (the first CUDA device, else the CPU), `cpu`, `cuda` or `cuda:N`.
        precision: `auto` (bf16 on CUDA, fp32 on the CPU), `fp32`, `bf16`, `fp16` or, on
            GPUs from Ada and Hopper on, `fp8`.
        tile: tile edge in pixels; the size that the weights were trained at by default.
        batch_size: tiles handed to the engine at once, by default as many as keep the device busy.
            More take more memory; the embeddings are the same to the last bit.

    Raises:
        WeightsError: the weights cannot be loaded.
        UsageError: an option is not available here.
    """
    check_here(engine, device, precision)
    return ModelSpec.load(
        weights,
        engine=engine,
        device=device,
        precision=precision,
        tile=tile,
        batch_size=batch_size,
    ).build()
