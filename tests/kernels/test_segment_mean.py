import numpy as np
import pytest
import torch

from unidino_fast.kernels import segment_mean_reference


def naive(features, keep):
    n_channels, n_tiles, dim = features.shape
    found = np.zeros((n_channels, dim))
    for channel in range(n_channels):
        for index in range(dim):
            kept = [float(features[channel, tile, index]) for tile in range(n_tiles) if keep[tile]]
            found[channel, index] = sum(kept) / len(kept)
    return found.astype("float32")


@pytest.mark.parametrize(("n_tiles", "n_kept"), [(1, 1), (7, 1), (16, 13), (20, 20)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_naive_mean(n_tiles, n_kept, dtype):
    rng = np.random.default_rng(n_tiles)
    features = torch.from_numpy(rng.normal(size=(3, n_tiles, 11))).to(dtype)
    keep = np.zeros(n_tiles, bool)
    keep[rng.permutation(n_tiles)[:n_kept]] = True
    found = segment_mean_reference(features, torch.from_numpy(keep))
    assert found.dtype == torch.float32
    # both sum in float64, in another order: one rounding to float32 apart at most
    np.testing.assert_array_max_ulp(found.numpy(), naive(features, keep), maxulp=1)


def test_large_and_small_values_do_not_swallow_each_other():
    features = torch.tensor([[[1e8], [1.0], [-1e8]]])
    keep = torch.ones(3, dtype=torch.bool)
    assert segment_mean_reference(features, keep).item() == pytest.approx(1 / 3)
