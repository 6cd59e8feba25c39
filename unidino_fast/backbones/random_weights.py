"""Random weights that are the same bits on every machine, for the `random:SEED` baseline.

Distribution functions change between library versions, so none is used: each parameter takes raw
64-bit integers from PCG64, seeded by the seed and the CRC-32 of the parameter's name, and maps the
top 24 bits exactly to odd multiples of 2**-24 in (-1, 1), then times the half-width in float32.
"""

from __future__ import annotations

import math
import zlib
from typing import TYPE_CHECKING

import numpy as np
import torch

from unidino_fast.backbones.vit import VIT_SMALL_16, VitShape, build_vit
from unidino_fast.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_SQRT3 = math.sqrt(3.0)  # half-width of a uniform distribution of unit standard deviation


def random_vit(seed: int, shape: VitShape = VIT_SMALL_16) -> torch.nn.Module:
    """A ViT, by default a single-channel ViT-S/16, with random weights.

    Linear weights and the position embedding are uniform with standard deviation 0.02, class token
    and registers with 1e-6 (as timm initialises them); the patch convolution and its bias are
    uniform within 1/sqrt(fan-in); other biases are 0, norms 1 and 0.

    Raises:
        UsageError: the seed is not in [0, 2**63).
    """
    if not 0 <= seed < 2**63:
        raise UsageError(f"seed {seed} is out of range: use random:SEED with 0 <= SEED < 2**63")
    module = build_vit(shape)
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    module.load_state_dict(
        {name: torch.from_numpy(_parameter(name, shapes, seed)) for name in shapes}
    )
    return module


def _parameter(name: str, shapes: Mapping[str, tuple[int, ...]], seed: int) -> NDArray[np.float32]:
    shape = shapes[name]
    if name.startswith("patch_embed.proj."):
        fan_in = math.prod(shapes["patch_embed.proj.weight"][1:])
        return _uniform(name, shape, seed, 1.0 / math.sqrt(fan_in))
    if name in ("cls_token", "reg_token"):
        return _uniform(name, shape, seed, 1e-6 * _SQRT3)
    if name == "pos_embed" or (name.endswith(".weight") and len(shape) == 2):
        return _uniform(name, shape, seed, 0.02 * _SQRT3)
    return np.full(shape, 1.0 if name.endswith(".weight") else 0.0, dtype=np.float32)


def _uniform(
    name: str, shape: tuple[int, ...], seed: int, half_width: float
) -> NDArray[np.float32]:
    words = [seed & 0xFFFFFFFF, seed >> 32, zlib.crc32(name.encode())]
    raw = np.random.PCG64(np.random.SeedSequence(words)).random_raw(math.prod(shape))
    steps = (raw >> np.uint64(40)).astype(np.int32)  # 24 bits
    units = (2 * steps + 1 - 2**24).astype(np.float32) * np.float32(2.0**-24)  # exact
    return (units * np.float32(half_width)).reshape(shape)
