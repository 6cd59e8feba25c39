import logging
from types import SimpleNamespace

import pytest
import torch

from unidino_fast import kernels, ops

CPU = torch.device("cpu")
CUDA = torch.device("cuda")


def tensor_like(device, dtype):
    """What `implementation` asks of a tensor: there may be no CUDA here."""
    return SimpleNamespace(is_cuda=device.type == "cuda", device=device, dtype=dtype)


@pytest.mark.parametrize(
    ("op", "device", "dtype", "choice"),
    [
        ("tile_normalize", CPU, torch.uint16, "table"),
        ("tile_normalize", CPU, torch.float32, "reference"),
        ("tile_signal", CPU, torch.uint16, "count"),
        ("tile_normalize", CUDA, torch.uint16, "triton"),
        ("tile_normalize", CUDA, torch.float64, "reference"),
        ("tile_signal", CUDA, torch.float32, "triton"),
        ("intensity_range", CUDA, torch.int16, "triton"),
        ("intensity_range", CUDA, torch.float32, "reference"),
        ("segment_mean", CPU, torch.float32, "numpy"),
        ("segment_mean", CUDA, torch.bfloat16, "triton"),
    ],
)
def test_choice(op, device, dtype, choice):
    assert ops.implementation(op, tensor_like(device, dtype)) == choice


def test_the_reason_is_logged_once(caplog):
    planes = torch.ones((1, 4, 4), dtype=torch.int64)  # no other test asks about this dtype
    device = tensor_like(CUDA, planes.dtype)
    with caplog.at_level(logging.DEBUG, logger="unidino_fast.ops"):
        for _ in range(3):
            ops.implementation("tile_signal", device)
    assert caplog.messages == ["tile_signal: reference (no kernel for torch.int64)"]


@pytest.mark.parametrize("choice", ["triton", "reference"])
def test_every_op_runs_what_was_chosen(choice, monkeypatch):
    """With recorders in place of kernels and references, which have their own tests."""
    called = []
    for op in ("intensity_range", "segment_mean", "tile_normalize", "tile_signal"):
        for name in (op, f"{op}_reference"):
            monkeypatch.setattr(kernels, name, lambda *_, name=name, **__: called.append(name))
    monkeypatch.setattr(ops, "implementation", lambda op, tensor: choice)
    planes, ones = torch.ones((2, 8, 8), dtype=torch.uint8), torch.ones(2)
    ops.intensity_range(planes, (50.0,))
    ops.segment_mean(torch.ones(2, 3, 4), torch.ones(3, dtype=torch.bool))
    ops.tile_normalize(planes, ones, ones, tile=4, stride=4, clip=True)
    ops.tile_signal(planes, tile=4, stride=4)
    ending = "" if choice == "triton" else "_reference"
    expected = ("intensity_range", "segment_mean", "tile_normalize", "tile_signal")
    assert called == [op + ending for op in expected]
