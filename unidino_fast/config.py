"""Settings of an embedding run: validated once, frozen, and part of every result's provenance."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unidino_fast.choices import Intensity
from unidino_fast.errors import UsageError

MOST_PIXELS = 1_000_000
"""Largest tile or stride that can be meant."""
_RULES = {
    "intensity": f"use {', '.join(get_args(Intensity))}",
    "tile": "use a positive number of pixels",
    "stride": "use a positive number of pixels",
    "z": "use max, mean or the number of a plane, from 0",
}


class EmbedOptions(BaseModel):
    """What decides the numbers of an embedding, given plate and backbone.

    Attributes:
        intensity: `dtype` divides by the maximum of the stored dtype; `percentile` stretches each
            channel of each field from its 0.1 to its 99.9 percentile; `none` leaves pixels as
            stored.
        tile: edge of the square tiles in pixels.
        stride: step between tiles in pixels; the tile's edge by default.
        keep_empty: embed tiles without signal too.
        channels: labels to embed; their features stand in the plate's order. None for all.
        z: `max` or `mean` projection, or the index of one plane.
        acquisition: only fields of this acquisition.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    intensity: Intensity = "dtype"
    tile: Annotated[int, Field(ge=1, le=MOST_PIXELS)] = 224
    stride: Annotated[int, Field(ge=1, le=MOST_PIXELS)] | None = None
    keep_empty: bool = False
    channels: tuple[str, ...] | None = None
    z: Literal["max", "mean"] | Annotated[int, Field(ge=0)] = "max"
    acquisition: int | None = None

    @property
    def step(self) -> int:
        """Stride in pixels, with its default resolved."""
        return self.tile if self.stride is None else self.stride


def embed_options(**values: Any) -> EmbedOptions:
    """EmbedOptions of keyword values.

    Raises:
        UsageError: a value is out of range; says which and what is allowed.
    """
    try:
        return EmbedOptions(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        rule = _RULES.get(name, first["msg"])
        raise UsageError(f"{name} {values.get(name)!r} is not allowed: {rule}") from None
