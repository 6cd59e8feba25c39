"""The kernel against the reference; bfloat16 on CUDA alone: the interpreter multiplies none."""

import os
import sys

import pytest
import torch

from unidino_fast.kernels import fold_norm_linear, norm_linear, norm_linear_reference
from unidino_fast.kernels.norm_linear import NormLinearWeights

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DTYPES = [torch.float16] if INTERPRETED else [torch.float16, torch.bfloat16]
EPSILON = 1e-6
HALF = torch.float16
TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""Of the largest error to the largest value: four units in the last place. Weights are rounded to
the dtype before products of some hundred terms, the result once more."""


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def parameters(dim, outputs, *, biased=True):
    return (
        1 + 0.3 * normal(dim, seed=1),
        0.3 * normal(dim, seed=2),
        normal(outputs, dim, seed=3) / dim**0.5,
        0.3 * normal(outputs, seed=4) if biased else None,
    )


def folded(parts, device, dtype=HALF) -> NormLinearWeights:
    moved = (None if one is None else one.to(device) for one in parts)
    return fold_norm_linear(*moved, epsilon=EPSILON, dtype=dtype)


def check(x, parts, device, *, gelu=False):
    found = norm_linear(x.to(device), folded(parts, device, x.dtype), gelu=gelu)
    assert found.dtype == x.dtype
    assert found.is_contiguous()
    wanted = norm_linear_reference(x.double(), *parts, epsilon=EPSILON, gelu=gelu)
    error = (found.cpu().double() - wanted).abs().max() / wanted.abs().max()
    assert float(error) <= TOLERANCE[x.dtype]
    return found


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("n", "dim", "outputs", "gelu"),
    [
        (1, 64, 64, False),
        (131, 64, 192, True),
        (127, 128, 64, False),
        (257, 320, 128, True),
        (3, 192, 576, False),
        (197, 384, 320, True),
        (67, 768, 128, False),
    ],
)
def test_reference(n, dim, outputs, gelu, dtype, device):
    check((normal(n, dim) * 2 + 0.5).to(dtype), parameters(dim, outputs), device, gelu=gelu)


if INTERPRETED:  # a GPU may lack the memory for what others run

    @pytest.mark.parametrize(
        ("dim", "capability"), [(384, (10, 0)), (384, (12, 0)), (768, (12, 0))]
    )
    def test_shapes_of_other_gpus(dim, capability, device, monkeypatch):
        module = sys.modules[norm_linear.__module__]
        plan = module.plan_norm_linear
        shapes = lambda **sizes: plan(**(sizes | {"capability": capability}))  # noqa: E731
        monkeypatch.setattr(module, "plan_norm_linear", shapes)
        check((normal(67, dim) + 3).to(HALF), parameters(dim, 64), device, gelu=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_queries_keys_and_values_of_a_tile(dtype, device):
    check(normal(197, 384).to(dtype), parameters(384, 1152), device)


def test_a_layer_without_bias(device):
    check(normal(5, 64).to(HALF), parameters(64, 64, biased=False), device)


@pytest.mark.parametrize("offset", [100.0, -30.0])
def test_the_mean_is_taken_away(offset, device):
    """Rows far from zero, where the product is mostly the mean's."""
    check((normal(33, 128) + offset).to(HALF), parameters(128, 128), device)


def test_blocks_of_features_at_several_heights(device):
    """Means and deviations of blocks are joined: here those within say nothing of the whole."""
    x = normal(9, 320) + torch.tensor([0.0, 50.0, -20.0, 7.0, 300.0]).repeat_interleave(64)
    check(x.to(HALF), parameters(320, 64), device)


def test_constant_rows(device):
    check(torch.full((5, 64), 3.0, dtype=HALF), parameters(64, 64), device)


def test_a_view_is_read_in_place(device):
    x, weights = normal(60, 200).to(HALF), folded(parameters(128, 64), device)
    view = x.to(device)[1::3, 7:135]
    assert torch.equal(norm_linear(view, weights), norm_linear(view.contiguous(), weights))


def test_rows_do_not_depend_on_the_rows_beside(device):
    x, parts = normal(150, 64).to(HALF), parameters(64, 128)
    together = check(x, parts, device)
    for part in (slice(0, 1), slice(120, 150), slice(60, 131)):
        assert torch.equal(check(x[part], parts, device), together[part])


@pytest.mark.parametrize("span", [64, 128, 192])
def test_outputs_shared_out_among_programs(span, device, monkeypatch):
    """192 does not divide 320: the last program makes fewer."""
    x, weights = normal(70, 64).to(HALF), folded(parameters(64, 320), device)
    wanted = norm_linear(x.to(device), weights)
    module = sys.modules[norm_linear.__module__]
    monkeypatch.setattr(module, "outputs_a_program", lambda **_: span)
    assert torch.equal(norm_linear(x.to(device), weights), wanted)


def test_no_rows(device):
    empty = torch.empty((0, 64), dtype=HALF, device=device)
    assert norm_linear(empty, folded(parameters(64, 192), device)).shape == (0, 192)


@pytest.mark.parametrize(
    ("x", "dim", "outputs", "error", "message"),
    [
        (torch.zeros(2, 64), 64, 64, TypeError, "torch.float32 rows with torch.float16"),
        (torch.zeros(2, 64).bfloat16(), 64, 64, TypeError, "torch.bfloat16 rows with"),
        (torch.zeros(2, 832, dtype=HALF), 832, 64, ValueError, "832 features .* at most 768"),
        (torch.zeros(2, 96, dtype=HALF), 96, 64, ValueError, "multiples of 64"),
        (torch.zeros(2, 64, dtype=HALF), 64, 32, ValueError, "32 outputs"),
        (torch.zeros(2, 128, dtype=HALF), 64, 64, ValueError, r"give \(64, 128\)"),
        (torch.zeros(64, 2, dtype=HALF).mT, 64, 64, ValueError, "not adjacent"),
    ],
)
def test_what_does_not_fit_is_refused(x, dim, outputs, error, message, device):
    with pytest.raises(error, match=message):
        norm_linear(x.to(device), folded(parameters(dim, outputs), device))
