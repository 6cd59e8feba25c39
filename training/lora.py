"""LoRA (Hu et al. 2021) as a method of the loop: adapters and a head learn labels of wells.

B images, D features, C channels, K labels, r rank.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from unidino_fast.backbones.vit import build_vit
from unidino_fast.training.augment import ViewGroup
from unidino_fast.training.method import Outcome
from unidino_fast.training.networks import new_student, vit_shape

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from unidino_fast.training.config import TrainConfig
    from unidino_fast.training.config_labels import LoraConfig
    from unidino_fast.training.data import Batch
    from unidino_fast.training.processes import Processes
    from unidino_fast.training.schedules import Clock
    from unidino_fast.training.wells import Labelled

ADAPTERS = ("lora_down", "lora_up")
"""What the names of adapters' weights end with."""


class AdaptedLinear(nn.Linear):
    """A linear layer that stays, and the product of two thin ones that learns beside it.

    `x W' + b + alpha / r * dropout(x) A' B'`; B begins at 0, so that nothing changes at first.
    """

    def __init__(self, layer: nn.Linear, config: LoraConfig) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None)
        self.load_state_dict(layer.state_dict())
        self.requires_grad_(False)
        self._scale = config.alpha / config.rank
        self._dropout = config.dropout
        self.lora_down = nn.Parameter(torch.empty(config.rank, layer.in_features))  # A
        self.lora_up = nn.Parameter(torch.zeros(layer.out_features, config.rank))  # B
        nn.init.kaiming_uniform_(self.lora_down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (..., n_out) of inputs (..., n_in)."""
        thin = functional.dropout(x, self._dropout, self.training) @ self.lora_down.T
        return super().forward(x) + self._scale * (thin @ self.lora_up.T)

    @torch.no_grad()
    def merged_weight(self) -> Tensor:
        """The weight (n_out, n_in) of the one linear layer that does the same."""
        return self.weight + self._scale * (self.lora_up @ self.lora_down)


def add_adapters(vit: Any, config: LoraConfig) -> None:
    """Freezes a ViT, and puts adapters on the products of its attention."""
    vit.requires_grad_(False)
    for block in vit.blocks:
        block.attn.qkv = AdaptedLinear(block.attn.qkv, config)
        block.attn.proj = AdaptedLinear(block.attn.proj, config)


def merged_state(vit: nn.Module) -> dict[str, Tensor]:
    """Weights of the plain ViT that does what the adapted one does."""
    state = {name: value for name, value in vit.state_dict().items() if not name.endswith(ADAPTERS)}
    for name, module in vit.named_modules():
        if isinstance(module, AdaptedLinear):
            state[f"{name}.weight"] = module.merged_weight()
    return state


class Classifier(nn.Module):
    """A backbone, and a linear layer from its features to labels for each channel."""

    def __init__(self, backbone: nn.Module, dim: int, n_channels: int, n_labels: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(dim, n_channels * n_labels)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self._shape = n_channels, n_labels

    def forward(self, images: Tensor, channels: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, s, s), numbers (B,) of their channels -> features (B, D), logits (B, K)."""
        features = self.backbone(images[:, None])
        logits = self.head(features).unflatten(1, self._shape)  # (B, C, K)
        rows = torch.arange(len(channels), device=channels.device)
        return features, logits[rows, channels]


class Lora:
    """Crops of labelled wells are told apart by label; each label weighs the same.

    Args:
        config: of the run.
        clock: of the run.
        device: where the networks go.
        labelled: what the batches' datasets are.
    """

    def __init__(
        self, config: TrainConfig, clock: Clock, device: torch.device, labelled: Labelled
    ) -> None:
        self.groups: tuple[ViewGroup, ...] = (ViewGroup(1, config.views.global_size),)
        self._shape = vit_shape(config)
        self.labelled = labelled
        backbone = new_student(self._shape, config.model.drop_path)
        add_adapters(backbone, config.lora)
        n_channels, n_labels = len(labelled.channels), len(labelled.labels)
        self._network = Classifier(backbone, config.model.dim, n_channels, n_labels).to(device)
        self.trained: nn.Module = self._network
        self.networks: tuple[nn.Module, ...] = (self._network,)
        self._label_of = torch.tensor(labelled.label_of, device=device)
        self._channel_of = torch.tensor(labelled.channel_of, device=device)
        self._told = torch.zeros(2, device=device)  # crops of this step told right, crops
        self._last = torch.zeros(2, device=device)  # the same of the last step

    def losses(self, trained: nn.Module, batch: Batch, step: int) -> Outcome:
        """Cross-entropy of each crop's logits with its label."""
        [views] = batch.views()
        labels = self._label_of[batch.dataset]
        features, logits = trained(views[0], self._channel_of[batch.dataset])
        right = (logits.detach().argmax(1) == labels).sum()
        self._told += torch.stack([right, torch.full_like(right, len(labels))])
        losses = functional.cross_entropy(logits.float(), labels, reduction="none")
        return Outcome(losses=losses, features=features.detach())

    def before_update(self, step: int) -> None:
        """Nothing to do."""

    def after_update(self, step: int, processes: Processes) -> None:
        """Sums what was told over processes."""
        self._last = processes.sum(self._told)
        self._told.zero_()

    def settings(self, step: int) -> dict[str, float]:
        """None beside the optimiser's."""
        return {}

    def signs(self) -> dict[str, float]:
        """Share of the last step's crops that were told."""
        right, count = self._last.tolist()
        return {"crop_accuracy": right / count if count else math.nan}

    def exported(self) -> nn.Module:
        """The backbone with its adapters merged into a plain ViT's weights."""
        vit = build_vit(self._shape)
        state = merged_state(self._network.backbone)
        vit.load_state_dict({name: value.cpu() for name, value in state.items()})
        return vit

    def head(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Weights (C, K, D) and biases (C, K) from a channel's features to logits."""
        shape = len(self.labelled.channels), len(self.labelled.labels)
        head = self._network.head
        weight, bias = head.weight.detach().cpu(), head.bias.detach().cpu()
        return weight.reshape(*shape, -1).numpy(), bias.reshape(shape).numpy()

    def state_dict(self) -> dict[str, Any]:
        """Backbone, adapters, head."""
        return {"network": self._network.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes them over."""
        self._network.load_state_dict(state["network"])
