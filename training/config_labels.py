"""Settings of what needs labelled wells: the probe while training, and fine-tuning by LoRA."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from unidino_fast.choices import Intensity  # noqa: TC001 (pydantic reads it when it runs)
from unidino_fast.training.sections import Above, MethodSection, Positive, Section

if TYPE_CHECKING:
    from unidino_fast.training.config import TrainConfig


class ProbeConfig(Section):
    """A labelled plate that the network is tried on while it learns; nothing is learnt from it.

    Attributes:
        plate: folder, zip or URL, relative to the TOML file, or by `--data probe=PATH`.
        platemap: table of what is in its wells, or by `--data probe.platemap=FILE`.
        label: column that a well and its nearest neighbour should share.
        every_epochs: epochs between two looks; the last epoch always ends with one.
        not_same: columns that a well and its neighbour may not share, such as the compound.
        intensity: as `embed --intensity`; by default that of all datasets trained on, `dtype` where
            they differ.
        channels: labels of the channels to embed; all by default.
    """

    plate: str | None = None
    platemap: str | None = None
    label: Annotated[str, Field(min_length=1)]
    every_epochs: Positive = 5
    not_same: tuple[str, ...] = ()
    intensity: Intensity | None = None
    channels: tuple[str, ...] | None = None

    def is_due(self, epoch: int, n_epochs: int) -> bool:
        """Whether the end of an epoch (from 0) is a time to look."""
        return (epoch + 1) % self.every_epochs == 0 or epoch + 1 == n_epochs


class LoraConfig(MethodSection):
    """Fine-tuning by low-rank adapters (Hu et al. 2021) on the labelled wells of plates.

    The adapters sit on the products of attention (`qkv` and `proj`); all other weights stay.

    Attributes:
        rank: of each adapter; 8 is usual.
        alpha: the adapters' product is scaled by alpha / rank.
        dropout: share of an adapter's inputs that is dropped while training.
        hold_out: names of datasets that nothing is learnt from, to be told at the end.
        hold_out_rows: in place of them, rows of wells (`A`) to hold out on every plate.
        hold_out_columns: in place of them, columns of wells (1) to hold out on every plate.
    """

    needs_labels: ClassVar[bool] = True

    rank: Positive = 8
    alpha: Above = 16.0
    dropout: Annotated[float, Field(ge=0, lt=1, strict=True)] = 0.0
    hold_out: tuple[str, ...] = ()
    hold_out_rows: tuple[Annotated[str, Field(pattern=r"^[A-Z]{1,2}$")], ...] = ()
    hold_out_columns: tuple[Positive, ...] = ()

    @property
    def holds_out_wells(self) -> bool:
        """Whether wells of the training plates are held out, not plates."""
        return bool(self.hold_out_rows or self.hold_out_columns)

    def described(self) -> str:
        """What is held out, in words."""
        if not self.holds_out_wells:
            return f"plates {', '.join(self.hold_out)}"
        rows = [f"rows {', '.join(self.hold_out_rows)}"] if self.hold_out_rows else []
        columns = ", ".join(map(str, self.hold_out_columns))
        rows += [f"columns {columns}"] if columns else []
        return f"wells of {' and '.join(rows)} of the plates trained on"

    def fault(self, config: TrainConfig) -> str | None:
        """See `MethodSection`."""
        names = [source.name for source in config.data]
        if not config.init:
            return "method lora needs init, the weights that it starts from: add it"
        for source in config.data:
            if source.label is None:
                return (
                    f"dataset {source.name} has no label, which method lora needs: add a column's"
                    " name"
                )
            if source.weight != 1:
                return (
                    f"weight {source.weight} of dataset {source.name} has no meaning in method"
                    " lora, in which each label weighs the same: leave it out"
                )
        if config.machine.parallel == "fsdp":
            return "machine.parallel fsdp has nothing to share out with method lora: use ddp"
        unknown = [name for name in self.hold_out if name not in names]
        if unknown:
            return f"lora.hold_out {unknown[0]} is no dataset: use {', '.join(names)}"
        if self.hold_out and self.holds_out_wells:
            return "lora.hold_out holds out plates, and hold_out_rows or _columns wells: keep one"
        if not self.hold_out and not self.holds_out_wells:
            only = "there is one plate alone, so hold" if len(names) == 1 else "or hold"
            first = "" if len(names) == 1 else "name datasets in lora.hold_out, "
            return (
                f"method lora has nothing held out to be judged by: {first}{only} out wells of the"
                " same plate, which is easier, by lora.hold_out_rows or lora.hold_out_columns"
            )
        if set(names) <= set(self.hold_out):
            return "lora.hold_out names every dataset: leave one or more to train on"
        return None
