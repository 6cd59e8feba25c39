"""`bench model`: tiles a second of every way to run the network, from tiles on the device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from unidino_fast.benchmarks.candidates import BASELINE, PlainModel, Setting, builders
from unidino_fast.benchmarks.flops import VitSize, size_of, tile_flops
from unidino_fast.benchmarks.measure import Candidate, Effort, measure, paired, stopwatch
from unidino_fast.benchmarks.noise import Neighbours, describe_noise
from unidino_fast.benchmarks.prepare import Ready, prepare_all
from unidino_fast.benchmarks.roofline import matrix_products
from unidino_fast.benchmarks.rows import Row, rate_figures, ratio_figures
from unidino_fast.engines.selfcheck import LIMITS
from unidino_fast.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from unidino_fast.backbones import Backbone
    from unidino_fast.benchmarks.candidates import Builder
    from unidino_fast.benchmarks.environment import Environment
    from unidino_fast.benchmarks.measure import Samples
    from unidino_fast.choices import EngineName, Precision


@dataclass(frozen=True, slots=True)
class ModelJob:
    """What to measure.

    Attributes:
        prepare_seconds: candidates of a setting that would be begun later are left out.
    """

    backbone: Backbone
    device: torch.device
    engines: tuple[EngineName, ...]
    precisions: tuple[Precision, ...]
    batches: tuple[int, ...]
    effort: Effort
    prepare_seconds: float = math.inf


def model_effort(device: torch.device, *, quick: bool) -> Effort:
    """How long a setting is measured."""
    if device.type == "cuda":
        return Effort((7, 30), 5.0 if quick else 15.0, sample_seconds=0.1, settle_seconds=0.0)
    return Effort((3, 10) if quick else (7, 30), 15.0 if quick else 120.0, 0.5, 0.1)


def bench_model(
    job: ModelJob, environment: Environment, say: Callable[[str], None]
) -> Iterator[Row]:
    """Rows of each precision and batch size, as they come.

    Raises:
        UsageError: weights of several input channels.
    """
    if job.backbone.in_chans != 1:
        raise UsageError(
            f"weights {job.backbone.name} read several channels: use single-channel ones"
        )
    for precision in job.precisions:
        for batch in job.batches:
            torch.compiler.reset()  # beyond a few graphs of one module torch would stop compiling
            setting = Setting(job.backbone, job.device, precision, batch)
            yield from _setting_rows(setting, job, environment, say)


def _setting_rows(
    setting: Setting, job: ModelJob, environment: Environment, say: Callable[[str], None]
) -> Iterator[Row]:
    edge = setting.backbone.image_size
    generator = torch.Generator().manual_seed(0)
    tiles = torch.rand(setting.batch, 1, edge, edge, generator=generator).to(setting.device)
    expected = reference_features(setting, tiles)
    say(f"model in {setting.precision}, batch {setting.batch}")
    ready = prepare_all(
        {
            name: partial(_bound, build, setting, tiles)
            for name, build in builders(setting, job.engines).items()
        },
        expected,
        limit=LIMITS[setting.precision],
        say=say,
        seconds=job.prepare_seconds,
    )
    flops = tile_flops(size_of(setting.backbone), class_token_only=True)
    common: dict[str, Any] = {
        "benchmark": "model",
        "shape": describe_size(setting.backbone.name, size_of(setting.backbone), edge),
        "precision": setting.precision,
        "batch": setting.batch,
        "environment": environment,
    }
    yield from tile_rows(ready, setting, job.effort, setting.batch, flops, common)


def tile_rows(
    ready: dict[str, Ready],
    setting: Setting,
    effort: Effort,
    n_tiles: int,
    flops: int,
    common: dict[str, Any],
) -> list[Row]:
    """Measures candidates that do `n_tiles` a call, and the matrix product beside them.

    Args:
        ready: candidates by name; ratios refer to the plain eager model.
        setting: device and precision.
        effort: how long to measure.
        n_tiles: tiles a call.
        flops: operations that a tile needs.
        common: what all rows say.
    """
    limits = matrix_products(setting.device, setting.precision)
    running = [
        Candidate(name, one.run, n_tiles) for name, one in ready.items() if one.run is not None
    ]
    neighbours = Neighbours()
    taken = measure([*running, *limits], stopwatch(setting.device), effort)
    others = neighbours.busy_cores()
    limit = max(limits, key=lambda one: taken[one.name].rate(0.5))
    rows = [Row(candidate=n, **common, **one.facts) for n, one in ready.items() if n not in taken]
    for name, samples in taken.items():
        if name in ready:
            facts = ready[name].facts | _figures(samples, taken, limit, flops)
            rows.append(
                Row(candidate=name, noise=describe_noise(samples, others), **common, **facts)
            )
    top = taken[limit.name]
    note = f"{top.rate(0.5) / 1e12:.3g} TFLOP/s at {flops / 1e9:.3g} GFLOP a tile"
    rows.append(
        Row(
            candidate=limit.name,
            unit="tiles/s",
            noise=describe_noise(top, others),
            note=note,
            **common,
            **rate_figures(top, per=flops),
        )
    )
    return rows


def _figures(
    samples: Samples, taken: dict[str, Samples], limit: Candidate, flops: int
) -> dict[str, Any]:
    figures = {
        "unit": "tiles/s",
        "limit": limit.name,
        "limit_share": paired(samples, taken[limit.name]) * flops,
        **rate_figures(samples),
    }
    if BASELINE in taken:
        figures |= ratio_figures(samples, taken[BASELINE], BASELINE)
    return figures


def reference_features(setting: Setting, tiles: Tensor) -> Tensor:
    """Features (N, D) of the plain model in float32, on the CPU."""
    model = PlainModel(setting.backbone).to(setting.device)
    with torch.no_grad():
        return torch.cat([model(part).cpu() for part in torch.split(tiles, 64)])


def describe_size(name: str, size: VitSize, edge: int) -> str:
    """The network and its tiles in words."""
    return f"{name} (ViT of {size.depth} blocks x {size.dim}), tiles of {edge} px"


def _bound(build: Builder, setting: Setting, tiles: Tensor) -> Callable[[], Tensor]:
    network = build(setting)
    return lambda: network(tiles)
