"""The masked autoencoder (He et al. 2022) as a method of the loop.

B images of s x s pixels, T patches of p x p, of which T' are seen; D features.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from unidino_fast.training.augment import ViewGroup
from unidino_fast.training.masks import RandomMasks
from unidino_fast.training.method import Outcome
from unidino_fast.training.networks import new_student, vit_shape
from unidino_fast.training.tokens import encode, patch_tokens, positions

if TYPE_CHECKING:
    from unidino_fast.training.config import TrainConfig
    from unidino_fast.training.data import Batch
    from unidino_fast.training.processes import Processes
    from unidino_fast.training.schedules import Clock
    from unidino_fast.training.sections import MaeConfig

_VARIANCE_FLOOR = 1e-6  # as released


class Mae:
    """The encoder sees a quarter of the patches, and a light decoder draws the rest from them.

    The class token goes through encoder and decoder with the patches, as in the released code: it
    has no loss of its own, and learns as far as the decoder draws on it.

    Args:
        config: of the run.
        clock: of the run.
        processes: of the run.
    """

    def __init__(self, config: TrainConfig, clock: Clock, processes: Processes) -> None:
        self._normalise = config.mae.normalise_targets
        self._patch = config.model.patch
        grid = config.views.global_size // config.model.patch
        masks = RandomMasks(grid, config.mae.seen(grid))
        self.groups: tuple[ViewGroup, ...] = (ViewGroup(1, config.views.global_size, masks),)
        encoder = new_student(vit_shape(config), config.model.drop_path)
        self._encoder = encoder
        made = MaskedAutoencoder(encoder, config.mae, grid, config.model.patch, masks.n_seen)
        self.trained: nn.Module = made.to(processes.device)

    def losses(self, trained: nn.Module, batch: Batch, step: int) -> Outcome:
        """Each image's mean squared error over the pixels of its hidden patches."""
        images = batch.views()[0][0]  # (B, s, s)
        hidden = batch.masks[0][:, 0]  # (B, T)
        features, drawn = trained(images[:, None], hidden)
        wanted = patch_targets(images, self._patch, normalise=self._normalise)
        errors = (drawn.float() - wanted).square().mean(-1)  # (B, T)
        losses = (errors * hidden).sum(1) / hidden.sum(1)
        return Outcome(losses=losses, features=features.detach())

    def before_update(self, step: int) -> None:
        """Nothing is to be done."""

    def after_update(self, step: int, processes: Processes) -> None:
        """Nothing is to be done."""

    def settings(self, step: int) -> dict[str, float]:
        """Has no schedule of its own."""
        return {}

    def signs(self) -> dict[str, float]:
        """None of its own."""
        return {}

    def exported(self) -> nn.Module:
        """The encoder: there is no teacher."""
        return self._encoder

    def state_dict(self) -> dict[str, Any]:
        """Encoder and decoder."""
        return {"student": self.trained.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes them over."""
        self.trained.load_state_dict(state["student"])


class MaskedAutoencoder(nn.Module):
    """Encoder and decoder, with sine-cosine positions that are not trained.

    Weights are drawn as in the released code.

    Args:
        encoder: from `networks.new_student`.
        settings: of the decoder.
        grid: patches along an image's edge.
        patch: p.
        n_seen: T'.
    """

    positions: Tensor

    def __init__(
        self, encoder: Any, settings: MaeConfig, grid: int, patch: int, n_seen: int
    ) -> None:
        from timm.models.vision_transformer import Block  # seconds, needed here alone

        super().__init__()
        self._n_seen = n_seen
        width = settings.decoder_dim
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.encoder = encoder
        self.enter = nn.Linear(encoder.embed_dim, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        blocks = [
            Block(width, settings.decoder_heads, qkv_bias=True, norm_layer=norm)
            for _ in range(settings.decoder_depth)
        ]
        self.blocks = nn.Sequential(*blocks)
        self.norm = norm(width)
        self.draw = nn.Linear(width, patch * patch)
        self.register_buffer("positions", sine_cosine(grid, width), persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        with torch.no_grad():
            nn.init.xavier_uniform_(encoder.patch_embed.proj.weight.flatten(1))
            nn.init.normal_(encoder.cls_token, std=0.02)
            nn.init.normal_(self.mask_token, std=0.02)
            encoder.pos_embed.zero_()
            encoder.pos_embed[0, 1:] = sine_cosine(grid, encoder.embed_dim)
        encoder.pos_embed.requires_grad_(requires_grad=False)

    def forward(self, images: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The class token of what is seen, and all patches as they are drawn from it.

        Args:
            images: (B, 1, s, s).
            hidden: (B, T) bool, with T' patches seen in each image.

        Returns:
            (B, D), and (B, T, p * p).
        """
        seen = hidden.to(torch.uint8).argsort(dim=1, stable=True)[:, : self._n_seen, None]
        tokens = patch_tokens(self.encoder, images) + positions(self.encoder)
        tokens = tokens.gather(1, seen.expand(-1, -1, tokens.shape[2]))
        encoded = encode(self.encoder, tokens)
        x = self.enter(encoded)
        canvas = self.mask_token.to(x.dtype).expand(len(x), hidden.shape[1], -1)
        canvas = canvas.scatter(1, seen.expand(-1, -1, x.shape[2]), x[:, 1:])
        # the class token's own position is zero
        x = torch.cat([x[:, :1], canvas + self.positions], dim=1)
        x = self.norm(self.blocks(x))
        return encoded[:, 0], self.draw(x[:, 1:])


def patch_targets(images: Tensor, patch: int, *, normalise: bool) -> Tensor:
    """Pixels (B, T, p * p) of each patch of images (B, s, s).

    Normalised, each patch has its mean taken off and is divided by its standard deviation (with
    n - 1, and 1e-6 added to the variance, as released).
    """
    n, size = len(images), images.shape[1]
    cut = images.reshape(n, size // patch, patch, size // patch, patch).transpose(2, 3)
    pixels = cut.reshape(n, -1, patch * patch)
    if not normalise:
        return pixels
    mean, variance = pixels.mean(-1, keepdim=True), pixels.var(-1, keepdim=True)
    return (pixels - mean) / (variance + _VARIANCE_FLOOR).sqrt()


def sine_cosine(grid: int, dim: int) -> Tensor:
    """Fixed positions (grid * grid, dim): a quarter each of sine and cosine of x, then of y.

    The frequencies fall from 1 to nearly 1/10000 in equal ratios, as released.
    """
    frequencies = torch.exp(
        -math.log(10_000) * torch.arange(dim // 4, dtype=torch.float64) * 4 / dim
    )
    y, x = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    angles = [along.flatten()[:, None] * frequencies for along in (x, y)]
    parts = [wave for angle in angles for wave in (angle.sin(), angle.cos())]
    return torch.cat(parts, dim=1).float()
