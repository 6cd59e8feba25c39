"""Oracles: timm's own ViTs with every parameter random, called directly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import pytest
import timm
import torch

from unidino_fast.backbones import NormChoice, open_backbone
from unidino_fast.errors import UnidinoError, WeightsError

if TYPE_CHECKING:
    from pathlib import Path


class MakeVit(Protocol):
    def __call__(self, in_chans: int = 1, seed: int = 0, **changes: Any) -> Any: ...


class Refuse(Protocol):
    def __call__(
        self,
        weights: str | Path,
        error: type[UnidinoError] = WeightsError,
        *,
        input_norm: NormChoice = "auto",
    ) -> str: ...


@pytest.fixture
def make_vit() -> MakeVit:
    """Small ViTs of timm's; all parameters random, so that none can be missed."""

    def make(in_chans: int = 1, seed: int = 0, **changes: Any) -> Any:
        size: dict[str, Any] = {"embed_dim": 128, "depth": 2, "num_heads": 2, "img_size": 64}
        options = {**size, "num_classes": 0, **changes}
        vit: Any = timm.create_model(
            "vit_small_patch16_224", pretrained=False, in_chans=in_chans, **options
        )
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in vit.parameters():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        return vit.eval().requires_grad_(False)

    return make


@pytest.fixture
def tiles() -> torch.Tensor:
    return torch.rand(3, 1, 64, 64, generator=torch.Generator().manual_seed(7))


@pytest.fixture
def refuse() -> Refuse:
    """Opens what must not open; gives the message, which must be one line that names it."""

    def check(
        weights: str | Path,
        error: type[UnidinoError] = WeightsError,
        *,
        input_norm: NormChoice = "auto",
    ) -> str:
        with pytest.raises(error) as caught:
            open_backbone(weights, input_norm=input_norm)
        message = str(caught.value)
        assert type(caught.value) is error
        assert len(message.splitlines()) == 1
        assert str(weights) in message
        return message

    return check
