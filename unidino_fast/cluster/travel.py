"""A backbone as it travels: its weights alone, in containers that torch knows.

A timm module would have each worker import timm, and with it torchvision and sympy: seconds and
hundreds of megabytes for classes whose `forward` the inference graph never calls.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from unidino_fast.engines.spec import ModelSpec


def for_travel(spec: ModelSpec) -> ModelSpec:
    """The spec with its backbone in plain containers: enough for `InferenceGraph`, not callable."""
    plain = plain_module(spec.backbone.module)
    return replace(spec, backbone=replace(spec.backbone, module=plain))


def plain_module(module: nn.Module) -> nn.Module:
    """The same layers and parameters, shared and under the same names, in torch's own classes.

    Layers of `torch.nn` stay as they are. Of others there remain parameters, buffers, layers
    within, and the number of attention heads, which no shape tells.
    """
    of_torch = type(module).__module__.startswith("torch.nn.")
    if of_torch and not any(True for _ in module.children()):
        return module
    plain = nn.ModuleList() if isinstance(module, (nn.Sequential, nn.ModuleList)) else nn.Module()
    for name, parameter in module.named_parameters(recurse=False):
        plain.register_parameter(name, parameter)
    for name, buffer in module.named_buffers(recurse=False):
        plain.register_buffer(name, buffer)
    for name, layer in module.named_children():
        plain.add_module(name, plain_module(layer))
    if hasattr(module, "num_heads"):
        plain.num_heads = module.num_heads
    return plain.train(module.training)
