"""Memory that is used again, and only when nobody holds it."""

from __future__ import annotations

import numpy as np
import torch

from unidino_fast.reading.buffers import FieldBuffers, Scratch


def test_memory_is_used_again_once_nobody_holds_it() -> None:
    made: list[int] = []

    def allocate(n_bytes: int) -> memoryview:
        made.append(n_bytes)
        return memoryview(bytearray(n_bytes))

    buffers = FieldBuffers(allocate=allocate)
    first = buffers.empty((3, 5, 7), np.uint16)
    place = first.ctypes.data
    view = first[1:, ::2]
    tensor = torch.from_numpy(first)[2]
    del first
    assert buffers.empty((3, 5, 7), np.uint16).ctypes.data != place
    del view
    assert buffers.empty((3, 5, 7), np.uint16).ctypes.data != place
    del tensor
    assert buffers.empty((3, 5, 7), np.uint16).ctypes.data == place
    assert made == [210] * 2
    buffers.empty((3, 5, 8), np.uint16)
    assert made == [210] * 2 + [240]


def test_scratch_grows_and_is_given_again() -> None:
    scratch = Scratch()
    first = scratch.bytes("a", 100)
    assert first.size == 100
    assert np.shares_memory(first, scratch.bytes("a", 50))
    assert scratch.bytes("a", 1000).size == 1000
    assert not np.shares_memory(scratch.bytes("a", 10), scratch.bytes("b", 10))


def test_blocks_of_a_scratch_are_those_of_one_buffer() -> None:
    scratch = Scratch()
    for shape in ((3, 7), (3, 7), (2, 7), (5, 100)):
        whole, blocks = scratch.blocks(shape, np.dtype(np.uint16))
        assert (whole.shape, whole.dtype) == (shape, np.uint16)
        for number, block in enumerate(blocks):
            block.view(np.uint16)[:] = number
        assert whole.tolist() == [[number] * shape[1] for number in range(shape[0])]
    assert scratch.blocks((5, 100), np.dtype(np.uint8))[0].dtype == np.uint8


def test_a_view_of_a_scratch_is_of_memory_that_it_still_holds() -> None:
    scratch = Scratch()
    first = scratch.view("a", 100)
    assert scratch.view("a", 100) is first
    grown = scratch.bytes("a", 1000)
    view = scratch.view("a", 100)
    view[0], grown[0] = 1, 2
    assert (len(view), view[0], len(scratch.view("a", 50))) == (100, 2, 50)


def test_memory_of_fields_and_threads_begins_with_a_page() -> None:
    """The kernel copies a file to a few bytes behind a page at half the rate."""
    fields, scratch = FieldBuffers(), Scratch()
    for size in (100, 5_000, 5_000_000):
        assert fields.empty((size,), np.uint8).ctypes.data % 4096 == 0
        assert scratch.bytes("a", size).ctypes.data % 4096 == 0
