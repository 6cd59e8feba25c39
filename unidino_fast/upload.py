"""Pixels on their way to the device, beside the batches that it has in hand."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor


class Uploader:
    """Brings fields to a device in their stored dtype.

    On CUDA a copy runs on a stream of its own, from memory that the device reads by itself
    (pinned): it does not queue behind the network's batches. Elsewhere pixels stay where they are.

    Args:
        device: where the network runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._network = self._side = None
        if device.type == "cuda":
            self._network = torch.cuda.current_stream(device)
            self._side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @property
    def allocate(self) -> Callable[[int], memoryview] | None:
        """Makes the memory that fields should be read into; None where any will do."""
        return None if self._side is None else _pinned

    @contextmanager
    def beside_the_network(self) -> Iterator[None]:
        """What is started within runs beside the network's batches, and has ended afterwards.

        So memory that was copied from may then be used again, and what was copied be used by all.
        """
        if self._side is None:
            yield
            return
        with torch.cuda.stream(self._side):
            yield
        self._side.synchronize()

    def upload(self, planes: NDArray[Any]) -> Tensor:
        """Planes (C, H, W) on the device; to be called within `beside_the_network`."""
        pixels = torch.from_numpy(planes).to(self._device, non_blocking=True)
        if self._network is not None:
            # made on the side stream: its memory is not free before the network's stream is past it
            pixels.record_stream(self._network)
        return pixels


def _pinned(n_bytes: int) -> memoryview:
    memory: NDArray[Any] = torch.empty(n_bytes, dtype=torch.uint8, pin_memory=True).numpy()
    return memory.data
