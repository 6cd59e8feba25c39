"""The kernel against the reference; bfloat16 on CUDA alone: the interpreter multiplies none."""

import os
import sys

import pytest
import torch

from unidino_fast.kernels import attention, attention_reference

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DTYPES = [torch.float16] if INTERPRETED else [torch.float16, torch.bfloat16]
HALF = torch.float16
TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""Of the largest error to the largest value: four units in the last place. Shares are rounded to
the dtype before they are summed over the tokens, the result once more."""


def packed(n_tiles, tokens, heads, head_dim, dtype=HALF, seed=0):
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(n_tiles, tokens, 3 * heads * head_dim, generator=generator)
    return (qkv * 1.5).to(dtype)


def check(qkv, heads, device):
    found = attention(qkv.to(device), heads)
    assert found.dtype == qkv.dtype
    assert found.is_contiguous()
    wanted = attention_reference(qkv.double(), heads)
    error = (found.cpu().double() - wanted).abs().max() / wanted.abs().max()
    assert float(error) <= TOLERANCE[qkv.dtype]
    return found


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("n_tiles", "tokens", "heads", "head_dim"),
    [
        (1, 1, 1, 32),
        (2, 5, 3, 64),
        (1, 16, 1, 64),
        (2, 31, 2, 32),
        (1, 64, 2, 32),
        (3, 101, 1, 64),
        (1, 257, 1, 32),
    ],
)
def test_reference(n_tiles, tokens, heads, head_dim, dtype, device):
    check(packed(n_tiles, tokens, heads, head_dim, dtype), heads, device)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_tile_of_the_network(dtype, device):
    check(packed(1, 197, 6, 64, dtype), 6, device)


if INTERPRETED:  # a GPU may lack the memory for what others run

    @pytest.mark.parametrize("tokens", [5, 131])
    def test_shapes_of_an_h100(tokens, device, monkeypatch):
        module = sys.modules[attention.__module__]
        plan = module.plan_attention
        shapes = lambda **sizes: plan(**(sizes | {"capability": (9, 0)}))  # noqa: E731
        monkeypatch.setattr(module, "plan_attention", shapes)
        check(packed(1, tokens, 2, 64), 2, device)


def test_large_scores_do_not_overflow(device):
    """Scores of some thousands: without the largest taken away their powers would be infinite."""
    qkv = packed(1, 70, 1, 64) * 20
    check(qkv, 1, device)


def test_scores_far_below_zero_do_not_vanish(device):
    """The largest of each query is about -170: taken from zero, all powers would be zero."""
    qkv = packed(1, 70, 1, 32)
    qkv[:, :, :32], qkv[:, :, 32:64] = -1.0, qkv[:, :, 32:64] * 0.1 + 30
    check(qkv, 1, device)


@pytest.mark.parametrize("place", [0, 40, 69])
def test_one_key_outweighs_all(place, device):
    """Wherever it stands: what was summed before it fades to nothing."""
    qkv = packed(1, 70, 1, 32)
    qkv[:, :, :32] = 1.0
    qkv[:, place, 32:64] = 30.0
    found = check(qkv, 1, device)
    assert torch.equal(found.cpu(), qkv[:, place, 64:].expand(1, 70, 32))


def test_a_view_is_read_in_place(device):
    qkv = packed(4, 40, 2, 32)
    view = qkv.to(device)[1::2, 3:36]
    assert torch.equal(attention(view, 2), attention(view.contiguous(), 2))
    shifted = qkv.to(device)[:, :, 5:101]
    assert torch.equal(attention(shifted, 1), attention(shifted.contiguous(), 1))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy, interpreted, of what is NaN
def test_tiles_do_not_see_each_other(device):
    qkv = packed(3, 37, 1, 64)
    together = attention(qkv.to(device), 1)
    spoilt = qkv.clone()
    spoilt[0], spoilt[2] = float("nan"), float("inf")
    assert torch.equal(attention(spoilt.to(device), 1)[1], together[1])
    assert torch.equal(attention(qkv[1:2].to(device), 1)[0], together[1])


def test_no_tiles(device):
    assert attention(torch.empty((0, 7, 192), dtype=HALF, device=device), 1).shape == (0, 7, 64)


@pytest.mark.parametrize(
    ("qkv", "heads", "error", "message"),
    [
        (torch.zeros(1, 2, 192), 1, TypeError, "no kernel attends in torch.float32"),
        (torch.zeros(1, 2, 192, dtype=HALF), 4, ValueError, "192 features do not fit 4 heads"),
        (torch.zeros(1, 2, 192, dtype=HALF), 5, ValueError, "do not fit 5 heads"),
        (torch.zeros(1, 2, 192, dtype=HALF), 0, ValueError, "do not fit 0 heads"),
        (torch.zeros(1, 1025, 96, dtype=HALF), 1, ValueError, "1025 tokens .* give 1 to 1024"),
        (torch.zeros(1, 0, 96, dtype=HALF), 1, ValueError, "0 tokens"),
        (torch.zeros(1, 96, 2, dtype=HALF).mT, 1, ValueError, "not adjacent"),
    ],
)
def test_what_does_not_fit_is_refused(qkv, heads, error, message, device):
    with pytest.raises(error, match=message):
        attention(qkv.to(device), heads)
