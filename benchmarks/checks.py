"""Numerical checks on the device itself: kernels against their references, engines against timm.

The references run on the CPU, so that a fault of the device cannot hide in both. Inputs are drawn
anew from a seed that is printed; the memory that a kernel writes to held NaN before.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from unidino_fast import kernels
from unidino_fast.benchmarks.prepare import agreement
from unidino_fast.engines import load_backbone
from unidino_fast.engines.choose import lacks_fp8
from unidino_fast.engines.selfcheck import LIMITS
from unidino_fast.errors import EngineError
from unidino_fast.kernels.add_norm import STREAM_DTYPES
from unidino_fast.kernels.intensity_range import COUNTED_DTYPES
from unidino_fast.kernels.quantize_rows import ROW_DTYPES
from unidino_fast.kernels.segment_mean import FEATURE_DTYPES
from unidino_fast.kernels.tile_normalize import PIXEL_DTYPES, VALUE_DTYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from unidino_fast.choices import EngineName, Precision

    Check = tuple[str, Callable[[], None]]

# planes, height, width, tile, stride, patch: odd, prime, overlapping, with gaps, one tile, aligned
SHAPES = (
    (1, 29, 31, 16, 16, 8),
    (3, 96, 160, 32, 32, 16),
    (2, 31, 17, 7, 3, 7),
    (2, 61, 83, 4, 9, 2),
    (2, 450, 467, 224, 224, 16),
    (1, 6, 6, 5, 1, 1),
)
_SOME = (4, 2)
"""Shapes that every dtype is checked on."""
_POISON_BYTES = 2**24
_LARGE_PLANES = 530  # of 2160 px: more than 2**31 pixels, in and out
_LARGE_MEMORY = 24e9


def kernel_checks(device: torch.device, seed: int) -> Iterator[Check]:
    """Every kernel, dtype and odd shape; each check raises EngineError where they differ."""
    for pixel in PIXEL_DTYPES:
        for value in VALUE_DTYPES:
            name = f"tile_normalize {_short(pixel)} to {_short(value)}"
            yield name, partial(_check_tile_normalize, device, seed, pixel, value)
        yield f"tile_signal {_short(pixel)}", partial(_check_tile_signal, device, seed, pixel)
    for pixel in COUNTED_DTYPES:
        yield f"intensity_range {_short(pixel)}", partial(_check_percentiles, device, seed, pixel)
    for feature in FEATURE_DTYPES:
        yield f"segment_mean {_short(feature)}", partial(_check_mean, device, seed, feature)
    for stream in STREAM_DTYPES:
        yield f"add_norm {_short(stream)}", partial(_check_add_norm, device, seed, stream)
    if not lacks_fp8(device):
        for row in ROW_DTYPES:
            yield f"quantize_rows {_short(row)}", partial(_check_quantize_rows, device, seed, row)
    yield "views are read in place", partial(_check_views, device, seed)
    if device.type == "cuda" and torch.cuda.mem_get_info(device)[0] > _LARGE_MEMORY:
        yield "tile_normalize of more than 2**31 pixels", partial(_check_large, device, seed)


def engine_checks(
    weights: str, device: torch.device, pairs: tuple[tuple[EngineName, Precision], ...]
) -> Iterator[Check]:
    """Each engine and precision against timm in float32, and one batch against another."""
    for engine, precision in pairs:
        yield (
            f"{engine} {precision}: cosine to timm, and the same bits alone and among others",
            partial(_check_engine, weights, device, engine, precision),
        )


def _check_engine(
    weights: str, device: torch.device, engine: EngineName, precision: Precision
) -> None:
    model = load_backbone(weights, engine=engine, precision=precision, device=str(device))
    tiles = _tiles(model.batch_size + 37, model.tile)
    found = torch.from_numpy(model.embed_tiles(tiles))
    plain = load_backbone(weights, engine="eager", precision="fp32", device="cpu").backbone.module
    sample = torch.arange(0, len(tiles), 9)  # the CPU is slow
    with torch.no_grad():
        expected = plain(tiles[sample, None])
    figures = agreement(found[sample], expected)
    if not figures["cosine"] >= LIMITS[precision]:
        raise EngineError(f"cosine {figures['cosine']:.6f} below {LIMITS[precision]}")
    alone = torch.from_numpy(model.embed_tiles(tiles[5:12]))
    if not torch.equal(alone, found[5:12]):
        raise EngineError("tiles have other bits alone than among others")


def _tiles(n_tiles: int, edge: int) -> Tensor:
    """Tiles that differ in brightness, texture and direction, so that their features do."""
    generator = torch.Generator().manual_seed(7)
    frequency, phase, level = torch.rand(3, n_tiles, 1, 1, generator=generator)
    ramp = torch.linspace(0, 1, edge)
    waves = torch.sin(40 * frequency * ramp[None, :, None] + 30 * phase * ramp[None, None, :])
    noise = torch.rand(n_tiles, edge, edge, generator=generator)
    tiles: Tensor = level * (0.5 + 0.4 * waves) + 0.1 * noise
    return tiles


def _check_tile_normalize(
    device: torch.device, seed: int, pixel: torch.dtype, value: torch.dtype
) -> None:
    for index, (n_planes, height, width, tile, stride, patch) in enumerate(SHAPES):
        planes = _pixels((n_planes, height, width), pixel, seed)
        top = 1.0 if pixel.is_floating_point else float(torch.iinfo(pixel).max)
        low = torch.linspace(0.01, 0.1, n_planes, dtype=torch.float64) * top
        span = torch.linspace(0.3, 0.9, n_planes, dtype=torch.float64) * top
        layouts: tuple[tuple[int | None, bool], ...] = ((patch, True), (None, False))
        if (pixel, value) != (torch.uint16, torch.float32):  # compiling all takes two minutes
            if index not in _SOME:
                continue
            layouts = (layouts[_SOME.index(index)],)
        for edge, clip in layouts:
            options = {
                "tile": tile,
                "stride": stride,
                "clip": clip,
                "patch": edge,
                "dtype": value,
            }
            expected = kernels.tile_normalize_reference(planes, low, span, **options)  # type: ignore[arg-type]
            _poison(device)
            arguments = (planes.to(device), low.to(device), span.to(device))
            found = kernels.tile_normalize(*arguments, **options)  # type: ignore[arg-type]
            # 4 units in the last place of float32, then one rounding to the dtype
            allowed = max(4 * torch.finfo(torch.float32).eps, torch.finfo(value).eps)
            _compare(found, expected, allowed, f"{planes.shape}, {options}")


def _check_tile_signal(device: torch.device, seed: int, pixel: torch.dtype) -> None:
    some = [SHAPES[index] for index in _SOME]
    for n_planes, height, width, tile, stride, _ in SHAPES if pixel == torch.uint16 else some:
        planes = _pixels((n_planes, height, width), pixel, seed)
        expected = kernels.tile_signal_reference(planes, tile=tile, stride=stride)
        found = kernels.tile_signal(planes.to(device), tile=tile, stride=stride)
        _compare(found, expected, 0.0, f"{planes.shape}, tile {tile}")


def _check_percentiles(device: torch.device, seed: int, pixel: torch.dtype) -> None:
    percentiles = (0.0, 0.1, 33.3, 50.0, 99.9, 100.0)
    for n_planes, height, width, *_ in SHAPES:
        planes = _pixels((n_planes, height, width), pixel, seed)
        planes[0] = planes[0, 0, 0]  # one value alone
        expected = kernels.intensity_range_reference(planes, percentiles)
        _poison(device)
        found = kernels.intensity_range(planes.to(device), percentiles)
        _compare(found, expected, 0.0, f"{planes.shape}")


def _check_mean(device: torch.device, seed: int, feature: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    for n_channels, n_tiles, dim in ((1, 1, 1), (3, 7, 11), (5, 81, 384), (2, 1_001, 130)):
        features = torch.randn(n_channels, n_tiles, dim, generator=generator).to(feature)
        keep = torch.rand(n_tiles, generator=generator) < 0.7
        keep[n_tiles // 2] = True
        expected = kernels.segment_mean_reference(features, keep)
        _poison(device)
        found = kernels.segment_mean(features.to(device), keep.to(device))
        _compare(found, expected, 2e-7, f"{features.shape}")


def _check_add_norm(device: torch.device, seed: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    # the interpreter cuts off to bfloat16
    allowed = torch.finfo(dtype).eps if device.type == "cpu" and dtype == torch.bfloat16 else 0.0
    for n_rows, dim in ((1, 1), (131, 64), (591, 384), (7, 101), (67, 1536)):
        stream = torch.randn(n_rows, dim, generator=generator).to(dtype)
        weight, bias = torch.randn(2, dim, generator=generator)
        for kind in STREAM_DTYPES:
            branch = torch.randn(n_rows, dim, generator=generator).to(kind)
            sums, found_sums = stream.clone(), stream.to(device)
            expected = kernels.add_norm_reference(sums, branch, weight, bias, 1e-6)
            rest = branch.to(device), weight.to(device), bias.to(device)
            _poison(device)
            found = kernels.add_norm(found_sums, *rest, 1e-6)
            where = f"{_short(kind)} {n_rows} x {dim}"
            _compare(found_sums, sums, allowed, f"sums of {where}")
            # sums over a row, in another order: what counts is the row's largest value
            off = (found.cpu().double() - expected.double()) / expected.double().abs().max()
            _compare(off + 1, torch.ones_like(off), 4 * torch.finfo(kind).eps, where)


def _check_quantize_rows(device: torch.device, seed: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    for shape in ((1, 1), (131, 64), (197, 384), (61, 1536), (7, 101)):
        x = torch.randn(shape, generator=generator) * torch.logspace(-3, 3, shape[0])[:, None]
        x[shape[0] // 2] = 0
        values, scales = kernels.quantize_rows_reference(x.to(dtype))
        _poison(device)
        found, found_scales = kernels.quantize_rows(x.to(dtype).to(device))
        _compare(found_scales, scales, 0.0, f"scales of {shape}")
        # one step of e4m3: below capability 9.0 a value next to a tie may go the other way
        _compare(found, values, 2.0**-3, f"{shape}")


def _check_views(device: torch.device, seed: int) -> None:
    """Rows apart, and not from where memory is aligned: the bits of the same numbers in a row."""
    planes = _pixels((5, 61, 83), torch.uint16, seed).to(device)[1::2, 3:, 5:]
    low = torch.zeros(len(planes), dtype=torch.float64, device=device)
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(4, 33, 70, generator=generator).to(device)[1::2, :, 3:]
    keep = torch.ones(33, dtype=torch.bool, device=device)
    grid: dict[str, Any] = {"tile": 16, "stride": 7}
    jobs: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
        "tile_normalize": (
            lambda x: kernels.tile_normalize(x, low, low + 9e3, clip=True, patch=8, **grid),
            planes,
        ),
        "tile_signal": (lambda x: kernels.tile_signal(x, **grid), planes),
        "segment_mean": (lambda x: kernels.segment_mean(x, keep), features),
    }
    for name, (run, view) in jobs.items():
        _compare(run(view), run(view.contiguous()).cpu(), 0.0, name)


def _check_large(device: torch.device, seed: int) -> None:
    """The last of so many planes that offsets do not fit in 32 bits."""
    last = _pixels((1, 2160, 2160), torch.uint16, seed)
    planes = last.to(device).expand(_LARGE_PLANES, -1, -1).contiguous()
    low = torch.zeros(_LARGE_PLANES, dtype=torch.float64)
    span = low + 65_535
    options = {"tile": 224, "stride": 224, "clip": True, "patch": 16, "dtype": torch.bfloat16}
    found = kernels.tile_normalize(planes, low.to(device), span.to(device), **options)  # type: ignore[arg-type]
    expected = kernels.tile_normalize_reference(last, low[:1], span[:1], **options)  # type: ignore[arg-type]
    allowed = torch.finfo(torch.bfloat16).eps
    for index in (0, _LARGE_PLANES - 1):
        _compare(found[index : index + 1], expected, allowed, f"plane {index}")


def _compare(found: Tensor, expected: Tensor, allowed: float, where: str) -> None:
    """Raises EngineError unless every element is within a relative distance; NaN never is."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise EngineError(
            f"{tuple(found.shape)} {found.dtype} instead of {tuple(expected.shape)}"
            f" {expected.dtype} ({where})"
        )
    one, other = found.cpu().double(), expected.double()
    close = (one - other).abs() <= allowed * other.abs() + allowed * 1e-3
    if not bool(close.all()):
        worst = float((one - other).abs().nan_to_num(nan=float("inf")).max())
        raise EngineError(f"{int((~close).sum())} values differ, by {worst:.3g} at most ({where})")


def _pixels(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    limits = torch.iinfo(dtype)
    values = torch.randint(limits.min, limits.max + 1, shape, generator=generator)
    values[torch.rand(shape, generator=generator) < 0.3] = 0
    return values.to(dtype)


def _poison(device: torch.device) -> None:
    """Fills memory with NaN and gives it back, for the next allocations to find."""
    for n_bytes in (_POISON_BYTES, 2**19, 2**12):
        torch.full((n_bytes // 4,), float("nan"), device=device)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
