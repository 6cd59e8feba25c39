"""The kernel against the reference, bit by bit.

Triton's interpreter rounds to e4m3 wrongly (halves go up, and a carry out of the mantissa is lost),
so there the quotients are numbers that e4m3 has, which nothing rounds; random ones are for GPUs
from 9.0 on (before, they are cut off to float16 first), and `test_ahead_of_time.py` looks for the
rounding instruction.
"""

import os

import pytest
import torch

from unidino_fast.kernels import quantize_rows, quantize_rows_reference
from unidino_fast.kernels.quantize_rows import ROW_DTYPES

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ROUNDS_ONCE = not INTERPRETED and torch.cuda.get_device_capability() >= (9, 0)
NORMAL = torch.arange(8, 127, dtype=torch.uint8)
"""Codes of e4m3 from the smallest normal number to 448."""


def exact(shape, seed=0):
    """Rows of numbers of e4m3 times a power of two, with a 448 and zeros in each."""
    generator = torch.Generator().manual_seed(seed)
    codes = NORMAL[torch.randint(len(NORMAL), shape, generator=generator)]
    codes[torch.rand(shape, generator=generator) < 0.2] = 0
    codes[:, shape[1] // 2] = 126
    values = codes.view(torch.float8_e4m3fn).float()
    values *= torch.randint(2, shape, generator=generator) * 2.0 - 1
    return values * 2.0 ** -torch.randint(0, 5, (shape[0], 1), generator=generator)


def any_numbers(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * torch.logspace(-4, 4, shape[0])[:, None]


def equal_bits(found, wanted):
    return all(
        torch.equal(one.cpu().view(torch.uint8), other.view(torch.uint8))
        for one, other in zip(found, wanted, strict=True)
    )


SHAPES = [(1, 1), (1, 384), (131, 64), (197, 384), (61, 1536), (7, 101), (3, 5000)]


@pytest.mark.parametrize("numbers", [exact, any_numbers] if ROUNDS_ONCE else [exact])
@pytest.mark.parametrize("dtype", ROW_DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_reference(shape, dtype, numbers, device):
    x = numbers(shape).to(dtype)
    assert equal_bits(quantize_rows(x.to(device)), quantize_rows_reference(x))


def test_scales_of_any_numbers(device):
    x = any_numbers((97, 131))
    x[5] = 0
    x[6] *= 1e34
    _, scales = quantize_rows(x.to(device))
    assert torch.equal(scales.cpu(), quantize_rows_reference(x)[1])
    assert bool((scales > 0).all())


def test_zero_and_huge_rows(device):
    x = torch.zeros(3, 40)
    x[1] = 2.0**127
    x[2, 7] = -(2.0**-140)
    assert equal_bits(quantize_rows(x.to(device)), quantize_rows_reference(x))


if not INTERPRETED:  # its rounding to e4m3 makes numbers of NaN, too

    def test_nan_stays(device):
        x = torch.ones(2, 8)
        x[0, 3] = float("nan")
        values, _ = quantize_rows(x.to(device))
        assert values.cpu().float().isnan().nonzero().tolist() == [[0, 3]]


def test_a_view_is_read_in_place(device):
    x = exact((40, 96)).to(device)[3::2, 5:70]
    found = quantize_rows(x)
    assert equal_bits(found, [one.cpu() for one in quantize_rows(x.contiguous())])
    assert found[0].is_contiguous()


def test_no_rows(device):
    values, scales = quantize_rows(torch.empty((0, 8), device=device))
    assert values.shape == (0, 8)
    assert scales.shape == (0,)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(2, 4).double(), TypeError, "no kernel quantises torch.float64"),
        (torch.zeros(4, 2).mT, ValueError, "not adjacent"),
        (torch.zeros(1, 20_000), ValueError, "20000 columns do not fit the kernel"),
        (torch.zeros(1, 0), ValueError, "0 columns do not fit"),
    ],
)
def test_what_does_not_fit_is_refused(x, error, message, device):
    with pytest.raises(error, match=message):
        quantize_rows(x.to(device))
