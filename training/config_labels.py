"""Settings of what needs labelled wells: the probe while training, and fine-tuning by LoRA."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from unidino_fast.choices import Intensity


class ProbeConfig(BaseModel):
    """A labelled plate that the network is tried on while it learns; nothing is learnt from it.

    Attributes:
        plate: folder, zip or URL, relative to the TOML file, or by `--data probe=PATH`.
        platemap: table of what is in its wells, or by `--data probe.platemap=FILE`.
        label: column that a well and its nearest neighbour should share.
        every_epochs: epochs between two looks; the last epoch always ends with one.
        not_same: columns that a well and its neighbour may not share, such as the compound.
        intensity: as `embed --intensity`.
        channels: labels of the channels to embed; all by default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    plate: str | None = None
    platemap: str | None = None
    label: Annotated[str, Field(min_length=1)]
    every_epochs: Annotated[int, Field(ge=1)] = 5
    not_same: tuple[str, ...] = ()
    intensity: Intensity = "dtype"
    channels: tuple[str, ...] | None = None
