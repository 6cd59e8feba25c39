import numpy as np
import pytest
import torch

from unidino_fast.kernels import quantize_rows_reference


def naive(x):
    """The nearest of all finite codes for each value, the even one of two as near."""
    codes = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).double().numpy()
    values, scales = np.zeros(x.shape), np.zeros(len(x), np.float32)
    for i, row in enumerate(x):
        scales[i] = np.float32(max(np.abs(row).max(), np.float32(1e-12))) / np.float32(448)
        for j, item in enumerate(row):
            quotient = float(np.float32(item) / scales[i])
            order = sorted(range(127), key=lambda c: (abs(codes[c] - abs(quotient)), c % 2))
            values[i, j] = np.copysign(codes[order[0]], quotient)
    return values, scales


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (13, 64)])
def test_naive_rows(shape, dtype):
    rng = np.random.default_rng(shape[1])
    x = rng.normal(size=shape) * np.logspace(-3, 3, shape[0])[:, None]
    x[0] = 0
    x = torch.from_numpy(x).to(dtype)
    values, scales = quantize_rows_reference(x)
    expected, expected_scales = naive(x.float().numpy())
    assert values.dtype == torch.float8_e4m3fn
    np.testing.assert_array_equal(values.double().numpy(), expected)
    np.testing.assert_array_equal(scales.numpy(), expected_scales)
