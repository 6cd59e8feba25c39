import numpy as np
import pytest
import torch

from unidino_fast.engines.graph import standardized
from unidino_fast.errors import PixelError
from unidino_fast.preprocess import _from_zero, all_with_signal, tiles_of, tiles_with_signal

DTYPES = ["u1", "u2", "i2", "u4", "f4"]
SHAPES = [(7, 7, 7, 7), (13, 29, 5, 5), (31, 17, 7, 3), (11, 23, 4, 9)]
"""(H, W, tile, stride): odd, prime, overlapping, with gaps."""
PIXEL = {"atol": 1e-7, "rtol": 0}  # a rounding of float32 in [0, 1]


def pixels(dtype, shape, seed=0):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.random(shape).astype(dtype)
    info = np.iinfo(dtype)
    found = rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
    found.flat[0], found.flat[-1] = info.min, info.max
    return found


def cut(plane, tile, stride):
    """Tiles of one plane by slicing, row by row."""
    height, width = plane.shape
    return np.array(
        [
            plane[top : top + tile, left : left + tile]
            for top in range(0, height - tile + 1, stride)
            for left in range(0, width - tile + 1, stride)
        ]
    )


def tiles(planes, intensity, tile, stride):
    return tiles_of(torch.from_numpy(planes), intensity, tile=tile, stride=stride).numpy()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("height", "width", "tile", "stride"), SHAPES)
class TestNaiveTiles:
    def test_dtype(self, height, width, tile, stride, dtype):
        planes = pixels(dtype, (2, height, width))
        top = 1.0 if dtype == "f4" else np.iinfo(dtype).max
        scaled = np.clip(planes.astype("f8") / top, 0, 1)
        wanted = np.stack([cut(plane, tile, stride) for plane in scaled])
        found = tiles(planes, "dtype", tile, stride)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, **PIXEL)

    def test_percentile(self, height, width, tile, stride, dtype):
        planes = pixels(dtype, (2, height, width))
        wanted = []
        for plane in planes.astype("f8"):
            low, high = np.percentile(plane, [0.1, 99.9])
            wanted.append(cut(np.clip((plane - low) / (high - low + 1e-8), 0, 1), tile, stride))
        np.testing.assert_allclose(tiles(planes, "percentile", tile, stride), wanted, **PIXEL)

    def test_none(self, height, width, tile, stride, dtype):
        planes = pixels(dtype, (2, height, width))
        wanted = np.stack([cut(plane, tile, stride) for plane in planes])
        np.testing.assert_array_equal(tiles(planes, "none", tile, stride), wanted.astype("f4"))

    def test_signal(self, height, width, tile, stride, dtype):
        plane = pixels(dtype, (height, width))
        rng = np.random.default_rng(1)
        plane[rng.random(plane.shape) < 0.97] = 0
        wanted = [
            sum(float(pixel) > 0 for pixel in block.flat) * 100 >= tile * tile
            for block in cut(plane, tile, stride)
        ]
        if not any(wanted):
            wanted[len(wanted) // 2] = True
        found = tiles_with_signal(torch.from_numpy(plane), tile=tile, stride=stride)
        assert found.tolist() == wanted

    def test_signal_that_is_seen_at_once(self, height, width, tile, stride, dtype):
        """Where no pixel is zero it is; where a tile is empty it never is, whichever it is."""
        above = np.maximum(pixels(dtype, (height, width)), np.ones((), dtype))
        assert all_with_signal(above, tile=tile, stride=stride)
        for top in range(0, height - tile + 1, stride):
            for left in range(0, width - tile + 1, stride):
                plane = above.copy()
                plane[top : top + tile, left : left + tile] = 0
                assert not all_with_signal(plane, tile=tile, stride=stride)


def test_what_is_kept_of_scaling_is_fit_for_training_too():
    """Whoever asks first for planes like these does so while a network is only used."""
    _from_zero.cache_clear()
    planes = torch.ones((3, 8, 8), requires_grad=True)
    with torch.inference_mode():
        tiles_of(planes.detach(), "none", tile=4, stride=4)
    tiles_of(planes, "none", tile=4, stride=4).sum().backward()
    assert planes.grad.sum() == planes.numel()


@pytest.mark.parametrize(("size", "grid"), [((1080, 1080), (4, 4)), ((1024, 1280), (4, 5))])
def test_remainders_are_dropped(size, grid):
    found = tiles(np.zeros((1, *size), "u1"), "dtype", 224, 224)
    assert found.shape == (1, grid[0] * grid[1], 224, 224)


def test_negative_pixels_are_dark():
    planes = np.array([[[-32768, -1], [0, 32767]]], "i2")
    assert tiles(planes, "dtype", 2, 2).tolist() == [[[[0, 0], [0, 1]]]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0, 1, 100])
def test_a_constant_plane_is_dark_when_stretched(dtype, value):
    planes = np.full((1, 9, 9), value, dtype)
    assert not tiles(planes, "percentile", 4, 4).any()


def test_a_full_scale_narrow_stretch_is_exact():
    planes = np.full((1, 40, 50), 65_000, "u2")
    planes[0, :20] = 65_001
    found = tiles(planes, "percentile", 40, 40)
    assert np.unique(found).tolist() == [0, 1]


@pytest.mark.parametrize("tile", [10, 30, 70, 100])
@pytest.mark.parametrize(("less", "kept"), [(0, True), (1, False)])
def test_exactly_one_percent_is_signal(tile, less, kept):
    plane = torch.ones((tile, 2 * tile), dtype=torch.uint16)  # the second tile has signal anyway
    plane[:, :tile] = 0
    n_above = tile * tile // 100 - less
    for index in range(n_above):
        plane[index // tile, index % tile] = 1
    assert tiles_with_signal(plane, tile=tile, stride=tile).tolist() == [kept, True]


@pytest.mark.parametrize(("columns", "kept"), [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)])
def test_of_empty_tiles_the_middle_one_is_kept(columns, kept):
    plane = torch.zeros((8, 8 * columns), dtype=torch.uint8)
    wanted = [index == kept for index in range(columns)]
    assert tiles_with_signal(plane, tile=8, stride=8).tolist() == wanted


@pytest.mark.parametrize("intensity", ["dtype", "percentile", "none"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_numbers(intensity, value):
    planes = np.full((1, 10, 10), 0.5, "f4")
    planes[0, 3, 4] = value
    with pytest.raises(PixelError, match=r"^1\.00% of its pixels are NaN or infinite: fill"):
        tiles(planes, intensity, 5, 5)


def test_one_bad_pixel_of_many_is_not_zero_percent():
    planes = np.full((1, 200, 200), 0.5, "f4")
    planes[0, 3, 4] = np.nan
    with pytest.raises(PixelError, match=r"^1 of its pixels are NaN or infinite"):
        tiles(planes, "dtype", 5, 5)


@pytest.mark.parametrize("value", [-0.5, 1.5, 40_000])
def test_floats_out_of_range(value):
    planes = np.full((1, 10, 10), 0.5, "f4")
    planes[0, 3, 4] = value
    with pytest.raises(PixelError, match=r"run from .* to .*use --intensity percentile$"):
        tiles(planes, "dtype", 5, 5)
    assert tiles(planes, "percentile", 5, 5).max() <= 1
    assert tiles(planes, "none", 5, 5)[0, 0, 3, 4] == np.float32(value)


def test_floats_a_rounding_out_of_range_are_clipped():
    planes = np.full((1, 4, 4), 1.0004, "f4")
    planes[0, 0] = -0.0004
    assert np.unique(tiles(planes, "dtype", 4, 4)).tolist() == [0, 1]


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e4])
def test_standardized_is_an_instance_norm(scale):
    rng = np.random.default_rng(0)
    found = torch.from_numpy((scale * (3 + rng.random((5, 37, 37)))).astype("f4"))
    norm = torch.nn.InstanceNorm2d(1, eps=1e-12).double()
    wanted = norm(found[:, None].double())[:, 0]
    # the pixels are float32 and lie 10 SD from zero: their mean is rounded once
    torch.testing.assert_close(standardized(found).double(), wanted, atol=2e-5, rtol=0)


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0, 1234.567])
def test_a_constant_tile_standardizes_to_zeros(value):
    assert not standardized(torch.full((2, 224, 224), value)).any()
