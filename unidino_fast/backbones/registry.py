"""Names and origins of weights that this package knows, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unidino_fast.backbones.backbone import InputNorm

NAMES = {
    "dino-vits16": "timm:vit_small_patch16_224.dino",
    "dino-vits8": "timm:vit_small_patch8_224.dino",
    "dino-vitb16": "timm:vit_base_patch16_224.dino",
    "dino-vitb8": "timm:vit_base_patch8_224.dino",
    "morphem": "hf:CaicedoLab/MorphEm",
}

FORMS = (
    "a file, FILE#student, FILE#teacher, timm:NAME, hf:REPO[@REVISION][:FILENAME], "
    f"random[:SEED], default, {', '.join(NAMES)}"
)


@dataclass(frozen=True)
class Origin:
    """What a repository's files do not say about themselves."""

    family: str
    input_norm: InputNorm
    licence: str


ORIGINS = {"caicedolab/morphem": Origin("morphem", "per_tile", "MIT")}  # keys in lower case
