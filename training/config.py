"""A training run's settings: one TOML file, every field documented, the paper's values as defaults.

"Paper" is Morelli et al. 2025 (doi 10.1016/j.csbj.2025.02.020).
"""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator

from unidino_fast.errors import UsageError
from unidino_fast.training.config_labels import LoraConfig, ProbeConfig
from unidino_fast.training.places import PROBE, with_paths
from unidino_fast.training.sections import (
    Above,
    Count,
    DinoConfig,
    IbotConfig,
    MaeConfig,
    MethodSection,
    NotNegative,
    Positive,
    Section,
    Share,
    SimclrConfig,
    SupconConfig,
    Switch,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from unidino_fast.choices import Intensity


class SourceConfig(Section):
    """One dataset: an OME-Zarr plate, or a folder of single-channel TIFF and PNG files.

    Attributes:
        name: what messages and `--data NAME=PATH` call it.
        path: folder, file or URL, relative to the TOML file; may be left out and given by
            `--data NAME=PATH`, so that a configuration names no machine's folders.
        kind: `auto` takes a folder without OME-Zarr metadata for a folder of images.
        intensity: `dtype` divides by the maximum of the stored dtype, `percentile` stretches each
            image from its 0.1 to its 99.9 percentile.
        channels: labels of a plate's channels to train on; all by default.
        exclude: patterns of image file names to leave out; ImageXpress thumbnails by default.
        weight: its share of every batch beside the other datasets'. Paper: all the same.
        platemap: CSV or Parquet table of what is in each well, for methods that need labels;
            relative to the TOML file, or by `--data NAME.platemap=FILE`. Where it has a column of
            plates, they are the plate's name.
        label: its column that says what was done to a well; the same text in two datasets is the
            same perturbation.
        pattern: for folders of images and methods that need labels: a regular expression that is
            searched in the paths of files below the folder, with a group `well` and, as needed,
            `plate`, `channel`, and `label` instead of a platemap.
    """

    name: Annotated[str, Field(min_length=1, pattern=r"^[^=\s]+$")]
    path: str | None = None
    kind: Literal["auto", "plate", "images"] = "auto"
    intensity: Literal["dtype", "percentile"] = "dtype"
    channels: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ("*_thumb*",)
    weight: Annotated[int, Field(ge=1, le=100, strict=True)] = 1
    platemap: str | None = None
    label: str | None = None
    pattern: str | None = None

    @model_validator(mode="after")
    def _sound_labels(self) -> SourceConfig:
        if self.platemap is not None and self.label is None:
            raise ValueError("platemap needs label, the name of its column of perturbations")
        if self.pattern is not None:
            try:
                groups = re.compile(self.pattern).groupindex
            except re.error as error:
                raise ValueError(f"pattern is no regular expression: {error}") from error
            if "well" not in groups:
                raise ValueError(f"pattern {self.pattern} has no group (?P<well>...): add it")
        return self

    @property
    def has_labels(self) -> bool:
        """Whether it is said where the labels of its images stand."""
        return self.label is not None or "label" in re.compile(self.pattern or "").groupindex


class ModelConfig(Section):
    """The backbone, a single-channel ViT.

    Attributes:
        dim: features. Paper: 384 (ViT-S).
        depth: blocks. Paper: 12.
        heads: attention heads; `dim` must be a multiple. Paper: 6.
        mlp_ratio: width of a block's MLP over `dim`. Paper: 4.
        patch: edge of a patch in pixels. Paper: 16.
        tile: edge of the tiles that the backbone is made for; `views.global_size` by default.
            Smaller views learn faster; their position embedding is resampled from this size's.
        drop_path: stochastic depth of the last block of the student, rising linearly from 0.
            Paper: 0.1.
    """

    dim: Positive = 384
    depth: Positive = 12
    heads: Positive = 6
    mlp_ratio: Positive = 4
    patch: Positive = 16
    tile: Positive | None = None
    drop_path: Annotated[float, Field(ge=0, lt=1, strict=True)] = 0.1

    @model_validator(mode="after")
    def _whole_heads(self) -> ModelConfig:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        return self


class ViewsConfig(Section):
    """The crops of an image and how they are changed; each crop draws its own random numbers.

    Attributes:
        global_size: edge of a global view in pixels, and of the tiles that the backbone is made
            for; smaller images are left out. Paper: 224.
        local_size: edge of a local view in pixels. Paper: 96.
        n_local: local views of an image, beside two global ones. Paper: 8.
        flip: probability of each of the two flips. Paper: 0.5.
        shift: intensities move by a uniform number within plus and minus this. Paper: 0.3.
        gamma_low: lower end of the uniform exponent of intensities. Paper: 0.5.
        gamma_high: its upper end. Paper: 1.5.
    """

    global_size: Positive = 224
    local_size: Positive = 96
    n_local: Count = 8
    flip: Share = 0.5
    shift: Share = 0.3
    gamma_low: Above = 0.5
    gamma_high: Above = 1.5

    @model_validator(mode="after")
    def _ordered(self) -> ViewsConfig:
        if self.gamma_low > self.gamma_high:
            raise ValueError(f"gamma_low {self.gamma_low} is above gamma_high {self.gamma_high}")
        if self.local_size > self.global_size:
            raise ValueError(
                f"local_size {self.local_size} is above global_size {self.global_size}"
            )
        return self


class OptimConfig(Section):
    """AdamW, its schedules and the length of a run.

    Attributes:
        epochs: Paper: 100.
        batch: images a step, of all processes together. Paper: 510.
        images_per_epoch: an epoch's length; by default every dataset is cycled to the length of
            the largest, as in the paper.
        lr: learning rate for a batch of 256, scaled with the batch. Paper: 4e-4.
        lr_final: at the end of the cosine, not scaled. Paper: 1e-6.
        warmup_epochs: of linear warm-up from 0. Paper: 20.
        weight_decay: at the start; not on biases and norms. Paper: 0.04.
        weight_decay_final: at the end of its cosine. Paper: 0.4.
        clip_norm: largest norm of all gradients together; none by default, as in the paper.
    """

    epochs: Positive = 100
    batch: Positive = 510
    images_per_epoch: Positive | None = None
    lr: Above = 4e-4
    lr_final: NotNegative = 1e-6
    warmup_epochs: Count = 20
    weight_decay: NotNegative = 0.04
    weight_decay_final: NotNegative = 0.4
    clip_norm: Above | None = None

    @model_validator(mode="after")
    def _fits(self) -> OptimConfig:
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs} is above epochs {self.epochs}: lower it"
            )
        return self

    @property
    def peak_lr(self) -> float:
        """The learning rate after the warm-up, scaled to the batch."""
        return self.lr * self.batch / 256


class MachineConfig(Section):
    """How a run uses its machine.

    None of it has a say in what is learnt beyond rounding, so all of it may change when a run goes
    on.

    Attributes:
        device: `auto`, `cpu` or `cuda`.
        precision: `bf16` runs the networks under autocast; weights and loss stay float32.
        compile: torch.compile of the networks.
        parallel: of several processes each has all weights (`ddp`) or a share (`fsdp`, FSDP2).
        accumulate: parts that a step's batch is computed in, one after the other, to save memory.
        recompute: compute what blocks hold within again on the way back, to save memory.
        workers: processes that read images; 0 reads in the training process.
        cache_mb: decoded images that each reading process keeps, in MB.
        checkpoint_minutes: between checkpoints; one is always left at the end of a run.
        keep: newest checkpoints to keep, beside the best.
        log_steps: steps between the measurements that tell of a collapse.
        tensorboard: write TensorBoard files too.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: Switch = False
    parallel: Literal["ddp", "fsdp"] = "ddp"
    accumulate: Positive = 1
    recompute: Switch = False
    workers: Count = 0
    cache_mb: Count = 512
    checkpoint_minutes: NotNegative = 10.0
    keep: Positive = 2
    log_steps: Positive = 10
    tensorboard: Switch = False


class TrainConfig(Section):
    """A whole run.

    Attributes:
        name: of the backbone, in its file.
        method: how it learns.
        seed: of everything random.
        licence: of the weights, for their file.
        data: datasets, which all weigh the same.
        model: the backbone.
        views: crops and augmentations.
        dino: settings of the method `dino`.
        simclr: settings of the method `simclr`.
        supcon: settings of the method `supcon`.
        mae: settings of the method `mae`.
        ibot: settings of the method `ibot`.
        lora: settings of the method `lora`.
        optim: optimiser and schedules.
        machine: what leaves the results as they are.
        init: weights to begin with, as `--weights` takes them; their architecture is that of
            `model`. Only the backbone is taken: heads and optimiser begin afresh.
        probe: a labelled plate to look at every few epochs.
    """

    name: Annotated[str, Field(min_length=1)] = "backbone"
    method: Literal["dino", "simclr", "supcon", "mae", "ibot", "lora"] = "dino"
    seed: Annotated[int, Field(ge=0, lt=2**63, strict=True)] = 0
    licence: str | None = None
    data: Annotated[tuple[SourceConfig, ...], Field(min_length=1)]
    model: ModelConfig = ModelConfig()
    views: ViewsConfig = ViewsConfig()
    dino: DinoConfig = DinoConfig()
    simclr: SimclrConfig = SimclrConfig()
    supcon: SupconConfig = SupconConfig()
    mae: MaeConfig = MaeConfig()
    ibot: IbotConfig = IbotConfig()
    lora: LoraConfig = LoraConfig()
    optim: OptimConfig = OptimConfig()
    machine: MachineConfig = MachineConfig()
    init: str | None = None
    probe: ProbeConfig | None = None

    @model_validator(mode="after")
    def _fits(self) -> TrainConfig:
        names = [source.name for source in self.data]
        if len(set(names)) < len(names):
            raise ValueError("two datasets have the same name: name them apart")
        if self.probe is not None and set(names) & set(PROBE):
            raise ValueError(f"a dataset is named as the probe is ({PROBE[0]}): rename it")
        for label in ("global_size", "local_size"):
            size = getattr(self.views, label)
            if size % self.model.patch:
                raise ValueError(f"views.{label} {size} is no multiple of patch {self.model.patch}")
        if self.model.tile is not None and self.model.tile % self.model.patch:
            raise ValueError(
                f"model.tile {self.model.tile} is no multiple of patch {self.model.patch}"
            )
        if self.optim.batch % self.machine.accumulate:
            raise ValueError(
                f"optim.batch {self.optim.batch} is no multiple of machine.accumulate"
                f" {self.machine.accumulate}"
            )
        fault = self.section.fault(self)
        if fault is not None:
            raise ValueError(fault)
        return self

    @property
    def section(self) -> MethodSection:
        """The settings of the method."""
        return self._of_methods()[self.method]

    @property
    def intensity(self) -> Intensity | None:
        """How planes are scaled, where it is one way for all datasets."""
        found = {source.intensity for source in self.data}
        return found.pop() if len(found) == 1 else None

    def what_decides(self) -> dict[str, Any]:
        """The settings that decide what is learnt.

        These are all but the machine's, the data's places, and what other methods need. The probe
        only looks on. Of `init` the digest decides, which `prepare` adds.
        """
        others = set(self._of_methods()) - {self.method}
        document = self.model_dump(mode="json", exclude={"machine", "probe", "init", *others})
        for source in document["data"]:
            del source["path"], source["platemap"]
            if not self.section.needs_labels:
                del source["label"], source["pattern"]
        return document

    def _of_methods(self) -> dict[str, MethodSection]:
        sections = {name: getattr(self, name) for name in type(self).model_fields}
        return {n: section for n, section in sections.items() if isinstance(section, MethodSection)}


def load_config(
    path: str | os.PathLike[str], *, data: Mapping[str, str] | None = None
) -> TrainConfig:
    """Reads a TOML file; `data` gives or replaces the paths of datasets, by their names.

    Raises:
        UsageError: the file cannot be read or is no TOML, a key is unknown or out of range, or a
            dataset has no path.
    """
    path = Path(path)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        reason = error.strerror
        raise UsageError(f"config {path} cannot be read ({reason}): check its path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"config {path} is no TOML ({error}): correct it") from error
    config = parse_config(document, str(path))
    return with_paths(config, path, dict(data or {}))


def parse_config(document: Mapping[str, Any], label: str = "config") -> TrainConfig:
    """A run's settings from a parsed document.

    Raises:
        UsageError: a key is unknown (names the nearest known one) or a value is not allowed.
    """
    try:
        return TrainConfig.model_validate(document)
    except ValidationError as error:
        raise UsageError(f"{label}: {_explained(error)}") from None


def _explained(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])
        known = _keys_at(first["loc"][:-1])
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(known)}"
        return f"{where} is no known setting: {hint}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return f"{where} is missing: add it"
    if not where:
        return message
    if where == "data" and first["type"] == "tuple_type":
        return "data is not allowed: write each dataset as a table of its own, [[data]]"
    value = "" if isinstance(first["input"], dict) else f" {first['input']!r:.60}"
    return f"{where}{value} is not allowed: {message[:1].lower()}{message[1:]}"


def _keys_at(place: tuple[int | str, ...]) -> list[str]:
    """The settings known at a place of the document."""
    section: type[BaseModel] = TrainConfig
    for part in place:
        if isinstance(part, int):
            continue
        kind = section.model_fields[part].annotation
        options = [kind, *get_args(kind)]
        section = next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
    return list(section.model_fields)
