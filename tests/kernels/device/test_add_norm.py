import pytest
import torch

from unidino_fast.kernels import add_norm, add_norm_reference
from unidino_fast.kernels.add_norm import STREAM_DTYPES


def inputs(n_rows, dim, stream, branch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(2, n_rows, dim, generator=generator)
    weight, bias = torch.randn(2, dim, generator=generator)
    return rows[0].to(stream), rows[1].to(branch), weight, bias


@pytest.mark.parametrize("branch", STREAM_DTYPES, ids=str)
@pytest.mark.parametrize("stream", STREAM_DTYPES, ids=str)
@pytest.mark.parametrize(
    ("n_rows", "dim"), [(1, 1), (5, 64), (3, 101), (9, 192), (7, 384), (2, 1536)]
)
def test_reference(n_rows, dim, stream, branch, device, cast):
    given = inputs(n_rows, dim, stream, branch)
    sums, rest = given[0].clone(), given[1:]
    wide = add_norm_reference(sums.float(), rest[0].float(), *rest[1:], 1e-6)
    found_sums = given[0].clone().to(device)
    found = add_norm(found_sums, *(one.to(device) for one in rest), 1e-6)
    expected = cast(given[0].float() + rest[0].float(), stream)
    assert torch.equal(found_sums.cpu(), expected)
    assert found.dtype == branch
    # another order of summation, then one rounding to the branch's dtype (two where it is cut off)
    torch.testing.assert_close(
        found.cpu().float(), wide, rtol=2 * torch.finfo(branch).eps, atol=3e-6
    )


def test_rows_do_not_depend_on_those_beside(device):
    stream, branch, weight, bias = (
        one.to(device) for one in inputs(13, 96, torch.float16, torch.float16)
    )
    together = add_norm(stream.clone(), branch, weight, bias, 1e-6)
    for row in range(13):
        own = slice(row, row + 1)
        assert torch.equal(
            add_norm(stream[own].clone(), branch[own], weight, bias, 1e-6), together[own]
        )


def test_a_large_mean_does_not_swallow_the_variance(device):
    """The mean is taken off before squares are summed."""
    stream = (torch.tensor([[4096.0, 4097.0, 4098.0, 4099.0]])).to(device)
    normed = add_norm(
        stream, torch.zeros_like(stream), torch.ones(4).to(device), torch.zeros(4).to(device), 1e-12
    )
    wanted = torch.tensor([[-1.5, -0.5, 0.5, 1.5]]) / 1.25**0.5
    torch.testing.assert_close(normed.cpu(), wanted)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of the interpreter
def test_infinite_sums_are_not_hidden(device):
    """So that an overflow of float16 is found in the features."""
    stream = torch.full((1, 8), 6e4).half().to(device)
    normed = add_norm(
        stream, stream.clone(), torch.ones(8).to(device), torch.zeros(8).to(device), 1e-6
    )
    assert bool(torch.isinf(stream).all())
    stream[0, 1:] = 0
    again = add_norm(
        stream, torch.zeros_like(stream), torch.ones(8).to(device), torch.zeros(8).to(device), 1e-6
    )
    assert bool(torch.isnan(again).any())
    assert normed.shape == (1, 8)


def test_no_rows(device):
    stream, branch, weight, bias = (
        one.to(device) for one in inputs(0, 4, torch.float32, torch.float16)
    )
    assert add_norm(stream, branch, weight, bias, 1e-6).shape == (0, 4)


def test_what_does_not_fit_is_refused(device):
    stream, branch, weight, bias = (
        one.to(device) for one in inputs(3, 4, torch.float32, torch.float16)
    )
    with pytest.raises(TypeError, match="no kernel adds"):
        add_norm(stream, branch.double(), weight, bias, 1e-6)
    with pytest.raises(TypeError, match="give float32"):
        add_norm(stream, branch, weight.half(), bias, 1e-6)
    with pytest.raises(ValueError, match=r"of \(3, 4\), \(2, 4\), \(4,\), \(4,\): give"):
        add_norm(stream, branch[:2], weight, bias, 1e-6)
    with pytest.raises(ValueError, match="not contiguous"):
        add_norm(stream.T.contiguous().T, branch, weight, bias, 1e-6)
