"""The `Backbone`: a loaded module with everything the pipeline has to know about it."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from unidino_fast.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from unidino_fast.choices import Intensity

InputNorm = Literal["identity", "per_tile"]


@dataclass(frozen=True)
class Backbone:
    """A ViT ready for inference, and where it is from.

    Attributes:
        module: timm VisionTransformer in eval mode, float32, on the CPU, without gradients;
            (N, in_chans, image_size, image_size) float32 -> (N, dim), the class token after the
            last norm.
        dim: length of an embedding.
        in_chans: input channels (1 for all that the pipeline embeds).
        patch_size: edge of a patch in pixels.
        image_size: edge of a tile in pixels.
        input_norm: what the caller does to tiles in [0, 1] beforehand: nothing, or each tile to
            zero mean and unit (biased) variance. Mean/std of RGB weights are folded in already.
        name: what was asked for, without folders.
        family: unidino, cellpaintssl, dino, dinov2, morphem, timm, random or unidino_fast.
        digest: SHA-256 of the weights as opened and `input_norm`; `with_tile` leaves it as it is.
        licence: licence of the weights, where known.
        dropped: what the file held that inference does not need.
        notes: what the user should see.
        intensity: how the planes that it was trained on were scaled, where its file says it and it
            is one way for all.
    """

    module: torch.nn.Module = field(repr=False)
    dim: int
    in_chans: int
    patch_size: int
    image_size: int
    input_norm: InputNorm
    name: str
    family: str
    digest: str
    licence: str | None = None
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    intensity: Intensity | None = None

    def with_tile(self, tile: int) -> Backbone:
        """This backbone for another tile size.

        The position embedding is resampled as timm does it (bicubic, antialiased). The digest
        stays that of the weights as opened, so that it is the same on every machine: the tile
        is an option of its own.

        Args:
            tile: edge of a tile in pixels.

        Raises:
            UsageError: `tile` is not a positive multiple of the patch size.
        """
        if tile == self.image_size:
            return self
        patch = self.patch_size
        if tile < patch or tile % patch:
            below = tile // patch * patch
            near = f"{below} or {below + patch}" if below >= patch else str(patch)
            raise UsageError(
                f"tile {tile} is not a multiple of {self.name}'s patch size {patch}: "
                f"use --tile {near}"
            )
        module: Any = copy.deepcopy(self.module)
        with torch.no_grad():
            module.set_input_size(img_size=(tile, tile))
        return replace(self, module=freeze(module), image_size=tile)


def freeze(module: torch.nn.Module) -> torch.nn.Module:
    """The module in eval mode and without gradients."""
    return module.eval().requires_grad_(False)


def state_digest(state: Mapping[str, torch.Tensor], input_norm: InputNorm, *, heads: int) -> str:
    """SHA-256 (hex) over everything that decides an embedding.

    Covers each tensor's name, dtype, shape and little-endian bytes in the order of the names,
    then the input normalisation and the number of attention heads, which no shape tells.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        array = state[name].detach().cpu().contiguous().numpy()
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    digest.update(f"input_norm {input_norm}\nheads {heads}\n".encode())
    return digest.hexdigest()
