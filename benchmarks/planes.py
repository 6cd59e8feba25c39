"""End to end on the device: stored planes in its memory -> means of fields.

The job is that of `embed` between reading and writing: which tiles hold signal, scaling, tiles, the
network, and the mean over each field's kept tiles. Letters: F fields, C channels, N tiles of a
plane, E tile edge, D features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from unidino_fast import ops
from unidino_fast.benchmarks.candidates import (
    BASELINE,
    OURS,
    PlainModel,
    Setting,
    copied,
    timm_compiled,
    timm_compiled_cast,
    timm_eager,
)
from unidino_fast.benchmarks.flops import size_of, tile_flops
from unidino_fast.benchmarks.kernels.case import fluorescence
from unidino_fast.benchmarks.model import describe_size, tile_rows
from unidino_fast.benchmarks.prepare import prepare_all
from unidino_fast.benchmarks.roofline import DTYPES
from unidino_fast.engines.choose import build_engine
from unidino_fast.engines.graph import InferenceGraph
from unidino_fast.engines.selfcheck import LIMITS
from unidino_fast.errors import UsageError
from unidino_fast.preprocess import EMPTY_PERCENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from unidino_fast.benchmarks.candidates import Network
    from unidino_fast.benchmarks.environment import Environment
    from unidino_fast.benchmarks.measure import Effort
    from unidino_fast.benchmarks.rows import Row
    from unidino_fast.choices import EngineName

CHANNELS = 4
SIDE = 4
"""Tiles along a plane's edge."""
BATCHES = 4
"""Calls of the network in a job."""
_FULL_SCALE = 65_535


@dataclass(frozen=True, slots=True)
class PlanesJob:
    """Planes (F, C, H, W) uint16 on the device, in `BATCHES` whole batches of tiles."""

    setting: Setting
    planes: Tensor

    @property
    def n_tiles(self) -> int:
        """Of all planes."""
        return len(self.planes) * CHANNELS * SIDE**2


def planes_job(setting: Setting) -> PlanesJob:
    """Simulated fields a little larger than their tiles, as microscopes' are.

    Raises:
        UsageError: a batch size that whole fields do not fill.
    """
    a_field = CHANNELS * SIDE**2
    if setting.batch * BATCHES % a_field:
        raise UsageError(
            f"batch size {setting.batch} does not fit: give a multiple of {a_field // BATCHES}"
        )
    edge = setting.backbone.image_size * SIDE * 27 // 25  # such as 4 x 224 -> 967
    n_fields = setting.batch * BATCHES // a_field
    planes = fluorescence((n_fields, CHANNELS, edge, edge), setting.device)
    return PlanesJob(setting, planes)


def bench_planes(
    setting: Setting,
    engines: tuple[EngineName, ...],
    effort: Effort,
    environment: Environment,
    say: Callable[[str], None],
    *,
    prepare_seconds: float = math.inf,
) -> list[Row]:
    """Rows of the job: plain timm behind plain torch, and ours.

    Candidates that would be prepared after `prepare_seconds` are left out.

    Raises:
        UsageError: a batch size that whole fields do not fill.
    """
    torch.compiler.reset()
    job = planes_job(setting)
    plain = {"torch.compile(timm)": timm_compiled}
    if setting.precision != "fp32" and setting.device.type == "cuda":
        plain["torch.compile(timm), cast weights"] = timm_compiled_cast
    builds: dict[str, Callable[[], Callable[[], Tensor]]] = {
        BASELINE: partial(_plain, job, timm_eager),
        **{f"{OURS} {name}": partial(_own, job, name) for name in engines},
        **{name: partial(_plain, job, build) for name, build in plain.items()},
    }

    model = PlainModel(setting.backbone).to(setting.device)
    with torch.no_grad():
        expected = plain_means(job, model).flatten(0, 1).cpu()
    say(f"planes in {setting.precision}, batch {setting.batch}")
    ready = prepare_all(
        builds, expected, limit=LIMITS[setting.precision], say=say, seconds=prepare_seconds
    )
    size = size_of(setting.backbone)
    n_fields, _, height, width = job.planes.shape
    words = describe_size(setting.backbone.name, size, setting.backbone.image_size)
    common: dict[str, Any] = {
        "benchmark": "planes",
        "shape": f"{n_fields} fields x {CHANNELS} channels of {height} x {width} px, uint16, to"
        f" field means; {words}",
        "precision": setting.precision,
        "batch": setting.batch,
        "environment": environment,
    }
    flops = tile_flops(size, class_token_only=True)
    return tile_rows(ready, setting, effort, job.n_tiles, flops, common)


def plain_means(job: PlanesJob, network: Network) -> Tensor:
    """The job in plain torch, float32 tiles; (F, C, D)."""
    setting = job.setting
    edge = setting.backbone.image_size
    tiles = job.planes.to(torch.float32).unfold(2, edge, edge).unfold(3, edge, edge)
    above = (tiles[:, 0] > 0).sum(dim=(-2, -1)).flatten(1)  # (F, N)
    keep = _kept(above, edge).to(torch.float32)
    tiles = (tiles / _FULL_SCALE).reshape(-1, 1, edge, edge)
    features = _in_batches(network, tiles, setting)
    features = features.view(len(job.planes), CHANNELS, SIDE**2, -1)  # (F, C, N, D)
    return torch.einsum("fcnd,fn->fcd", features, keep) / keep.sum(1)[:, None, None]


def own_means(job: PlanesJob, engine: Network, dtype: torch.dtype) -> Tensor:
    """The job by our ops, with patches of this dtype; (F, C, D)."""
    setting = job.setting
    backbone, planes = setting.backbone, job.planes
    edge = backbone.image_size
    counts = ops.tile_signal(planes[:, 0], tile=edge, stride=edge)
    keep = _kept(counts, edge)  # (F, N)
    flat = planes.flatten(0, 1)
    low = torch.zeros(len(flat), dtype=torch.float64, device=planes.device)
    patches = ops.tile_normalize(
        flat,
        low,
        torch.full_like(low, _FULL_SCALE),
        tile=edge,
        stride=edge,
        clip=True,
        patch=backbone.patch_size,
        dtype=dtype,
    )
    features = _in_batches(engine, patches.flatten(0, 1), setting)
    features = features.view(len(planes), CHANNELS, SIDE**2, -1)  # (F, C, N, D)
    means = [ops.segment_mean(one, kept) for one, kept in zip(features, keep, strict=True)]
    return torch.stack(means)


def _kept(above: Tensor, edge: int) -> Tensor:
    """Tiles with signal by their pixels above zero, (F, N); without any, the middle one."""
    keep = 100 * above >= EMPTY_PERCENT * edge * edge
    middle = keep.shape[1] // 2
    keep[:, middle] |= ~keep.any(dim=1)
    return keep


def _in_batches(network: Network, inputs: Tensor, setting: Setting) -> Tensor:
    """Features (N, D) float32; copied out at once, because a CUDA graph reuses its output."""
    features = torch.empty(len(inputs), setting.backbone.dim, device=inputs.device)
    for start in range(0, len(inputs), setting.batch):
        part = slice(start, start + setting.batch)
        features[part] = network(inputs[part])
    return features


def _plain(job: PlanesJob, build: Callable[[Setting], Network]) -> Callable[[], Tensor]:
    network = build(job.setting)
    return lambda: plain_means(job, network).flatten(0, 1)


def _own(job: PlanesJob, name: EngineName) -> Callable[[], Tensor]:
    setting = job.setting
    graph = InferenceGraph(copied(setting.backbone)).eval()
    engine = build_engine(name, graph, setting.device, setting.precision, step=setting.step)
    # exported graphs read float32, and so do the variances of tiles that are standardised
    narrow = name in ("eager", "compile", "fused") and setting.backbone.input_norm == "identity"
    dtype = DTYPES[setting.precision] if narrow else torch.float32
    return lambda: own_means(job, engine, dtype).flatten(0, 1)
