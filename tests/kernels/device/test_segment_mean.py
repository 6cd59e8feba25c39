import numpy as np
import pytest
import torch

from unidino_fast.kernels import segment_mean, segment_mean_reference
from unidino_fast.kernels.segment_mean import FEATURE_DTYPES


def features_of(shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", FEATURE_DTYPES, ids=str)
@pytest.mark.parametrize(
    ("n_channels", "n_tiles", "dim", "n_kept"),
    [(1, 1, 1, 1), (3, 7, 11, 1), (2, 16, 384, 13), (2, 37, 131, 20), (5, 20, 128, 20)],
)
def test_reference(n_channels, n_tiles, dim, n_kept, dtype, device):
    features = features_of((n_channels, n_tiles, dim), dtype)
    keep = torch.zeros(n_tiles, dtype=torch.bool)
    keep[torch.randperm(n_tiles, generator=torch.Generator().manual_seed(1))[:n_kept]] = True
    found = segment_mean(features.to(device), keep.to(device))
    assert found.dtype == torch.float32
    # both sum in float64, in another order: one rounding to float32 apart at most
    wanted = segment_mean_reference(features, keep)
    np.testing.assert_array_max_ulp(found.cpu().numpy(), wanted.numpy(), maxulp=1)


def test_the_bits_do_not_depend_on_the_channels_beside(device):
    features = features_of((9, 33, 70)).to(device)
    keep = (torch.arange(33) % 3 > 0).to(device)
    together = segment_mean(features, keep)
    for channel in range(9):
        alone = segment_mean(features[channel : channel + 1], keep)
        assert torch.equal(alone[0], together[channel])


def test_tiles_left_out_are_not_read(device):
    features = features_of((2, 5, 8))
    features[:, 1] = float("nan")
    keep = torch.tensor([True, False, True, True, True])
    found = segment_mean(features.to(device), keep.to(device))
    assert bool(torch.isfinite(found).all())


def test_large_and_small_values_do_not_swallow_each_other(device):
    features = torch.tensor([[[1e8], [1.0], [-1e8]]]).to(device)
    keep = torch.ones(3, dtype=torch.bool).to(device)
    assert segment_mean(features, keep).item() == pytest.approx(1 / 3)


def test_a_view_is_read_in_place(device):
    features = features_of((4, 9, 40))
    keep = torch.ones(9, dtype=torch.bool)
    found = segment_mean(features.to(device)[1::2, :, 3:], keep.to(device)).cpu()
    torch.testing.assert_close(found, segment_mean_reference(features[1::2, :, 3:], keep))


@pytest.mark.filterwarnings("ignore:invalid value encountered in divide")  # numpy, interpreted
def test_nothing_to_average(device):
    keep = torch.ones(4, dtype=torch.bool, device=device)
    assert segment_mean(torch.empty((0, 4, 8), device=device), keep).shape == (0, 8)
    none = segment_mean(torch.ones((1, 4, 8), device=device), ~keep)
    assert bool(none.isnan().all())


@pytest.mark.parametrize(
    ("features", "keep", "error", "message"),
    [
        (torch.zeros(1, 3, 4).int(), torch.ones(3).bool(), TypeError, "no kernel averages"),
        (torch.zeros(1, 3, 4), torch.ones(3), TypeError, "where torch.float32"),
        (torch.zeros(1, 3, 4), torch.ones(2).bool(), ValueError, r"keep \(2,\) on .*give \(3,\)"),
        (torch.zeros(1, 4, 3).mT, torch.ones(3).bool(), ValueError, "not adjacent"),
    ],
)
def test_what_does_not_fit_is_refused(features, keep, error, message, device):
    with pytest.raises(error, match=message):
        segment_mean(features.to(device), keep.to(device))
