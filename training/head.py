"""Projection heads: DINO's, which ends in prototypes, and the small one of contrastive methods."""

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
    """Features (B, D) -> outputs (B, K): a three-layer MLP, L2 norm, a weight-normed last layer.

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
        outputs: Tensor = self.last_layer(self.bottleneck(x))
        return outputs

    def bottleneck(self, x: Tensor) -> Tensor:
        """What the last layer takes, of unit length, of features (B, D)."""
        return functional.normalize(self.mlp(x).float(), dim=-1)


class ContrastiveHead(nn.Module):
    """Features (B, D) -> embeddings (B, E) by a layer of ReLU between two linear ones.

    It is the head of SimCLR (Chen et al. 2020) as its formula has it, without batch norm.

    Args:
        n_in: D.
        n_hidden: width of the layer between.
        n_out: E.
    """

    def __init__(self, n_in: int, n_hidden: int, n_out: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(n_in, n_hidden), nn.ReLU(), nn.Linear(n_hidden, n_out))

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings (B, E), of any length, of features (B, D)."""
        embeddings: Tensor = self.mlp(x)
        return embeddings
