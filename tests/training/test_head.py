"""The projection head against numpy and against torch's own weight norm."""

from __future__ import annotations

import math

import numpy as np
import torch

from unidino_fast.training.head import DinoHead, Prototypes


def test_head_by_numpy() -> None:
    torch.manual_seed(0)
    head = DinoHead(6, 9, 4, 11)
    x = torch.randn(5, 6)
    weights = {name: tensor.numpy().astype(float) for name, tensor in head.state_dict().items()}
    h = x.numpy().astype(float)
    for layer in (0, 2, 4):
        h = h @ weights[f"mlp.{layer}.weight"].T + weights[f"mlp.{layer}.bias"]
        if layer < 4:
            h = h * 0.5 * (1 + np.vectorize(math.erf)(h / math.sqrt(2)))
    h /= np.linalg.norm(h, axis=1, keepdims=True)
    last = weights["last_layer.weight"]
    wanted = h @ (last / np.linalg.norm(last, axis=1, keepdims=True)).T
    np.testing.assert_allclose(head(x).detach().numpy(), wanted, atol=1e-5)
    assert float(head(x).detach().abs().max()) <= 1 + 1e-6  # cosines


def test_prototypes_are_a_weight_normed_layer() -> None:
    torch.manual_seed(0)
    ours = Prototypes(7, 12)
    plain = torch.nn.Linear(7, 12, bias=False)
    plain.weight.data.copy_(ours.weight.data)
    theirs = torch.nn.utils.parametrizations.weight_norm(plain)
    theirs.parametrizations.weight.original0.data.fill_(1.0)
    x = torch.randn(4, 7)
    torch.testing.assert_close(ours(x), theirs(x))
    ours(x).square().sum().backward()
    theirs(x).square().sum().backward()
    torch.testing.assert_close(ours.weight.grad, theirs.parametrizations.weight.original1.grad)
