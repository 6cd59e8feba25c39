import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unidino_fast.kernels import tile_normalize, tile_normalize_reference
from unidino_fast.kernels.tile_normalize import PIXEL_DTYPES, plan_tile_normalize

SHAPES = [
    (1, 29, 31, 16, 16, 8),  # (P, H, W, tile, stride, patch): one tile of an odd plane
    (3, 40, 48, 16, 16, 16),  # everything aligned
    (2, 31, 17, 7, 3, 7),  # overlapping, prime
    (2, 11, 23, 4, 9, 2),  # with gaps
    (2, 50, 61, 28, 14, 14),
    (2, 13, 29, 5, 5, None),
    (1, 6, 6, 5, 1, 1),
]
FLOAT32_ULPS = {torch.uint8: 3, torch.int16: 3, torch.uint16: 3}  # else 4: see the docstring


def pixels(dtype, shape, seed=0):
    rng = np.random.default_rng(seed)
    if dtype.is_floating_point:
        return torch.from_numpy(rng.normal(0.5, 1.0, shape).astype("f4"))
    info = torch.iinfo(dtype)
    found = rng.integers(info.min, info.max, shape, endpoint=True)
    found.flat[:2] = info.min, info.max
    return torch.from_numpy(found).to(dtype)


def both(device, planes, low, span, **options):
    """What the kernel gives, on the CPU, and the reference."""
    low = torch.tensor(low, dtype=torch.float64)
    span = torch.tensor(span, dtype=torch.float64)
    found = tile_normalize(planes.to(device), low.to(device), span.to(device), **options)
    return found.cpu(), tile_normalize_reference(planes, low, span, **options)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [(shape, torch.uint16) for shape in SHAPES]
    + [(shape, dtype) for shape in SHAPES[1:4] for dtype in PIXEL_DTYPES if dtype != torch.uint16],
    ids=str,
)
def test_full_scale(shape, dtype, device):
    """Exactly the reference where division is all that rounds."""
    n, height, width, tile, stride, patch = shape
    planes = pixels(dtype, (n, height, width))
    top = 1.0 if dtype.is_floating_point else torch.iinfo(dtype).max
    found, wanted = both(
        device, planes, [0.0] * n, [top] * n, tile=tile, stride=stride, clip=True, patch=patch
    )
    assert found.shape == wanted.shape
    assert found.dtype == torch.float32
    ulps = 0 if dtype.itemsize < 4 or dtype.is_floating_point else 4
    np.testing.assert_array_max_ulp(found.numpy(), wanted.numpy(), maxulp=ulps)


@pytest.mark.parametrize("dtype", PIXEL_DTYPES, ids=str)
@pytest.mark.parametrize("clip", [True, False])
def test_stretched(dtype, clip, device):
    """A range of its own for each plane, with bounds that no float32 holds."""
    planes = pixels(dtype, (4, 20, 24))
    if dtype.is_floating_point:
        low, span = [0.1, -0.3, 1 / 3, 0.0], [0.7, 1e-3, 12.3, 1 / 7]
    else:
        low, span = [100.3, 0.25, 1e4 / 3, 99.999999999], [77.7, 1e-8, 31_111.1, 65_000.123]
    found, wanted = both(device, planes, low, span, tile=8, stride=8, clip=clip, patch=8)
    ulps = FLOAT32_ULPS.get(dtype, 4)
    np.testing.assert_array_max_ulp(found.numpy(), wanted.numpy(), maxulp=ulps)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dtype", PIXEL_DTYPES, ids=str)
@pytest.mark.parametrize("patch", [8, None])
def test_half_precision_is_float32_rounded_once(dtype, stored, patch, device, cast):
    planes = pixels(dtype, (2, 19, 33)).to(device)
    low, span = torch.tensor([0.1, 3.7]).to(device), torch.tensor([0.9, 12_345.6]).to(device)
    options = {"tile": 16, "stride": 3, "clip": True, "patch": patch}
    found = tile_normalize(planes, low, span, dtype=stored, **options)
    wanted = cast(tile_normalize(planes, low, span, **options), stored)
    assert found.dtype == stored
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("dtype", [torch.uint32, torch.int32])
def test_a_narrow_range_far_from_zero_keeps_its_digits(dtype, device):
    base = 2_000_000_000
    planes = torch.tensor([[[base, base + 1, base + 4]]]).to(dtype)
    found, _ = both(device, planes, [float(base)], [4.0], tile=1, stride=1, clip=True)
    assert found.flatten().tolist() == [0.0, 0.25, 1.0]


def test_not_a_number_stays_one(device):
    planes = torch.tensor([[[float("nan"), -1.0], [2.0, 0.5]]])
    found, wanted = both(device, planes, [0.0], [1.0], tile=2, stride=2, clip=True)
    np.testing.assert_array_equal(found.numpy(), wanted.numpy())


@pytest.mark.parametrize("rows", [slice(3, None), slice(None, None, 2)])
def test_views_with_adjacent_pixels_are_read_in_place(rows, device):
    whole = pixels(torch.uint16, (4, 37, 40))
    planes = whole[1::2, rows, 5:]
    low, span = torch.zeros(2, dtype=torch.float64), torch.full((2,), 65_535.0)
    moved = whole.to(device)[1::2, rows, 5:]
    options = {"tile": 8, "stride": 8, "clip": True, "patch": 4}
    found = tile_normalize(moved, low.to(device), span.to(device), **options).cpu()
    assert torch.equal(found, tile_normalize_reference(planes, low, span, **options))


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_shape(device, data):
    patch = data.draw(st.integers(1, 9), label="patch")
    tile = patch * data.draw(st.integers(1, 3), label="patches across")
    stride = data.draw(st.integers(1, 2 * tile), label="stride")
    height = tile + data.draw(st.integers(0, 12), label="height left")
    width = tile + data.draw(st.integers(0, 12), label="width left")
    dtype = data.draw(st.sampled_from([torch.uint8, torch.uint16]), label="dtype")
    planes = pixels(dtype, (2, height, width))
    top = float(torch.iinfo(dtype).max)
    found, wanted = both(
        device, planes, [0.0, 2.0], [top, 7.0], tile=tile, stride=stride, clip=True, patch=patch
    )
    assert torch.equal(found, wanted)


def test_no_planes(device):
    empty = torch.zeros(0, device=device)
    planes = torch.empty((0, 9, 9), dtype=torch.uint8, device=device)
    options = {"tile": 4, "stride": 4, "clip": True}
    assert tile_normalize(planes, empty, empty, patch=2, **options).shape == (0, 4, 4, 4)
    assert tile_normalize(planes, empty, empty, **options).shape == (0, 4, 4, 4)
    assert tile_normalize(planes[:, :4, :4], empty, empty, **options).shape == (0, 1, 4, 4)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"tile": 17}, ValueError, "tile 17 and stride 4 do not fit planes 16 x 20"),
        ({"stride": 0}, ValueError, "tile 8 and stride 0 do not fit"),
        ({"patch": 3}, ValueError, "patch 3 does not divide tile 8"),
        ({"dtype": torch.float64}, TypeError, "no kernel scales torch.uint16 to torch.float64"),
        ({"low": torch.zeros(1)}, ValueError, r"low \(1,\) and span \(2,\): give \(2,\)"),
        ({"planes": torch.zeros(2, 16, 20).double()}, TypeError, "no kernel scales torch.float64"),
        ({"planes": torch.zeros(2, 20, 16).mT}, ValueError, "not adjacent: call .contiguous"),
    ],
)
def test_what_does_not_fit_is_refused(change, error, message, device):
    options = {
        "planes": torch.zeros((2, 16, 20), dtype=torch.uint16),
        "low": torch.zeros(2),
        "span": torch.ones(2),
        "tile": 8,
        "stride": 4,
        "clip": True,
        "patch": 8,
    } | change
    tensors = [options.pop(name).to(device) for name in ("planes", "low", "span")]
    with pytest.raises(error, match=message):
        tile_normalize(*tensors, **options)


@pytest.mark.parametrize("edge", [1024, 1080, 1104, 2048, 2160])
def test_rows_of_usual_cameras_are_read_16_bytes_at_a_time(edge):
    plan = plan_tile_normalize(
        torch.uint16,
        plane_stride=edge * edge,
        row_stride=edge,
        tile=224,
        stride=224,
        patch=16,
        clip=True,
    )
    assert plan["ALIGN"] * torch.uint16.itemsize >= 16
