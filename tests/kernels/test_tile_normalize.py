import numpy as np
import pytest
import torch

from unidino_fast.kernels import tile_normalize_reference

SHAPES = [(7, 7, 7, 7), (13, 29, 5, 5), (31, 17, 7, 3), (11, 23, 4, 9), (5, 8, 1, 1), (6, 6, 5, 1)]
"""(H, W, tile, stride): odd, prime, overlapping, with gaps, one pixel."""


def naive(planes, low, span, tile, stride, clip):
    """Tiles pixel by pixel, in Python floats."""
    n_planes, height, width = planes.shape
    found = []
    for plane in range(n_planes):
        for top in range(0, height - tile + 1, stride):
            for left in range(0, width - tile + 1, stride):
                block = [
                    [
                        (float(planes[plane, y, x]) - float(low[plane])) / float(span[plane])
                        for x in range(left, left + tile)
                    ]
                    for y in range(top, top + tile)
                ]
                found.append(np.clip(block, 0, 1) if clip else np.array(block))
    return np.array(found, "float32").reshape(n_planes, -1, tile, tile)


def pixels(dtype, shape, seed=0):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.normal(0.5, 1.0, shape).astype(dtype)
    info = np.iinfo(dtype)
    found = rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
    found.flat[:2] = info.min, info.max
    return found


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "u4", "f4"])
@pytest.mark.parametrize(("height", "width", "tile", "stride"), SHAPES)
def test_naive_loop(height, width, tile, stride, dtype, clip):
    planes = pixels(dtype, (3, height, width))
    low = np.array([0.0, 0.25, -3.5])
    span = np.array([1.0, 65535.0, 0.3])
    found = tile_normalize_reference(
        torch.from_numpy(planes),
        torch.from_numpy(low),
        torch.from_numpy(span),
        tile=tile,
        stride=stride,
        clip=clip,
    )
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), naive(planes, low, span, tile, stride, clip))


def test_a_narrow_range_far_from_zero_keeps_its_digits():
    planes = torch.tensor([[[4_000_000_000, 4_000_000_001, 4_000_000_004]]]).to(torch.uint32)
    low, span = torch.tensor([4e9], dtype=torch.float64), torch.tensor([4.0])
    row = [tile_normalize_reference(planes, low, span, tile=1, stride=1, clip=True)]
    assert row[0].flatten().tolist() == [0.0, 0.25, 1.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8])
def test_the_planes_are_left_alone(dtype):
    planes = torch.ones((1, 4, 4), dtype=dtype)
    ones = torch.ones(1)
    tile_normalize_reference(planes, ones, ones, tile=2, stride=2, clip=True)
    assert bool((planes == 1).all())


@pytest.mark.parametrize("patch", [1, 2, 3, 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_patches_are_the_tiles_cut_again(patch, dtype):
    planes = torch.from_numpy(pixels("u2", (2, 14, 20)))
    low, span = torch.tensor([3.0, 0.0]), torch.tensor([7.5, 65_535.0])
    options = {"tile": 6, "stride": 4, "clip": True}
    tiles = tile_normalize_reference(planes, low, span, **options)
    found = tile_normalize_reference(planes, low, span, patch=patch, dtype=dtype, **options)
    side = 6 // patch
    assert found.shape == (*tiles.shape[:2], side * side, patch * patch)
    assert found.dtype == dtype
    for index in range(side * side):
        top, left = index // side * patch, index % side * patch
        block = tiles[:, :, top : top + patch, left : left + patch].to(dtype)
        assert torch.equal(found[:, :, index], block.flatten(2))
