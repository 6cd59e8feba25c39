import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from unidino_fast.kernels import attention_reference
from unidino_fast.kernels.attention import MAX_TOKENS, plan_attention, rest_of_keys

CAPABILITIES = [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)]


def packed(n_tiles, tokens, heads, head_dim, seed=0):
    shape = (n_tiles, tokens, 3 * heads * head_dim)
    return np.random.default_rng(seed).normal(size=shape) * 2


def naive(qkv, heads):
    """One tile, head and query after another, in float64."""
    n_tiles, tokens, width = qkv.shape
    dim = width // 3
    size = dim // heads
    found = np.zeros((n_tiles, tokens, dim))
    for tile in range(n_tiles):
        for head in range(heads):
            columns = slice(head * size, (head + 1) * size)
            q, k, v = (qkv[tile, :, part * dim :][:, columns] for part in range(3))
            for token in range(tokens):
                scores = [float(q[token] @ key) / math.sqrt(size) for key in k]
                weights = [math.exp(score - max(scores)) for score in scores]
                for weight, value in zip(weights, v, strict=True):
                    found[tile, token, columns] += weight / sum(weights) * value
    return found


@pytest.mark.parametrize(
    ("n_tiles", "tokens", "heads", "head_dim"), [(1, 1, 1, 2), (2, 7, 3, 5), (1, 13, 2, 32)]
)
def test_naive_queries(n_tiles, tokens, heads, head_dim):
    qkv = packed(n_tiles, tokens, heads, head_dim)
    found = attention_reference(torch.from_numpy(qkv).float(), heads).numpy()
    np.testing.assert_allclose(found, naive(qkv, heads), rtol=1e-5, atol=1e-5)


def test_reference_is_torchs():
    qkv = torch.from_numpy(packed(2, 9, 3, 32)).float()
    q, k, v = qkv.view(2, 9, 3, 3, 32).permute(2, 0, 3, 1, 4)
    wanted = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention_reference(qkv, 3), wanted)


def test_reference_is_timms():
    from timm.layers import Attention

    torch.manual_seed(0)
    layer, x = Attention(64, num_heads=2, qkv_bias=True), torch.randn(2, 11, 64)
    with torch.no_grad():
        found = layer.proj(attention_reference(layer.qkv(x), 2))
        torch.testing.assert_close(found, layer(x))


@pytest.mark.parametrize("keys", [32, 64])
def test_every_key_is_taken_once(keys):
    for tokens in range(1, MAX_TOKENS + 1):
        first = tokens // keys * keys
        for start, number in rest_of_keys(tokens, keys):
            assert start == first
            assert start < tokens  # none of nothing but masked keys: their largest would be -inf
            assert number >= 16  # least depth of a product on tensor cores
            assert number.bit_count() == 1
            first += number
        assert tokens <= first < tokens + 16


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("head_dim", [32, 64])
def test_plans_hold_the_tokens(head_dim, capability):
    plan = plan_attention(tokens=197, heads=6, head_dim=head_dim, capability=capability)
    assert plan["REST"] == ((192, 16),)
    assert plan["QUERIES"] >= 64  # a row of each product for 16 lanes of each of four warps
