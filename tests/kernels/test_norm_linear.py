import math

import numpy as np
import pytest
import torch
from torch import nn

from unidino_fast.kernels import fold_norm_linear, norm_linear_reference
from unidino_fast.kernels.norm_linear import outputs_a_program, plan_norm_linear

CAPABILITIES = [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)]


def parameters(dim, outputs, seed=0):
    """Scale and shift of the norm, weight and bias of the layer."""
    rng = np.random.default_rng(seed)
    return [
        1 + 0.3 * rng.normal(size=dim),
        0.3 * rng.normal(size=dim),
        rng.normal(size=(outputs, dim)) / dim**0.5,
        0.3 * rng.normal(size=outputs),
    ]


def naive(x, scale, shift, weight, bias, epsilon, *, gelu):
    """One row and one output after another, in float64."""
    found = np.zeros((len(x), len(weight)))
    for i, row in enumerate(x):
        normed = (row - row.mean()) / math.sqrt(row.var() + epsilon) * scale + shift
        for j, (one, added) in enumerate(zip(weight, bias, strict=True)):
            out = float(one @ normed + added)
            found[i, j] = 0.5 * out * (1 + math.erf(out / math.sqrt(2))) if gelu else out
    return found


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize(("n", "dim", "outputs"), [(1, 3, 5), (7, 64, 31), (5, 20, 3)])
def test_naive_rows(n, dim, outputs, gelu):
    parts = parameters(dim, outputs)
    x = np.random.default_rng(n).normal(size=(n, dim)) * 3 + 1
    tensors = [torch.from_numpy(one).float() for one in (x, *parts)]
    found = norm_linear_reference(*tensors, epsilon=1e-6, gelu=gelu).numpy()
    np.testing.assert_allclose(found, naive(x, *parts, 1e-6, gelu=gelu), rtol=1e-5, atol=1e-5)


def test_reference_is_timms_block():
    from timm.layers import Mlp

    torch.manual_seed(0)
    norm, mlp, x = nn.LayerNorm(64, eps=1e-6), Mlp(64, 128), torch.randn(9, 64)
    parts = (norm.weight, norm.bias, mlp.fc1.weight, mlp.fc1.bias)
    with torch.no_grad():
        found = norm_linear_reference(x, *parts, epsilon=1e-6, gelu=True)
        torch.testing.assert_close(found, mlp.act(mlp.fc1(norm(x))))


@pytest.mark.parametrize("biased", [True, False])
def test_folded_weights_mean_the_same(biased):
    scale, shift, weight, bias = parameters(64, 96)
    if not biased:
        bias = np.zeros_like(bias)
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(11, 64)) * 5 + 40)
    tensors = [torch.from_numpy(one) for one in (scale, shift, weight)]
    folded = fold_norm_linear(
        *tensors, torch.from_numpy(bias) if biased else None, epsilon=1e-6, dtype=torch.float64
    )
    mean, sd = x.mean(1, keepdim=True), (x.var(1, correction=0, keepdim=True) + 1e-6).sqrt()
    found = (x @ folded.weight.T - mean * folded.slope) / sd + folded.bias
    expected = naive(x.numpy(), scale, shift, weight, bias, 1e-6, gelu=False)
    # slope and bias are float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_plans_cover_all_features_and_outputs(capability):
    for dim in range(64, 769, 64):
        plan = plan_norm_linear(dim=dim, capability=capability)
        assert dim % plan["DEPTH"] == 0 == 64 % plan["COLUMNS"]


@pytest.mark.parametrize(
    ("n_rows", "span"),
    [
        (50_432, 1152),  # 394 programs on 132 processors: three turns, which more cannot shorten
        (6_304, 576),  # 50 blocks of rows: 100 programs in one turn
        (1_000, 128),  # 8 blocks: 72 programs in one turn; up to 16 a block would not do with less
        (1, 64),
    ],
)
def test_outputs_are_shared_out_where_processors_would_idle(n_rows, span):
    """132 processors of an H100, blocks of 128 rows, 1152 outputs, 64 at a time."""
    found = outputs_a_program(n_rows=n_rows, n_outputs=1152, rows=128, columns=64, processors=132)
    assert found == span
