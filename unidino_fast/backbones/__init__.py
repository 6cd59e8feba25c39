"""Backbones: weights of many layouts in, one plain single-channel ViT out.

`open_backbone` takes a file or a name, reads it without running any code in it, recognises its
layout, loads it strictly into timm's VisionTransformer, and says what it dropped and assumed.
"""

from unidino_fast.backbones.backbone import Backbone, InputNorm
from unidino_fast.backbones.opening import NormChoice, open_backbone
from unidino_fast.backbones.saving import save_backbone

__all__ = ["Backbone", "InputNorm", "NormChoice", "open_backbone", "save_backbone"]
