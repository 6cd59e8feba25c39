"""What the CPU does in its own way has the reference's bits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unidino_fast.cpu_ops import (
    TABLE_DTYPES,
    intensity_range_by_count,
    segment_mean_by_numpy,
    tile_normalize_by_table,
    tile_signal_by_count,
)
from unidino_fast.kernels import (
    intensity_range_reference,
    tile_normalize_reference,
    tile_signal_reference,
)
from unidino_fast.kernels.intensity_range import COUNTED_DTYPES

PERCENTILES = (0.0, 0.1, 12.5, 50.0, 77.7, 99.9, 100.0)


@pytest.mark.parametrize("pixel", COUNTED_DTYPES, ids=str)
@pytest.mark.parametrize("size", [(1, 1, 1), (3, 7, 11), (2, 301, 443)])  # the last: in portions
@pytest.mark.parametrize("levels", [1, 2, 1000])
def test_percentiles_are_the_references_and_numpys(pixel, size, levels):
    info = np.iinfo(str(pixel).removeprefix("torch."))
    rng = np.random.default_rng(levels)
    few = rng.integers(info.min, info.max, levels, dtype=info.dtype, endpoint=True)
    few[0], few[-1] = info.min, info.max
    planes = rng.choice(few, size)
    found = intensity_range_by_count(torch.from_numpy(planes), PERCENTILES)
    assert torch.equal(found, intensity_range_reference(torch.from_numpy(planes), PERCENTILES))
    wanted = np.percentile(planes.reshape(len(planes), -1).astype("f8"), PERCENTILES, axis=1).T
    np.testing.assert_array_max_ulp(found.numpy(), wanted, maxulp=1)
    turned = torch.from_numpy(planes).transpose(1, 2)  # a view
    assert torch.equal(intensity_range_by_count(turned, PERCENTILES), found)


@settings(max_examples=60, deadline=None)
@given(
    pixel=st.sampled_from(TABLE_DTYPES),
    value=st.sampled_from((torch.float32, torch.bfloat16, torch.float16)),
    size=st.tuples(st.integers(1, 3), st.integers(16, 50), st.integers(16, 50)),
    stride=st.integers(1, 20),
    patch=st.sampled_from((None, 4, 16)),
    low=st.floats(-40_000, 70_000),
    span=st.floats(1e-8, 70_000),
    clip=st.booleans(),
    seed=st.integers(0, 9),
)
def test_bits(pixel, value, size, stride, patch, low, span, clip, seed):
    info = np.iinfo(str(pixel).removeprefix("torch."))
    rng = np.random.default_rng(seed)
    pixels = rng.integers(info.min, info.max, size, dtype=info.dtype, endpoint=True)
    planes = torch.from_numpy(pixels)
    lows = low + torch.arange(size[0], dtype=torch.float64)
    spans = torch.full_like(lows, span)
    options = {"tile": 16, "stride": stride, "clip": clip, "patch": patch, "dtype": value}
    expected = tile_normalize_reference(planes, lows, spans, **options)
    found = tile_normalize_by_table(planes, lows, spans, **options)
    assert found.dtype is value
    assert torch.equal(found.nan_to_num(), expected.nan_to_num())


@pytest.mark.parametrize("pixel", TABLE_DTYPES)
def test_every_value(pixel):
    info = torch.iinfo(pixel)
    levels = np.arange(info.min, info.max + 1).astype(str(pixel).removeprefix("torch."))
    plane = torch.from_numpy(levels.reshape(1, 16, -1))
    low, span = torch.tensor([3.25], dtype=torch.float64), torch.tensor([97.5], dtype=torch.float64)
    options = {"tile": 16, "stride": 16, "clip": False, "dtype": torch.float32}
    expected = tile_normalize_reference(plane, low, span, **options)
    assert torch.equal(tile_normalize_by_table(plane, low, span, **options), expected)


def test_planes_that_are_views():
    whole = torch.from_numpy(np.random.default_rng(0).integers(0, 60_000, (4, 40, 40), np.uint16))
    view = whole[1:3, 4:36, ::2]
    low, span = torch.zeros(2, dtype=torch.float64), torch.full((2,), 65535.0).double()
    options = {"tile": 16, "stride": 8, "clip": True, "patch": 8}
    expected = tile_normalize_reference(view, low, span, **options)
    assert torch.equal(tile_normalize_by_table(view, low, span, **options), expected)


@settings(max_examples=40, deadline=None)
@given(
    pixel=st.sampled_from(("uint8", "uint16", "int16", "uint32", "float32")),
    size=st.tuples(st.integers(1, 3), st.integers(5, 40), st.integers(5, 40)),
    stride=st.integers(1, 20),
    seed=st.integers(0, 9),
)
def test_signal(pixel, size, stride, seed):
    pixels = np.random.default_rng(seed).integers(0, 3, size) * np.random.default_rng(
        seed + 1
    ).integers(-1, 2, size)
    planes = torch.from_numpy(np.maximum(pixels, 0 if pixel.startswith("u") else -9).astype(pixel))
    expected = tile_signal_reference(planes, tile=5, stride=stride)
    found = tile_signal_by_count(planes, tile=5, stride=stride)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_means(dtype):
    features = torch.randn(3, 37, 11, generator=torch.Generator().manual_seed(0)).to(dtype)
    keep = torch.arange(37) % 5 != 0
    found = segment_mean_by_numpy(features, keep)
    exact = features.double().numpy()[:, keep.numpy()]
    for channel, rows in enumerate(exact):
        expected = [math.fsum(column) / len(column) for column in rows.T]
        # one rounding to float32, and float64's own far below it
        np.testing.assert_allclose(found[channel].numpy(), expected, rtol=2**-24 * 1.001)


@pytest.mark.parametrize("enough", [1, 7, 300, 900])
def test_signal_is_counted_until_there_is_enough(enough):
    """40 rows: some tiles have enough in the first sixteen, some after them, some nowhere."""
    rng = np.random.default_rng(3)
    pixels = (rng.random((1, 130, 120)) < np.linspace(0, 1, 130)[:, None]).astype("u2")
    planes = torch.from_numpy(pixels)
    found = tile_signal_by_count(planes, tile=40, stride=30, enough=enough)
    true = tile_signal_reference(planes, tile=40, stride=30)
    assert ((found >= enough) == (true >= enough)).all()
    assert (found <= true).all()
