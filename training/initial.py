"""Weights that a run begins with, in place of random ones."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from unidino_fast.backbones import Backbone, open_backbone
from unidino_fast.backbones.vit import infer_shape, vit_heads
from unidino_fast.errors import UsageError
from unidino_fast.training.lora import ADAPTERS
from unidino_fast.training.networks import vit_shape

if TYPE_CHECKING:
    from unidino_fast.training.config import TrainConfig
    from unidino_fast.training.method import Method

_SETTINGS = {
    "dim": "model.dim",
    "depth": "model.depth",
    "heads": "model.heads",
    "mlp_dim": "model.dim times model.mlp_ratio",
    "patch_size": "model.patch",
}


def open_initial(config: TrainConfig) -> Backbone | None:
    """The backbone of `init`, for the run's tiles; None where the run begins afresh.

    Raises:
        WeightsError: it cannot be loaded, strictly, as everywhere.
        UsageError: it is of another architecture than the configuration's model.
    """
    if config.init is None:
        return None
    backbone = open_backbone(config.init)
    if backbone.in_chans != 1 or backbone.input_norm != "identity":
        raise UsageError(
            f"init {backbone.name} takes {backbone.in_chans} channels, input {backbone.input_norm}:"
            " training needs one channel of pixels from 0 to 1, choose other weights"
        )
    held = infer_shape(
        backbone.module.state_dict(), backbone.name, heads=vit_heads(backbone.module)
    )
    if held.n_registers:
        raise UsageError(
            f"init {backbone.name} has {held.n_registers} registers, which training does not make:"
            " choose other weights"
        )
    wanted = vit_shape(config)
    for field in fields(wanted):
        if field.name == "image_size":
            continue  # the position embedding is resampled
        own, asked = getattr(held, field.name), getattr(wanted, field.name)
        if own != asked:
            name = _SETTINGS.get(field.name, field.name)
            raise UsageError(
                f"init {backbone.name} has {field.name} {own}, the configuration {asked}: set"
                f" {name} to {own}, or choose other weights"
            )
    return backbone.with_tile(wanted.image_size)


def begin_with(method: Method, backbone: Backbone) -> None:
    """Puts the weights into all of a method's backbones; heads and adapters stay as drawn."""
    from timm.models.vision_transformer import VisionTransformer

    state = backbone.module.state_dict()
    for network in (method.trained, method.exported()):
        for module in network.modules():
            if isinstance(module, VisionTransformer):
                lacking = module.load_state_dict(state, strict=False)
                absent = [name for name in lacking.missing_keys if not name.endswith(ADAPTERS)]
                if absent or lacking.unexpected_keys:  # `open_initial` has compared the shapes
                    raise RuntimeError(f"not loaded: {absent}, {lacking.unexpected_keys}")
