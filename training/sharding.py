"""FSDP2: each process keeps a share of every weight, gradient and moment of the optimiser.

What is kept in checkpoints and exported is whole, so that a run may go on with another number of
processes, or without sharding. Gathering takes all processes: they call these functions alike.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

    from unidino_fast.training.checkpoint import Stateful
    from unidino_fast.training.processes import Processes


def shard(networks: Iterable[nn.Module], processes: Processes) -> None:
    """Shards networks in place, block by block: a block's weights are whole while it computes."""
    from timm.models.vision_transformer import Block
    from torch.distributed.device_mesh import init_device_mesh

    # nothing changes what a network gives in place
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
    mesh = init_device_mesh(processes.device.type, (processes.count,))
    for network in networks:
        for module in network.modules():
            if isinstance(module, Block):
                fully_shard(module, mesh=mesh, reshard_after_forward=True)
        # the teacher has no backward pass after which its root would be sharded again
        fully_shard(network, mesh=mesh, reshard_after_forward=True)


def whole(tensor: Tensor) -> Tensor:
    """A tensor as it is without sharding; all processes call it alike."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


class Whole:
    """A part of a run whose state is whole in checkpoints and sharded in memory."""

    def __init__(self, part: Stateful) -> None:
        self._part = part

    def state_dict(self) -> dict[str, Any]:
        """The part's, every tensor whole; all processes call it alike."""
        return _mapped(self._part.state_dict(), whole)  # type: ignore[no-any-return]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over whole tensors, a share of each."""
        if isinstance(self._part, torch.optim.Optimizer):
            self._part.load_state_dict(state)
            _shard_moments(self._part)
        else:
            self._part.load_state_dict(_sharded_like(state, self._part.state_dict()))


def _shard_moments(optimizer: torch.optim.Optimizer) -> None:
    """An optimiser's moments as its parameters are."""
    for parameter, held in optimizer.state.items():
        for name, value in held.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                held[name] = _as(value, parameter)


def _as(value: Tensor, other: Any) -> Tensor:
    if not isinstance(other, DTensor):
        return value
    return distribute_tensor(value, other.device_mesh, other.placements)


def _sharded_like(state: Any, own: Any) -> Any:
    if isinstance(state, dict):
        return {key: _sharded_like(value, own[key]) for key, value in state.items()}
    return _as(state, own) if isinstance(state, torch.Tensor) else state


def _mapped(state: Any, change: Any) -> Any:
    if isinstance(state, dict):
        return {key: _mapped(value, change) for key, value in state.items()}
    return change(state) if isinstance(state, torch.Tensor) else state
