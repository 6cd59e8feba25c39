"""The projection head of DINO: a three-layer MLP, L2 norm, and a weight-normed last layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Prototypes(nn.Module):
    """A linear layer without bias whose rows are used at unit length.

    It is the weight-normed last layer of DINO with its gains fixed at 1.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_out, n_in))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)  # as torch's Linear, which DINO leaves

    def forward(self, x: Tensor) -> Tensor:
        """Products (B, n_out) of rows (B, n_in) with the normalised weights."""
        return functional.linear(x, functional.normalize(self.weight, dim=1))


class DinoHead(nn.Module):
    """Features (B, D) -> outputs (B, K).

    Args:
        n_in: D.
        n_hidden: width of the MLP.
        n_bottleneck: its output, which is brought to unit length.
        n_out: K.
    """

    def __init__(self, n_in: int, n_hidden: int, n_bottleneck: int, n_out: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(n_in, n_hidden),
            nn.GELU(),
            nn.Linear(n_hidden, n_hidden),
            nn.GELU(),
            nn.Linear(n_hidden, n_bottleneck),
        )
        self.last_layer = Prototypes(n_bottleneck, n_out)
        for module in self.mlp:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (B, K) of features (B, D)."""
        bottleneck: Tensor = self.mlp(x)
        outputs: Tensor = self.last_layer(functional.normalize(bottleneck.float(), dim=-1))
        return outputs
