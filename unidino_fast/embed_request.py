"""The options of one `unidino-fast embed` call, and what is opened by them."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from unidino_fast.errors import UsageError
from unidino_fast.heap import uncollected
from unidino_fast.plate import open_plate
from unidino_fast.terminal import say

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from unidino_fast.backbones import Backbone
    from unidino_fast.choices import Intensity, OnError
    from unidino_fast.cluster.session import Session
    from unidino_fast.config import EmbedOptions
    from unidino_fast.engines import Embedder
    from unidino_fast.engines.spec import ModelSpec
    from unidino_fast.plate_model import Plate
    from unidino_fast.platemap import Platemap
    from unidino_fast.qc import Thresholds
    from unidino_fast.shards import Shard


@dataclass(frozen=True)
class EmbedRequest:
    """The options of one `embed` call.

    Attributes:
        options: what decides the numbers.
        intensity: what was typed of them, if anything was: where nothing was, weights that say how
            they were trained decide.
    """

    plates: list[str]
    out: Path
    options: EmbedOptions
    weights: str
    engine: str
    device: str
    precision: str
    batch_size: int | None
    metadata: Path | None
    on_error: OnError
    overwrite: bool
    workers: int | None = None
    scheduler: str | None = None
    shard: Shard | None = None
    verify: bool = False
    no_qc: bool = False
    qc_config: Path | None = None
    report: bool = False
    intensity: Intensity | None = None

    def __post_init__(self) -> None:
        if self.no_qc and self.qc_config is not None:
            raise UsageError("--no-qc and --qc-config exclude each other: use one of them")
        if self.scheduler is not None and (self.workers is not None or self.shard is not None):
            other = "--workers" if self.workers is not None else "--shard"
            raise UsageError(f"--scheduler and {other} exclude each other: use one of them")
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"--workers {self.workers} is too small: use 1 or more")
        if self.shard is not None and self.report:
            raise UsageError(
                "--report and --shard exclude each other: run unidino-fast merge, then"
                " unidino-fast report"
            )
        if self.shard is not None and self.overwrite:
            raise UsageError(
                "--overwrite and --shard exclude each other, for other shards write into the same"
                " folder: remove it first"
            )

    @contextmanager
    def opened(self) -> Iterator[tuple[Embedder, Session | None]]:
        """The backbone ready to embed, here or on workers that hold it."""
        if self.workers is None and self.scheduler is None:
            yield self.spec().build(), None
            return
        from unidino_fast.cluster.session import local_session, remote_session

        spec = self.spec()
        if self.workers is not None:
            say(f"starting {self.workers} workers")
            session = local_session(self.workers, spec)
        else:
            session = remote_session(str(self.scheduler), spec)
        with session as workers:
            yield workers.model(spec), workers

    def spec(self) -> ModelSpec:
        """Loads the backbone; says what a person should know of it.

        Raises:
            WeightsError: the weights cannot be loaded.
            UsageError: an option is not available; of the machines of a cluster, these know it.
        """
        with uncollected():
            from unidino_fast.engines.spec import ModelSpec, check_here

            if self.scheduler is None:
                check_here(self.engine, self.device, self.precision)
            spec = ModelSpec.load(
                self.weights,
                engine=self.engine,
                device=self.device,
                precision=self.precision,
                tile=self.options.tile,
                batch_size=self.batch_size,
            )
        for note in spec.backbone.notes:
            say(f"note: {note}")
        if spec.backbone.dropped:
            say(f"note: weights {spec.backbone.name}: left {', '.join(spec.backbone.dropped)}")
        return spec

    def options_for(self, backbone: Backbone) -> EmbedOptions:
        """The options, with the intensity that these weights were trained with if none was typed.

        Says so, and says it too where they were trained with another than was typed.
        """
        trained = backbone.intensity
        if trained in (None, self.options.intensity):
            return self.options
        if self.intensity is not None:
            say(f"note: weights {backbone.name} were trained with intensity {trained}")
            return self.options
        say(f"note: intensity is {trained}, as weights {backbone.name} were trained")
        return self.options.model_copy(update={"intensity": trained})

    @cached_property
    def platemap(self) -> Platemap | None:
        """The platemap, read once."""
        from unidino_fast.platemap import Platemap, read_platemap

        if self.metadata is None:
            return None
        return Platemap(self.metadata.name, read_platemap(self.metadata))

    @cached_property
    def qc(self) -> bool | Thresholds:
        """Limits of quality control, read once."""
        from unidino_fast.qc import read_thresholds

        return not self.no_qc if self.qc_config is None else read_thresholds(self.qc_config)

    def open(self, location: str) -> Plate:
        """One of the plates."""
        return open_plate(location, acquisition=self.options.acquisition, on_error=self.on_error)
