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
from unidino_fast.kernels.intensity_range import COUNTED_DTYPES, find_kernel, plan_find

MANY = (0.0, 0.1, 0.4, 33.3, 50.0, 99.6, 99.9, 100.0)
KINDS = ["every value", "dark", "two values", "lowest", "highest", "falling", "tail", "one bucket"]


def pixels(dtype, shape, kind, seed=0):
    rng = np.random.default_rng(seed)
    info = torch.iinfo(dtype)
    if kind == "every value":
        found = rng.integers(info.min, info.max, shape, endpoint=True)
    elif kind == "dark":  # background in one bucket, cells in many
        found = rng.poisson(20, shape) + rng.integers(0, 2, shape) * rng.integers(0, 30_000, shape)
    elif kind == "two values":
        found = rng.choice([info.min, info.max], shape)
    elif kind in ("lowest", "highest"):
        found = np.full(shape, info.min if kind == "lowest" else info.max)
    elif kind == "tail":  # one value, and 1 % of pixels anywhere, few to a bucket
        found = rng.integers(info.min, info.max, shape, endpoint=True)
        found[rng.random(shape) < 0.99] = info.max // 3
    elif kind == "one bucket":
        found = info.min + (info.max - info.min) // 256 * 256 + rng.integers(0, 256, shape)
    else:  # a block of pixels has few buckets, and each another
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
    found = intensity_range(planes.to(device), MANY).cpu()
    assert found.dtype == torch.float64
    assert torch.equal(found, intensity_range_reference(planes, MANY))
    wanted = np.percentile(planes.numpy().astype("f8"), MANY, axis=(1, 2)).T
    np.testing.assert_array_max_ulp(found.numpy(), wanted, maxulp=1)


@pytest.mark.parametrize("dtype", COUNTED_DTYPES, ids=str)
def test_several_programs_and_planes(dtype, device):
    planes = torch.cat([pixels(dtype, (1, 130, 131), kind) for kind in ("dark", "tail", "falling")])
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


@pytest.mark.parametrize(
    ("dtype", "low"),
    [(torch.uint8, 127)]
    + [(torch.uint16, low) for low in (255, 32_767, 65_279)]
    + [(torch.int16, low) for low in (-32_513, -257, -1, 255)],
    ids=str,
)
@pytest.mark.parametrize("n_other", [0, 9_000])
def test_a_percentile_between_two_buckets(dtype, low, n_other, device):
    info = torch.iinfo(dtype)
    ends = torch.tensor([info.min] * n_other + [info.max] * n_other)  # few or most in the two
    planes = torch.cat([torch.tensor([low + 1] * 8 + [low] * 8), ends]).to(dtype)[None, None]
    found = intensity_range(planes.to(device), (50.0, 100.0, 0.0))
    bounds = (info.max, info.min) if n_other else (low + 1, low)
    assert found.tolist() == [[low + 0.5, *bounds]]


def test_steps_start_from_the_nearer_end(device):
    planes = torch.tensor([[[7, 60_000]]]).to(torch.uint16)
    percentiles = tuple(np.linspace(0, 100, 98))  # 44 of them round otherwise from the other end
    found = intensity_range(planes.to(device), percentiles).cpu()
    assert torch.equal(found, intensity_range_reference(planes, percentiles))


def test_ranks_of_one_bucket_are_counted_once(device):
    counts = torch.zeros((1, 2, 256), dtype=torch.int32)
    counts[0, 0, 3], counts[0, 0, 200], counts[0, 1, 0] = 5, 2, 7
    ranks = torch.tensor([5, 0, 4, 6, 4], dtype=torch.int32)
    found = torch.full((2, 5, 3), -9, dtype=torch.int32, device=device)
    find_kernel[(5, 2)](counts.to(device), found, ranks.to(device), **plan_find(n_ranks=5))
    first = [[200, 0, 0], [3, 0, 1], [3, 4, 1], [200, 1, 0], [3, 4, 1]]
    assert found.tolist() == [first, [[0, rank, 0] for rank in ranks.tolist()]]


def test_spread_far_from_zero_keeps_its_digits(device):
    planes = torch.full((1, 10, 10), 65_000, dtype=torch.uint16)
    planes[0, :5] = 65_001
    found = intensity_statistics(planes.to(device), (50.0,))
    assert found.mean.item() == 65_000.5
    assert found.sd.item() == 0.5
    assert found.percentiles.item() == 65_000.5


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_pixels_and_percentiles(device, data):
    dtype = data.draw(st.sampled_from(COUNTED_DTYPES))
    info = torch.iinfo(dtype)
    values = data.draw(st.lists(st.integers(info.min, info.max), min_size=1, max_size=40))
    repeats = data.draw(st.integers(1, 300))  # from few pixels in one block to several
    percentiles = tuple(data.draw(st.lists(st.floats(0, 100), min_size=1, max_size=5)))
    planes = torch.tensor(values * repeats).to(dtype).reshape(1, repeats, len(values))
    found = intensity_range(planes.to(device), percentiles).cpu()
    assert torch.equal(found, intensity_range_reference(planes, percentiles))
    wanted = np.percentile(planes.numpy().astype("f8"), percentiles, axis=(1, 2)).T
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-14, atol=1e-9)


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
