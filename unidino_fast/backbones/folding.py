"""Exact folding of input scaling into the patch embedding.

One channel x, replicated to C channels and scaled by (x - mean_c) / std_c, then convolved with
W_c, is the convolution of x with `sum_c W_c / std_c` and the bias
`b - sum_c mean_c / std_c * sum(W_c)`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of each input channel, for pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __str__(self) -> str:
        mean, std = (", ".join(f"{x:g}" for x in values) for values in (self.mean, self.std))
        return f"mean {mean}, std {std}"


IMAGENET = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def fold_to_one_channel(module: Any, statistics: Statistics | None) -> None:
    """Makes a ViT of C channels take one channel that stands for all of them, in place.

    Sums are taken in float64, in an order that does not depend on the machine.

    Args:
        module: a timm VisionTransformer.
        statistics: scaling to fold in as well, one value a channel; None folds only the sum.
    """
    old = module.patch_embed.proj
    kernels = old.weight.numpy().astype(np.float64)  # (D, C, p, p)
    bias = old.bias.numpy().astype(np.float64)  # (D,)
    weight = np.zeros_like(kernels[:, :1])  # (D, 1, p, p)
    for channel in range(kernels.shape[1]):
        mean, std = (0.0, 1.0)
        if statistics is not None:
            mean, std = statistics.mean[channel], statistics.std[channel]
        kernel = kernels[:, channel]  # (D, p, p)
        weight[:, 0] += kernel / std
        sums = [math.fsum(values) for values in kernel.reshape(len(kernel), -1).tolist()]
        bias -= np.array(sums) * (mean / std)
    skip_init: Any = torch.nn.utils.skip_init
    new = skip_init(
        torch.nn.Conv2d, 1, old.out_channels, kernel_size=old.kernel_size, stride=old.stride
    )
    with torch.no_grad():
        new.weight.copy_(torch.from_numpy(weight))
        new.bias.copy_(torch.from_numpy(bias))
    module.patch_embed.proj = new.eval().requires_grad_(False)
    module.in_chans = 1
