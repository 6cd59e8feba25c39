import math

import numpy as np
import pytest
import torch
from torch import nn

from unidino_fast.kernels import fold_mlp, mlp_reference
from unidino_fast.kernels.mlp import plan_mlp


def weights_of(dim, hidden, seed=0):
    """Scale and shift of the norm, weight and bias of fc1 and of fc2."""
    rng = np.random.default_rng(seed)
    return [
        1 + 0.3 * rng.normal(size=dim),
        0.3 * rng.normal(size=dim),
        rng.normal(size=(hidden, dim)) / dim**0.5,
        0.3 * rng.normal(size=hidden),
        rng.normal(size=(dim, hidden)) / hidden**0.5,
        0.3 * rng.normal(size=dim),
    ]


def naive(x, scale, shift, weight1, bias1, weight2, bias2, epsilon):
    """One row after another, in float64."""
    found = np.zeros(x.shape)
    for i, row in enumerate(x):
        normed = (row - row.mean()) / math.sqrt(row.var() + epsilon) * scale + shift
        hidden = [
            float(weight @ normed + bias) for weight, bias in zip(weight1, bias1, strict=True)
        ]
        active = np.array([0.5 * h * (1 + math.erf(h / math.sqrt(2))) for h in hidden])
        found[i] = row + weight2 @ active + bias2
    return found


@pytest.mark.parametrize(("n", "dim", "hidden"), [(1, 3, 5), (7, 64, 128), (5, 20, 3)])
def test_naive_rows(n, dim, hidden):
    weights = weights_of(dim, hidden)
    x = np.random.default_rng(n).normal(size=(n, dim)) * 3 + 1
    tensors = [torch.from_numpy(one).float() for one in (x, *weights)]
    found = mlp_reference(*tensors, epsilon=1e-6).numpy()
    np.testing.assert_allclose(found, naive(x, *weights, 1e-6), rtol=1e-5, atol=1e-5)


def test_reference_is_timms_block():
    from timm.layers import Mlp

    torch.manual_seed(0)
    norm, mlp, x = nn.LayerNorm(64, eps=1e-6), Mlp(64, 128), torch.randn(9, 64)
    parts = (norm.weight, norm.bias, mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias)
    with torch.no_grad():
        torch.testing.assert_close(mlp_reference(x, *parts, epsilon=1e-6), x + mlp(norm(x)))


def test_folded_weights_mean_the_same():
    weights = [torch.from_numpy(one) for one in weights_of(64, 96)]
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(11, 64)) * 5 + 40)
    folded = fold_mlp(*weights, epsilon=1e-6, dtype=torch.float64)
    mean, sd = x.mean(1, keepdim=True), (x.var(1, correction=0, keepdim=True) + 1e-6).sqrt()
    hidden = (x @ folded.weight1.T - mean * folded.slope) / sd + folded.bias1
    found = x + nn.functional.gelu(hidden) @ folded.weight2.T + folded.bias2
    expected = naive(x.numpy(), *(one.numpy() for one in weights), 1e-6)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)])
def test_plans_cover_all_features(capability):
    for dim in range(64, 385, 64):
        plan = plan_mlp(dim=dim, hidden=4 * dim, capability=capability)
        assert dim % plan["COLUMNS"] == 0 == 64 % plan["FEATURES"]
        assert plan["FEATURES"] >= 16  # least depth of a product on tensor cores
