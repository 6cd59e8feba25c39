import numpy as np
import pytest
import torch

from unidino_fast import ops
from unidino_fast.kernels import add_norm_reference


def test_a_branch_is_added_and_the_sums_are_normalised():
    rng = np.random.default_rng(0)
    stream, branch = rng.normal(3, 2, (2, 5, 7))
    weight, bias = rng.normal(size=(2, 7))
    sums = torch.from_numpy(stream).float()
    found = add_norm_reference(
        sums, *(torch.from_numpy(one).float() for one in (branch, weight, bias)), 0.25
    )
    for row in range(5):
        together = [stream[row, column] + branch[row, column] for column in range(7)]
        mean = sum(together) / 7
        variance = sum((one - mean) ** 2 for one in together) / 7
        for column, one in enumerate(together):
            wanted = (one - mean) / (variance + 0.25) ** 0.5 * weight[column] + bias[column]
            assert found[row, column].item() == pytest.approx(wanted, abs=1e-5)
            assert sums[row, column].item() == pytest.approx(one, abs=1e-6)


def test_what_is_normalised_is_not_rounded_before():
    """2049 has 12 bits: float16 keeps 2048 of it."""
    stream = torch.tensor([[2048.0, 0.0]], dtype=torch.float16)
    branch = torch.tensor([[1.0, 2049.0]])
    normed = ops.add_norm(stream, branch, torch.ones(2), torch.zeros(2), 1e-6)
    assert stream.tolist() == [[2048.0, 2048.0]]
    assert normed.tolist() == [[0.0, 0.0]]
    normed = ops.add_norm(
        stream, branch * 0 + torch.tensor([[0.5, 0.0]]), torch.ones(2), torch.zeros(2), 1e-6
    )
    assert normed[0, 0] > 0.99
