"""Parameter groups, rates and gradients."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from unidino_fast.training.optim import build_optimizer, clip_gradients, set_rates


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.ones(1, 1, 3))
        self.layer = nn.Linear(3, 2)
        self.norm = nn.LayerNorm(2)


def test_biases_and_norms_do_not_decay() -> None:
    toy = Toy()
    optimizer = build_optimizer(toy, torch.device("cpu"))
    before = {name: p.detach().clone() for name, p in toy.named_parameters()}
    with torch.no_grad():
        toy.layer.bias.fill_(2.0)
    before["layer.bias"] = toy.layer.bias.detach().clone()
    for parameter in toy.parameters():
        parameter.grad = torch.zeros_like(parameter)
    set_rates(optimizer, 0.1, 0.5)
    optimizer.step()
    for name, parameter in toy.named_parameters():
        decays = name in ("token", "layer.weight")
        # AdamW: without a gradient, what is left is p * (1 - lr * decay)
        wanted = before[name] * (1 - 0.1 * 0.5) if decays else before[name]
        torch.testing.assert_close(parameter.detach(), wanted)


def test_clipping_by_numpy() -> None:
    generator = np.random.default_rng(0)
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in ((3, 4), (5,), (2,))]
    gradients = [generator.normal(size=p.shape).astype(np.float32) for p in parameters[:2]]
    norm = np.sqrt(sum((g.astype(float) ** 2).sum() for g in gradients))
    for largest, factor in ((None, 1.0), (100.0, 1.0), (0.5, 0.5 / norm)):
        for parameter, gradient in zip(parameters, gradients, strict=False):
            parameter.grad = torch.from_numpy(gradient.copy())
        found = clip_gradients(iter(parameters), largest)  # as Module.parameters() gives them
        np.testing.assert_allclose(float(found), norm, rtol=1e-6)
        for parameter, gradient in zip(parameters, gradients, strict=False):
            assert parameter.grad is not None
            # torch divides by norm + 1e-6
            np.testing.assert_allclose(parameter.grad.numpy(), gradient * factor, rtol=1e-5)
    assert parameters[2].grad is None
