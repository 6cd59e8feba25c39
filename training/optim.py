"""AdamW, which parameters decay, and gradients: parts of a batch, clipping."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from unidino_fast.training.sharding import whole

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn


def build_optimizer(module: nn.Module, device: torch.device) -> torch.optim.AdamW:
    """AdamW over a module's parameters, in two groups: what decays, and what does not.

    Biases and norms (parameters of one dimension) do not decay. Learning rate and weight decay are
    set before each step by `set_rates`. The fused update runs on CUDA.
    """
    learnt = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in learnt if p.ndim > 1], "decays": True},
        {"params": [p for p in learnt if p.ndim <= 1], "decays": False, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, fused=device.type == "cuda")


def set_rates(optimizer: torch.optim.Optimizer, lr: float, weight_decay: float) -> None:
    """Sets the learning rate, and the weight decay of what decays."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        if group["decays"]:
            group["weight_decay"] = weight_decay


def clip_gradients(parameters: Iterable[Tensor], largest: float | None) -> Tensor:
    """The norm of all gradients together, which are scaled down to `largest` if above it."""
    learnt = [p for p in parameters if p.grad is not None]  # once: it may be a generator
    norm = whole(torch.nn.utils.get_total_norm([p.grad for p in learnt if p.grad is not None]))
    if largest is not None:
        torch.nn.utils.clip_grads_with_norm_(learnt, largest, norm)
    return norm
