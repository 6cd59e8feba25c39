"""Pixels reach the device as they are, and the memory that they came from may be used again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from unidino_fast.reading.buffers import FieldBuffers
from unidino_fast.upload import Uploader


def noise(seed: int, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 60_000, shape).astype(np.uint16)


def test_nothing_is_copied_on_the_cpu() -> None:
    uploader = Uploader(torch.device("cpu"))
    planes = noise(0, (2, 5, 7))
    pixels = uploader.upload(planes)
    assert uploader.allocate is None
    assert pixels.data_ptr() == planes.ctypes.data
    assert pixels.dtype is torch.uint16


def test_fields_lie_in_the_memory_that_is_asked_for() -> None:
    made: list[int] = []

    def allocate(n_bytes: int) -> memoryview:
        made.append(n_bytes)
        return np.full(n_bytes, 7, np.uint8).data

    buffers = FieldBuffers(allocate=allocate)
    array = buffers.empty((2, 3), np.uint16)
    assert made == [12]
    assert (array == 0x0707).all()
    del array
    buffers.empty((3, 2), np.uint16)
    assert made == [12]  # used again


@pytest.mark.gpu
def test_cuda_copies_beside_a_busy_network() -> None:
    """Copies do not wait for the network's stream; their source is kept until then."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    device = torch.device("cuda")
    uploader = Uploader(device)
    buffers = FieldBuffers(allocate=uploader.allocate)
    busy = torch.cuda.Event()
    torch.cuda._sleep(10**9)  # half a second of the network's stream
    busy.record()
    found = []
    for seed in range(3):
        planes = buffers.empty((3, 500, 500), np.uint16)
        planes[:] = noise(seed, planes.shape)
        assert torch.from_numpy(planes).is_pinned()
        found.append(uploader.upload(planes))
        del planes  # whose memory would be taken for the next field
    while uploader._under_way:
        uploader.upload(torch.zeros(1))
    assert not busy.query()
    for seed, pixels in enumerate(found):
        np.testing.assert_array_equal(pixels.cpu().numpy(), noise(seed, (3, 500, 500)))
