"""Pixels on their way to the device, beside the batches that it has in hand."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor


class Uploader:
    """Brings fields to a device in their stored dtype.

    On CUDA a copy runs on a stream of its own, from memory that the device reads by itself
    (pinned): it does not queue behind the network's batches, and nobody waits for it but what the
    network's stream is given next. Elsewhere pixels stay where they are.

    Args:
        device: where the network runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._network = self._side = None
        self._under_way: deque[tuple[torch.cuda.Event, Tensor]] = deque()
        """Copies and where they come from: that memory is not to be used again before."""
        if device.type == "cuda":
            self._network = torch.cuda.current_stream(device)
            self._side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @property
    def allocate(self) -> Callable[[int], memoryview] | None:
        """Makes the memory that fields should be read into; None where any will do."""
        return None if self._side is None else _pinned

    def upload(self, values: NDArray[Any] | Tensor) -> Tensor:
        """Planes (C, H, W), or anything, on the device; to be used on the network's stream alone.

        What is given is not to be changed afterwards; its memory is kept until it is copied.
        """
        given = values if isinstance(values, torch.Tensor) else torch.from_numpy(values)
        if self._side is None or self._network is None:
            return given
        if not given.is_pinned():
            given = given.pin_memory()
        with torch.cuda.stream(self._side):
            found = given.to(self._device, non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record(self._side)
        self._network.wait_event(copied)
        # made on the side stream: its memory is not free before the network's stream is past it
        found.record_stream(self._network)
        self._under_way.append((copied, given))
        while self._under_way and self._under_way[0][0].query():  # type: ignore[no-untyped-call]
            self._under_way.popleft()
        return found


def _pinned(n_bytes: int) -> memoryview:
    memory: NDArray[Any] = torch.empty(n_bytes, dtype=torch.uint8, pin_memory=True).numpy()
    return memory.data
