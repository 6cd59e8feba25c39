"""The processes of a run: one, or those that torchrun has started."""

from __future__ import annotations

import inspect
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from unidino_fast.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn


@dataclass(frozen=True)
class Processes:
    """This process among the others.

    Attributes:
        device: that this process computes on.
        rank: its number, from 0.
        count: of all processes.
        shards: whether they share out the weights (FSDP2), in place of each having all (DDP).
    """

    device: torch.device
    rank: int = 0
    count: int = 1
    shards: bool = False

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """A new tensor: the sum over all processes."""
        total = tensor.clone()
        if self.count > 1:
            dist.all_reduce(total)
        return total

    def barrier(self) -> None:
        """Waits for all others."""
        if self.count > 1:
            dist.barrier()

    def agreed(self, *, told: bool) -> bool:
        """What the first process says; costs an exchange where there are several."""
        return bool(self.sum(torch.tensor(float(told and self.is_first), device=self.device)) > 0)

    def wrapped(self, network: nn.Module) -> nn.Module:
        """The network with gradients averaged over processes; sharded ones do that themselves."""
        if self.count == 1 or self.shards:
            return network
        devices = [self.device] if self.device.type == "cuda" else None
        # no buffers in a step: the centre is reduced where it is updated
        known = inspect.signature(DistributedDataParallel.__init__).parameters
        new = "forward_sync_buffers"  # its name from torch 2.14 on, where the other one warns
        option: dict[str, Any] = {new if new in known else "broadcast_buffers": False}
        return DistributedDataParallel(network, device_ids=devices, **option)


@contextmanager
def joined(device: str, parallel: str = "ddp") -> Iterator[Processes]:
    """The processes that torchrun's environment names, on `auto`, `cpu` or `cuda`.

    Args:
        device: of each.
        parallel: `ddp` or `fsdp`, if they are several.

    Raises:
        UsageError: CUDA is asked for and not there.
    """
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError("device cuda is not there: use device cpu, or a torch built for CUDA")
    count = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    here = torch.device(kind, local) if kind == "cuda" else torch.device("cpu")
    if kind == "cuda":
        torch.cuda.set_device(here)
    if count == 1:
        yield Processes(here)
        return
    dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    try:
        yield Processes(here, dist.get_rank(), dist.get_world_size(), parallel == "fsdp")
    finally:
        dist.destroy_process_group()
