import numpy as np
import pytest
import torch

from unidino_fast.kernels import intensity_range_reference, intensity_statistics_reference
from unidino_fast.kernels.intensity_range import order_statistics_counted, order_statistics_sorted

PERCENTILES = (0.0, 0.1, 12.5, 50.0, 77.7, 99.9, 100.0)
SHAPES = [(1, 1), (1, 2), (7, 11), (10, 100), (53, 61), (301, 443)]
"""The last is more than is counted at once."""


def pixels(dtype, shape, seed=0):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.normal(0, 1000, shape).astype(dtype)
    info = np.iinfo(dtype)
    found = rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
    found.flat[0], found.flat[-1] = info.min, info.max
    return found


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "u4", "i4", "f4", "f8"])
def test_numpy_percentile(dtype, shape):
    planes = np.stack([pixels(dtype, shape, seed) for seed in range(3)])
    found = intensity_range_reference(torch.from_numpy(planes), PERCENTILES)
    assert found.dtype == torch.float64
    assert found.shape == (3, len(PERCENTILES))
    for plane, row in zip(planes, found.numpy(), strict=True):
        wanted = np.percentile(plane.astype("f8"), PERCENTILES, method="linear")
        np.testing.assert_array_max_ulp(row, wanted, maxulp=1)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("levels", [1, 2, 1000])
def test_counting_is_sorting(dtype, shape, levels):
    info = np.iinfo(dtype)
    rng = np.random.default_rng(levels)
    few = rng.integers(info.min, info.max, levels, dtype=dtype, endpoint=True)
    plane = torch.from_numpy(rng.choice(few, shape))
    ranks = sorted({0, plane.numel() // 3, plane.numel() // 2, plane.numel() - 1})
    counted = order_statistics_counted(plane, ranks)
    assert counted.tolist() == order_statistics_sorted(plane, ranks).tolist()
    assert counted.tolist() == np.sort(plane.numpy(), axis=None)[ranks].tolist()


def test_planes_need_not_be_contiguous():
    planes = torch.from_numpy(pixels("u2", (2, 40, 30)))[:, ::2, ::3]
    found = intensity_range_reference(planes, (50.0,))
    assert found.flatten().tolist() == np.median(planes.numpy(), axis=(1, 2)).tolist()


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "u4", "f4"])
def test_statistics_are_numpys(dtype):
    planes = np.stack([pixels(dtype, (13, 17), seed) for seed in range(2)])
    found = intensity_statistics_reference(torch.from_numpy(planes), (25.0, 50.0))
    values = planes.reshape(2, -1).astype("f8")
    np.testing.assert_allclose(found.percentiles, np.percentile(values, (25, 50), axis=1).T)
    assert found.lowest.tolist() == values.min(axis=1).tolist()
    assert found.highest.tolist() == values.max(axis=1).tolist()
    # sums of 221 float64 in another order
    np.testing.assert_allclose(found.mean, values.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(found.sd, values.std(axis=1), rtol=1e-12)
