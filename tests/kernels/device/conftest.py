"""Tests of the kernels themselves: on CUDA where there is a device, else in Triton's interpreter.

The interpreter must be chosen before triton is first imported, so it has a process of its own:
`tests/kernels/test_interpreted.py` starts one for each file here. Elsewhere the files are passed
over. On a bare machine with a device: `pytest --confcutdir=tests/kernels/device
tests/kernels/device`.
"""

from __future__ import annotations

import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

if not INTERPRETED and not torch.cuda.is_available():
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cpu" if INTERPRETED else "cuda")


@pytest.fixture(scope="session")
def cast():
    """Float32 -> the dtype that a kernel stores. The interpreter cuts off where CUDA rounds."""

    def convert(values, dtype):
        if INTERPRETED and dtype == torch.bfloat16:
            return (values.view(torch.int32) >> 16).to(torch.int16).view(torch.bfloat16)
        return values.to(dtype)

    return convert
