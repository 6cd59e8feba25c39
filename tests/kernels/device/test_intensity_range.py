import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unidino_fast.kernels import (
    intensity_range,
    intensity_range_reference,
    intensity_statistics,
    intensity_statistics_reference,
)
from unidino_fast.kernels.intensity_range import COUNTED_DTYPES

PERCENTILES = (0.1, 77.7)
KINDS = ["every value", "dark", "two values", "highest", "falling"]


def pixels(dtype, shape, kind, seed=0):
    rng = np.random.default_rng(seed)
    info = torch.iinfo(dtype)
    if kind == "every value":
        found = rng.integers(info.min, info.max, shape, endpoint=True)
    elif kind == "dark":  # background, with cells well above the window of the first block
        found = rng.poisson(20, shape) + rng.integers(0, 2, shape) * rng.integers(0, 30_000, shape)
    elif kind == "two values":
        found = rng.choice([info.min, info.max], shape)
    elif kind == "highest":
        found = np.full(shape, info.max)
    else:  # later blocks lie below the first, outside its window
        found = np.linspace(info.max, info.min, int(np.prod(shape))).reshape(shape)
    return torch.from_numpy(np.clip(found, info.min, info.max).astype("i8")).to(dtype)


@pytest.mark.parametrize(
    ("shape", "kind", "dtype"),
    [((1, 120, 163), kind, dtype) for kind in KINDS for dtype in COUNTED_DTYPES]
    + [((1, 1, 1), "highest", torch.uint16), ((2, 7, 11), "every value", torch.uint16)],
    ids=str,
)
def test_percentiles_have_the_bits_of_the_reference(shape, kind, dtype, device):
    planes = pixels(dtype, shape, kind)
    found = intensity_range(planes.to(device), PERCENTILES).cpu()
    assert found.dtype == torch.float64
    assert torch.equal(found, intensity_range_reference(planes, PERCENTILES))
    wanted = np.percentile(planes.numpy().astype("f8"), PERCENTILES, axis=(1, 2)).T
    np.testing.assert_array_max_ulp(found.numpy(), wanted, maxulp=1)


@pytest.mark.parametrize("dtype", COUNTED_DTYPES, ids=str)
def test_several_programs_and_planes(dtype, device):
    planes = torch.cat([pixels(dtype, (1, 130, 131), kind) for kind in KINDS[:3]])
    found = intensity_statistics(planes.to(device), (0.1, 99.9))
    wanted = intensity_statistics_reference(planes, (0.1, 99.9))
    assert torch.equal(found.percentiles.cpu(), wanted.percentiles)
    assert torch.equal(found.lowest.cpu(), planes.flatten(1).double().amin(1))
    assert torch.equal(found.highest.cpu(), planes.flatten(1).double().amax(1))
    # the reference rounds sums of 17,030 float64; its own error is some 1e-14
    torch.testing.assert_close(found.mean.cpu(), wanted.mean, rtol=1e-13, atol=0)
    torch.testing.assert_close(found.sd.cpu(), wanted.sd, rtol=1e-13, atol=0)


@pytest.mark.parametrize(("n_low", "median"), [(9, 60_001), (10, 60_000), (11, 5)])
def test_a_rank_beside_the_step_between_far_values(n_low, median, device):
    planes = torch.full((1, 3, 7), 60_001, dtype=torch.uint16)
    planes.view(-1)[:n_low] = 5
    planes.view(-1)[n_low] = 60_000
    found = intensity_range(planes.to(device), (50.0,))  # rank 10 of 0 to 20
    assert found.item() == median


def test_spread_far_from_zero_keeps_its_digits(device):
    planes = torch.full((1, 10, 10), 65_000, dtype=torch.uint16)
    planes[0, :5] = 65_001
    found = intensity_statistics(planes.to(device), (50.0,))
    assert found.mean.item() == 65_000.5
    assert found.sd.item() == 0.5
    assert found.percentiles.item() == 65_000.5


@settings(max_examples=10, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.floats(0, 100),
    st.sampled_from(KINDS),
)
def test_any_shape_and_percentile(device, height, width, percentile, kind):
    planes = pixels(torch.uint8, (2, height, width), kind, seed=height)
    found = intensity_range(planes.to(device), (percentile,)).cpu()
    assert torch.equal(found, intensity_range_reference(planes, (percentile,)))


def test_no_planes(device):
    planes = torch.empty((0, 3, 3), dtype=torch.uint16, device=device)
    assert intensity_range(planes, (1.0, 2.0)).shape == (0, 2)


@pytest.mark.parametrize(
    ("shape", "dtype", "step", "error", "message"),
    [
        ((1, 2, 2), torch.float32, 1, TypeError, "no kernel counts torch.float32: use the refer"),
        ((1, 4, 4), torch.uint8, 2, ValueError, "not contiguous: call .contiguous"),
        ((1, 0, 4), torch.uint8, 1, ValueError, "planes of 0 pixels"),
    ],
)
def test_what_does_not_fit_is_refused(shape, dtype, step, error, message, device):
    # sliced on the device: moved there, the rows would lie side by side
    planes = torch.zeros(shape, dtype=dtype, device=device)[:, ::step]
    with pytest.raises(error, match=message):
        intensity_range(planes, (50.0,))
