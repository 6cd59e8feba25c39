import numpy as np
import pytest
import torch

from unidino_fast.kernels import tile_signal_reference


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "u4", "f4", "f8"])
@pytest.mark.parametrize(
    ("height", "width", "tile", "stride"), [(7, 7, 7, 7), (13, 29, 5, 5), (31, 17, 7, 3)]
)
def test_naive_loop(height, width, tile, stride, dtype):
    rng = np.random.default_rng(0)
    lowest = 0 if dtype[0] == "u" else -3
    planes = rng.integers(lowest, 3, (2, height, width)).astype(dtype)
    wanted = [
        [
            sum(value > 0 for value in plane[top : top + tile, left : left + tile].flat)
            for top in range(0, height - tile + 1, stride)
            for left in range(0, width - tile + 1, stride)
        ]
        for plane in planes
    ]
    found = tile_signal_reference(torch.from_numpy(planes), tile=tile, stride=stride)
    assert found.dtype == torch.int32
    assert found.tolist() == wanted
