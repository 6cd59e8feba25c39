"""Tensors of all processes in each of them, with gradients back to where they are from.

R processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from unidino_fast.training.processes import Processes


def gathered(tensor: Tensor, processes: Processes) -> Tensor:
    """The tensors of all processes, all of one shape, stacked to (R, ...) in order of rank.

    A loss of each process on what all have gathered, with gradients of parameters averaged over
    processes, gives the gradient of the mean of these losses.
    """
    if processes.count == 1:
        return tensor[None]
    found: Tensor = _Gather.apply(tensor, processes)
    return found


class _Gather(torch.autograd.Function):
    """Backward, a process gets the sum of what all have to say about its tensor."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, processes: Processes) -> Tensor:
        ctx.processes = processes
        found = [torch.empty_like(tensor) for _ in range(processes.count)]
        dist.all_gather(found, tensor.contiguous())
        return torch.stack(found)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        processes: Processes = ctx.processes
        return processes.sum(gradients[0].contiguous())[processes.rank], None
