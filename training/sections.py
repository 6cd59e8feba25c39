"""Settings of the methods, a section each; defaults are those of the papers that are named.

What the methods share (backbone, views, optimiser) stands in `config`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from unidino_fast.training.config import TrainConfig

Count = Annotated[int, Field(ge=0, strict=True)]
Positive = Annotated[int, Field(ge=1, strict=True)]
Several = Annotated[int, Field(ge=2, strict=True)]
Switch = Annotated[bool, Field(strict=True)]
_LARGEST = 1e30
"""Of numbers that go into float32 arithmetic; a TOML file can also say `inf`."""
Share = Annotated[float, Field(ge=0, le=1, strict=True)]
NotNegative = Annotated[float, Field(ge=0, le=_LARGEST, strict=True)]
Above = Annotated[float, Field(gt=0, le=_LARGEST, strict=True)]


class Section(BaseModel):
    """A table of the TOML file: it does not change, and takes no unknown key.

    Numbers and switches are taken as TOML has them: `batch = "4"` and `compile = 1` are errors.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")


class MethodSection(Section):
    """The table of a method, under its name.

    Attributes:
        needs_labels: whether each dataset must say what was done to its wells.
    """

    needs_labels: ClassVar[bool] = False

    def fault(self, config: TrainConfig) -> str | None:
        """What of the other settings does not fit the method, and what to do."""
        return None


class DinoConfig(MethodSection):
    """DINO (Caron et al. 2021): head, temperatures, centre, teacher.

    Attributes:
        out_dim: prototypes, the outputs of the head. Paper: 20000.
        hidden_dim: width of the head's MLP. Paper: 2048.
        bottleneck_dim: its output before the normalised last layer. Paper: 256.
        student_temperature: Paper: 0.1.
        teacher_temperature_start: at the first epoch. Paper: 0.01.
        teacher_temperature: after the warm-up. Paper: 0.04.
        teacher_temperature_epochs: of linear warm-up. Paper: 30.
        centre_momentum: of the running mean of the teacher's outputs. Paper: 0.9.
        teacher_momentum: of the teacher's weights at the start; a cosine brings it to 1.
            Paper: 0.9995.
        freeze_last_layer_epochs: epochs in which the head's last layer stays. Paper: 3.
    """

    out_dim: Several = 20_000
    hidden_dim: Positive = 2048
    bottleneck_dim: Positive = 256
    student_temperature: Above = 0.1
    teacher_temperature_start: Above = 0.01
    teacher_temperature: Above = 0.04
    teacher_temperature_epochs: Count = 30
    centre_momentum: Share = 0.9
    teacher_momentum: Share = 0.9995
    freeze_last_layer_epochs: Count = 3


class IbotConfig(MethodSection):
    """iBOT (Zhou et al. 2022, ViT-S): DINO of the class token, and the same of hidden patches.

    One head serves class token and patches.

    Attributes:
        out_dim: prototypes, the outputs of the head. Paper: 8192.
        hidden_dim: width of the head's MLP. Paper: 2048.
        bottleneck_dim: its output before the normalised last layer. Paper: 256.
        student_temperature: Paper: 0.1.
        teacher_temperature_start: of the class token, at the first epoch. Paper: 0.04.
        teacher_temperature: of the class token, after the warm-up. Paper: 0.07.
        patch_temperature_start: of patches, at the first epoch. Paper: 0.04.
        patch_temperature: of patches, after the warm-up. Paper: 0.07.
        teacher_temperature_epochs: of linear warm-up, of both. Paper: 30.
        centre_momentum: of the running mean of the teacher's answers for the class token.
            Paper: 0.9.
        patch_centre_momentum: of that for patches. Paper: 0.9.
        teacher_momentum: of the teacher's weights at the start; a cosine brings it to 1.
            Paper: 0.996.
        freeze_last_layer_epochs: epochs in which the head's last layer stays. Paper: 1.
        patch_weight: of the loss of patches beside that of the class token. Paper: 1.
        mask_probability: of a global view to be masked at all. Paper: 0.5.
        mask_share: of its patches that are hidden then, on average. Paper: 0.3.
        mask_spread: that share is uniform within plus and minus this. Paper: 0.2.
    """

    out_dim: Several = 8192
    hidden_dim: Positive = 2048
    bottleneck_dim: Positive = 256
    student_temperature: Above = 0.1
    teacher_temperature_start: Above = 0.04
    teacher_temperature: Above = 0.07
    patch_temperature_start: Above = 0.04
    patch_temperature: Above = 0.07
    teacher_temperature_epochs: Count = 30
    centre_momentum: Share = 0.9
    patch_centre_momentum: Share = 0.9
    teacher_momentum: Share = 0.996
    freeze_last_layer_epochs: Count = 1
    patch_weight: NotNegative = 1.0
    mask_probability: Share = 0.5
    mask_share: Share = 0.3
    mask_spread: Share = 0.2

    @model_validator(mode="after")
    def _within(self) -> IbotConfig:
        if not self.mask_spread <= self.mask_share <= 1 - self.mask_spread:
            raise ValueError(
                f"mask_share {self.mask_share} with mask_spread {self.mask_spread} leaves 0 to 1:"
                " lower mask_spread"
            )
        return self

    def fault(self, config: TrainConfig) -> str | None:
        """See `MethodSection`."""
        return _resampled(config)


class SimclrConfig(MethodSection):
    """SimCLR (Chen et al. 2020): two views of an image are to be more alike than any others.

    Negatives are the whole batch's, of all processes; hence `machine.accumulate` must be 1, for
    parts would see their own negatives alone. The head has no batch norm (its formula in the paper
    has none), so that images meet in the loss alone.

    Attributes:
        hidden_dim: width of the head's MLP. Paper: 2048, the width of its ResNet-50.
        out_dim: embeddings that are compared. Paper: 128.
        temperature: of their cosines. Paper: 0.1 with the batch of 4096.
    """

    hidden_dim: Positive = 2048
    out_dim: Positive = 128
    temperature: Above = 0.1

    def fault(self, config: TrainConfig) -> str | None:
        """See `MethodSection`."""
        if config.optim.batch < 2:
            return f"optim.batch {config.optim.batch} has no negatives: raise it"
        return _parted(config)


class SupconConfig(MethodSection):
    """Weakly supervised contrastive learning with perturbation labels.

    The loss is that of supervised contrastive learning (Khosla et al. 2020, its outer sum). The
    positives of an image are images of the same perturbation and channel in other wells or on other
    plates; its negatives are images of other perturbations. What has its perturbation and is no
    positive (the same well, another channel) is left out of its loss. `machine.accumulate` must be
    1, as with SimCLR.

    Attributes:
        positives: `other-well`, on any plate, other plates first; or `other-plate` alone.
        replicates: images of one perturbation and channel that are drawn together, each of another
            well or plate as far as there are so many; `optim.batch` must be a multiple.
        controls: labels of untreated wells.
        use_controls: `leave-out`, or `as-class`: one more perturbation. Perturbations without an
            effect look like controls, and are then pushed apart from them for no good reason.
        hidden_dim: width of the head's MLP. Paper: 2048.
        out_dim: embeddings that are compared. Paper: 128.
        temperature: of their cosines. Paper: 0.1.
    """

    needs_labels: ClassVar[bool] = True

    positives: Literal["other-well", "other-plate"] = "other-well"
    replicates: Several = 2
    controls: tuple[str, ...] = ()
    use_controls: Literal["leave-out", "as-class"] = "leave-out"
    hidden_dim: Positive = 2048
    out_dim: Positive = 128
    temperature: Above = 0.1

    def fault(self, config: TrainConfig) -> str | None:
        """See `MethodSection`."""
        for source in config.data:
            if not source.has_labels:
                return (
                    f"dataset {source.name} has no labels, which method supcon needs: give it"
                    " platemap and label, or a pattern with (?P<label>...)"
                )
            if source.weight != 1:
                return (
                    f"weight {source.weight} of dataset {source.name} has no meaning in method"
                    " supcon, which draws by perturbation: leave it out"
                )
        if config.optim.batch % self.replicates:
            return (
                f"optim.batch {config.optim.batch} is no multiple of supcon.replicates"
                f" {self.replicates}"
            )
        return _parted(config)


class MaeConfig(MethodSection):
    """Masked autoencoder (He et al. 2022): hidden patches are drawn from those that are seen.

    Attributes:
        mask_share: of the patches that is hidden. Paper: 0.75.
        decoder_dim: features of the decoder, a multiple of 4 and of `decoder_heads`. Paper: 512.
        decoder_depth: its blocks. Paper: 8.
        decoder_heads: its attention heads. Paper: 16.
        normalise_targets: each patch is to be drawn less its mean and over its standard deviation.
            Paper: true.
    """

    mask_share: Annotated[float, Field(gt=0, lt=1, strict=True)] = 0.75
    decoder_dim: Annotated[int, Field(ge=4, multiple_of=4, strict=True)] = 512
    decoder_depth: Positive = 8
    decoder_heads: Positive = 16
    normalise_targets: Switch = True

    @model_validator(mode="after")
    def _whole_heads(self) -> MaeConfig:
        if self.decoder_dim % self.decoder_heads:
            raise ValueError(
                f"decoder_dim {self.decoder_dim} is not a multiple of decoder_heads"
                f" {self.decoder_heads}"
            )
        return self

    def fault(self, config: TrainConfig) -> str | None:
        """See `MethodSection`."""
        if config.model.dim % 4:
            return f"dim {config.model.dim} is no multiple of 4, as method mae needs it"
        if self.seen(config.views.global_size // config.model.patch) < 1:
            return f"mae.mask_share {self.mask_share} hides all patches of a view: lower it"
        return _resampled(config)

    def seen(self, grid: int) -> int:
        """Patches of a view of `grid` x `grid` that the encoder sees."""
        return int(grid**2 * (1 - self.mask_share))


def _resampled(config: TrainConfig) -> str | None:
    """Masks are of the patches of a global view, for which the backbone must be made."""
    if config.model.tile in (None, config.views.global_size):
        return None
    return (
        f"model.tile {config.model.tile} differs from views.global_size, whose patches method"
        f" {config.method} hides: leave it out"
    )


def _parted(config: TrainConfig) -> str | None:
    """Negatives come from the whole batch: parts would have their own alone."""
    if config.machine.accumulate == 1:
        return None
    return (
        f"machine.accumulate {config.machine.accumulate} would leave each part of a batch its own"
        f" negatives, which method {config.method} takes from the whole: set it to 1, and lower"
        " optim.batch or use more processes to save memory"
    )
