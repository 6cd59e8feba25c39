"""The kernel against the reference; bfloat16 on CUDA alone: the interpreter multiplies none."""

import os
import sys

import pytest
import torch

from unidino_fast.kernels import fold_mlp, mlp, mlp_reference

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DTYPES = [torch.float16] if INTERPRETED else [torch.float16, torch.bfloat16]
EPSILON = 1e-6
TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""Of the largest error to the largest value: four units in the last place. Weights and hidden
features are rounded to the dtype before products of some hundred terms, the result once more."""


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def weights_of(dim, hidden):
    return (
        1 + 0.3 * normal(dim, seed=1),
        0.3 * normal(dim, seed=2),
        normal(hidden, dim, seed=3) / dim**0.5,
        0.3 * normal(hidden, seed=4),
        normal(dim, hidden, seed=5) / hidden**0.5,
        0.3 * normal(dim, seed=6),
    )


def check(x, weights, device, dtype):
    folded = fold_mlp(*(one.to(device) for one in weights), epsilon=EPSILON, dtype=dtype)
    found = mlp(x.to(device), folded)
    assert found.dtype == dtype
    assert found.is_contiguous()
    wanted = mlp_reference(x, *weights, epsilon=EPSILON).double()
    error = (found.cpu().double() - wanted).abs().max() / wanted.abs().max()
    assert float(error) <= TOLERANCE[dtype]
    return found


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("n", "dim", "hidden"),
    [(1, 64, 64), (131, 64, 192), (127, 128, 64), (3, 192, 128), (257, 320, 64), (197, 384, 256)],
)
def test_reference(n, dim, hidden, dtype, device):
    check((normal(n, dim) * 2 + 0.5).to(dtype), weights_of(dim, hidden), device, dtype)


if INTERPRETED:  # a GPU may lack the memory for what others run

    @pytest.mark.parametrize("capability", [(9, 0), (10, 0), (12, 0)])
    def test_shapes_of_other_gpus(capability, device, monkeypatch):
        module = sys.modules[mlp.__module__]
        plan = module.plan_mlp
        shapes = lambda **sizes: plan(**(sizes | {"capability": capability}))  # noqa: E731
        monkeypatch.setattr(module, "plan_mlp", shapes)
        check((normal(67, 384) + 3).to(HALF), weights_of(384, 64), device, HALF)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_network_size(dtype, device):
    check(normal(149, 384).to(dtype), weights_of(384, 1536), device, dtype)


def test_the_mean_is_taken_away(device):
    """Rows far from zero, where the first product is mostly the mean's."""
    x = (normal(33, 128) + 100).to(torch.float16)
    weights = weights_of(128, 128)
    folded = fold_mlp(*(one.to(device) for one in weights), epsilon=EPSILON, dtype=x.dtype)
    added = mlp(x.to(device), folded).cpu().float() - x.float()
    wanted = mlp_reference(x.float(), *weights, epsilon=EPSILON) - x.float()
    # x + result is rounded to units of 1/16 there
    assert float((added - wanted).abs().max()) < 0.04


def test_constant_rows(device):
    check(torch.full((5, 64), 3.0, dtype=torch.float16), weights_of(64, 64), device, torch.float16)


def test_a_view_is_read_in_place(device):
    x = normal(60, 200).to(torch.float16)
    weights = weights_of(128, 64)
    folded = fold_mlp(*(one.to(device) for one in weights), epsilon=EPSILON, dtype=x.dtype)
    view = x.to(device)[1::3, 7:135]
    assert torch.equal(mlp(view, folded), mlp(view.contiguous(), folded))


def test_rows_do_not_depend_on_the_rows_beside(device):
    x, weights = normal(150, 64).to(torch.float16), weights_of(64, 64)
    together = check(x, weights, device, torch.float16)
    for part in (slice(0, 1), slice(120, 150), slice(60, 131)):
        alone = check(x[part], weights, device, torch.float16)
        assert torch.equal(alone, together[part])


def test_no_rows(device):
    folded = fold_mlp(
        *(one.to(device) for one in weights_of(64, 64)), epsilon=EPSILON, dtype=torch.float16
    )
    assert mlp(torch.empty((0, 64), dtype=torch.float16, device=device), folded).shape == (0, 64)


HALF = torch.float16


@pytest.mark.parametrize(
    ("x", "dim", "hidden", "error", "message"),
    [
        (torch.zeros(2, 64), 64, 64, TypeError, "torch.float32 rows with torch.float16"),
        (torch.zeros(2, 64).bfloat16(), 64, 64, TypeError, "torch.bfloat16 rows with"),
        (torch.zeros(2, 448, dtype=HALF), 448, 64, ValueError, "448 features .* at most 384"),
        (torch.zeros(2, 96, dtype=HALF), 96, 64, ValueError, "multiples of 64"),
        (torch.zeros(2, 64, dtype=HALF), 64, 32, ValueError, "32 hidden ones"),
        (torch.zeros(2, 128, dtype=HALF), 64, 64, ValueError, r"give \(64, 128\)"),
        (torch.zeros(64, 2, dtype=HALF).mT, 64, 64, ValueError, "not adjacent"),
    ],
)
def test_what_does_not_fit_is_refused(x, dim, hidden, error, message, device):
    weights = (one.to(device) for one in weights_of(dim, hidden))
    with pytest.raises(error, match=message):
        mlp(x.to(device), fold_mlp(*weights, epsilon=EPSILON, dtype=HALF))
