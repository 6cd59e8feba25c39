"""Student and teacher: ViTs as `backbones` loads them, and the student's views of several sizes."""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unidino_fast.backbones.backbone import Backbone, freeze, state_digest
from unidino_fast.backbones.vit import VitShape, build_vit, new_vit, vit_heads
from unidino_fast.training.sharding import whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unidino_fast.training.config import TrainConfig


def vit_shape(config: TrainConfig) -> VitShape:
    """The backbone's architecture; its tiles are the global views, or as large as is asked for."""
    model = config.model
    return VitShape(
        dim=model.dim,
        depth=model.depth,
        heads=model.heads,
        mlp_dim=model.dim * model.mlp_ratio,
        patch_size=model.patch,
        in_chans=1,
        image_size=model.tile or config.views.global_size,
        qkv_bias=True,
    )


def new_student(shape: VitShape, drop_path: float) -> nn.Module:
    """A ViT with fresh weights (timm's, drawn from torch's generator) and stochastic depth.

    It takes images of any multiple of the patch: its position embedding is resampled to their
    grid as `Backbone.with_tile` does it (bicubic, antialiased).
    """
    return new_vit(shape, drop_path_rate=drop_path, dynamic_img_size=True)


def new_teacher(student: nn.Module) -> nn.Module:
    """A copy that takes no gradients; its weights follow by `follow`."""
    return freeze(copy.deepcopy(student))


class Projected(nn.Module):
    """A backbone and its head over groups of views, one group a size.

    Views of one size go through the backbone together, then all through the head together.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, groups: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Groups (V_i, B, s_i, s_i) -> features (V, B, D), outputs (V, B, K); V sums V_i."""
        features = [self.backbone(views.flatten(0, 1)[:, None]) for views in groups]
        flat = torch.cat(features)  # (V * B, D)
        outputs = self.head(flat)
        shape = -1, groups[0].shape[1]
        return flat.reshape(*shape, flat.shape[1]), outputs.reshape(*shape, outputs.shape[1])


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Moves the teacher's weights towards the student's: `m * teacher + (1 - m) * student`."""
    for own, other in zip(teacher.parameters(), student.parameters(), strict=True):
        own.lerp_(other, 1.0 - momentum)


def recompute(network: nn.Module) -> None:
    """Blocks keep their input alone, and compute the rest again on the way back, in place.

    Numbers stay the same to the bit, stochastic depth included. A third more work (Chen et al.
    2016, arXiv:1604.06174) for memory that hardly grows with what a block holds within.
    """
    from timm.models.vision_transformer import Block

    blocks: list[Any] = [module for module in network.modules() if isinstance(module, Block)]
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def compiled(network: nn.Module) -> nn.Module:
    """The network by torch.compile, whose state dict stays that of the network itself."""
    made: Any = torch.compile(network)
    module: nn.Module = made
    return module


def as_backbone(trained: Any, shape: VitShape, name: str, licence: str | None) -> Backbone:
    """Trained weights as the package's own backbone, on the CPU, loaded strictly."""
    module = build_vit(shape)
    module.load_state_dict(
        {key: whole(value.detach()).cpu() for key, value in trained.state_dict().items()}
    )
    return Backbone(
        module=module,
        dim=shape.dim,
        in_chans=1,
        patch_size=shape.patch_size,
        image_size=shape.image_size,
        input_norm="identity",
        name=name,
        family="unidino_fast",
        digest=state_digest(module.state_dict(), "identity", heads=vit_heads(module)),
        licence=licence,
    )
