import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unidino_fast.kernels import tile_signal, tile_signal_reference
from unidino_fast.kernels.tile_normalize import PIXEL_DTYPES


def pixels(dtype, shape, seed=0):
    """Half of them zero; the others of either sign where the dtype has one; floats within one."""
    rng = np.random.default_rng(seed)
    lowest = -100 if dtype.is_signed else 0
    values = rng.integers(lowest, 200, shape) * rng.integers(0, 2, shape)
    return torch.from_numpy(values / 256 if dtype.is_floating_point else values).to(dtype)


SHAPES = [(2, 31, 17, 7, 3), (2, 11, 23, 4, 9), (1, 7, 7, 7, 7), (1, 230, 228, 224, 3)]
"""(P, H, W, tile, stride)"""


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [(shape, torch.uint16) for shape in SHAPES]
    + [(SHAPES[1], dtype) for dtype in PIXEL_DTYPES if dtype != torch.uint16],
    ids=str,
)
def test_reference(shape, dtype, device):
    n, height, width, tile, stride = shape
    planes = pixels(dtype, (n, height, width))
    found = tile_signal(planes.to(device), tile=tile, stride=stride)
    assert found.dtype == torch.int32
    assert torch.equal(found.cpu(), tile_signal_reference(planes, tile=tile, stride=stride))


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_shape(device, data):
    tile = data.draw(st.integers(1, 40), label="tile")
    stride = data.draw(st.integers(1, 2 * tile), label="stride")
    shape = [tile + data.draw(st.integers(0, 12), label=label) for label in ("height", "width")]
    planes = pixels(torch.uint16, (2, *shape))
    found = tile_signal(planes.to(device), tile=tile, stride=stride)
    assert torch.equal(found.cpu(), tile_signal_reference(planes, tile=tile, stride=stride))


def test_a_view_is_read_in_place(device):
    planes = pixels(torch.uint8, (3, 20, 22))
    found = tile_signal(planes.to(device)[1:, 1::2, 3:], tile=4, stride=4)
    wanted = tile_signal_reference(planes[1:, 1::2, 3:], tile=4, stride=4)
    assert torch.equal(found.cpu(), wanted)


def test_no_planes(device):
    planes = torch.empty((0, 9, 9), dtype=torch.uint8, device=device)
    assert tile_signal(planes, tile=4, stride=4).shape == (0, 4)


@pytest.mark.parametrize(
    ("planes", "tile", "error", "message"),
    [
        (torch.zeros(1, 8, 8), 9, ValueError, "tile 9 and stride 1 do not fit planes 8 x 8"),
        (torch.zeros(1, 8, 9).mT, 2, ValueError, "not adjacent: call .contiguous"),
        (torch.zeros(1, 8, 8).double(), 2, TypeError, "no kernel reads torch.float64"),
    ],
)
def test_what_does_not_fit_is_refused(planes, tile, error, message, device):
    with pytest.raises(error, match=message):
        tile_signal(planes.to(device), tile=tile, stride=1)
