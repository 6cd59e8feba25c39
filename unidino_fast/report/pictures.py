"""Pictures of the fields, small, in the contrast that the embedding saw; read from the plate.

C channels, H x W pixels. A plate may hold more pixels than a report has time or room for, so
fields a well, edge and quality follow from budgets, the same for every well, and are said.
"""

from __future__ import annotations

import base64
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from unidino_fast.config import EmbedOptions
from unidino_fast.errors import PixelError, UnidinoError
from unidino_fast.names import one_line
from unidino_fast.plate import open_plate
from unidino_fast.report.gather import as_object
from unidino_fast.report.labels import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from unidino_fast.planning import FieldTask, Plan
    from unidino_fast.plate_model import Plate
    from unidino_fast.report.gather import PlateResults

    Bytes = NDArray[np.uint8]

_MOST_PIXELS = 2_500_000_000
"""Read from the plate: some 20 s of two cores."""
_MOST_BYTES = 3_900_000
"""Of all pictures, before base64 makes four of three: with Vega they stay below 10 MB."""
_EDGES = (256, 192, 160, 128, 96, 72, 48)
_BITS_A_PIXEL = 1.0
_QUALITIES = (60, 40, 25, 12)
_LEAST_BYTES = 400
"""Of one picture: more fields are not shown where they would get less."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures for the page.

    Attributes:
        document: for its script; None where there are none.
        reason: why there are none; empty where there are.
        warnings: about what was seen, a line each.
    """

    document: dict[str, Any] | None
    reason: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Shot:
    """One field of a well: pictures (C, h, w) of its channels."""

    well: str
    task: FieldTask
    planes: Bytes


def take_pictures(results: PlateResults, locations: Sequence[str]) -> Pictures:
    """Pictures of every well.

    Args:
        results: whose manifest says where the plate lies and how it was embedded.
        locations: where to look first; a plate of another name there is passed over.
    """
    try:
        plate, options = _find(results, locations)
        plan = _plan(plate, options, set(results.names))
    except UnidinoError as error:
        return Pictures(None, f"No pictures: {one_line(str(error))}")
    if not plan:
        return Pictures(None, f"No pictures: {plate.location} holds none of these wells.")
    n_planes = sum(len(task.channels) for tasks in plan.values() for task in tasks)
    edge = next((e for e in _EDGES if n_planes * e * e * _BITS_A_PIXEL / 8 < _MOST_BYTES), 48)
    faults: list[str] = []
    shots = list(_shots(plate, plan, options, edge, faults))
    encoded = _encoded(shots)
    n_all = sum(len(well.fields) for well in plate.wells if well.name in plan)
    n_shown = sum(len(tasks) for tasks in plan.values())
    document = {
        "wells": _by_well(shots, encoded, results.channels),
        "channels": [shown(channel) for channel in results.channels],
        "grid": {"tile": options.tile, "stride": options.step},
        "note": _note(options, n_shown, n_all),
    }
    return Pictures(document, "", (*faults, *_dark(shots, results.channels, options)))


def _find(results: PlateResults, locations: Sequence[str]) -> tuple[Plate, EmbedOptions]:
    """The plate that the results were made of, and the options.

    Raises:
        UnidinoError: it is not there, or another one is.
    """
    options = _options(results)
    held = results.run.get("location")
    named = [*locations, *([held] if isinstance(held, str) and held else [])]
    if not named:
        raise PixelError("the manifest does not say where the plate lies: name it by --plate")
    fault: UnidinoError | None = None
    for location in named:
        try:
            plate = open_plate(location, acquisition=options.acquisition, on_error="skip")
        except (UnidinoError, OSError, ImportError) as error:
            fault = PixelError(f"{one_line(str(error))[:200]} (say where it is by --plate)")
            continue
        if plate.name != results.name:
            fault = PixelError(f"{location} holds plate {plate.name}, not {results.name}")
            continue
        digest = as_object(results.provenance.get("plate")).get("digest")
        if digest is not None and digest != plate.digest:
            fault = PixelError(f"{location} has changed since it was embedded")
            continue
        return plate, options
    raise fault or PixelError("the plate is not there")


def _options(results: PlateResults) -> EmbedOptions:
    held = as_object(results.provenance.get("options"))
    try:
        return EmbedOptions(**{k: v for k, v in held.items() if k in EmbedOptions.model_fields})
    except (ValueError, TypeError):
        raise PixelError("the manifest's options are not understood") from None


def _plan(plate: Plate, options: EmbedOptions, wells: set[str]) -> dict[str, list[FieldTask]]:
    """The fields to show of each well: the first time point, evenly spread over the well."""
    from unidino_fast.planning import plan_plate

    plan: Plan = plan_plate(plate, options)
    tasks = {
        well.name: [task for task in well.fields if task.time == 0]
        for well in plan.wells
        if well.name in wells
    }
    most = max((len(own) for own in tasks.values()), default=0)
    count = most
    while count > 1 and not _fits(tasks, count):
        count -= 1
    return {name: _spread(own, count) for name, own in tasks.items() if own}


def _fits(tasks: dict[str, list[FieldTask]], count: int) -> bool:
    chosen = [task for own in tasks.values() for task in _spread(own, count)]
    pixels = sum(len(t.channels) * t.field.height * t.field.width for t in chosen)
    pictures = sum(len(task.channels) for task in chosen)
    return pixels <= _MOST_PIXELS and pictures * _LEAST_BYTES <= _MOST_BYTES


def _spread(tasks: Sequence[FieldTask], count: int) -> list[FieldTask]:
    if len(tasks) <= count:
        return list(tasks)
    return [tasks[int((i + 0.5) * len(tasks) / count)] for i in range(count)]


def _shots(
    plate: Plate,
    plan: dict[str, list[FieldTask]],
    options: EmbedOptions,
    edge: int,
    faults: list[str],
) -> Iterator[_Shot]:
    from unidino_fast.reading import FieldReader, FieldRequest

    wanted = [(well, task) for well, tasks in plan.items() for task in tasks]
    requests = (FieldRequest(task.field, task.time, task.channels, options.z) for _, task in wanted)
    with closing(FieldReader(plate.storage).stream(requests)) as read:
        for (well, task), pixels in zip(wanted, read, strict=True):
            if isinstance(pixels, PixelError):
                faults.append(f"no picture of {well}/{task.field.site}: {one_line(str(pixels))}")
                continue
            yield _Shot(well, task, as_embedded(pixels, options.intensity, edge))


def as_embedded(pixels: NDArray[Any], intensity: str, edge: int) -> Bytes:
    """Planes (C, H, W) as bytes (C, h, w), each at most `edge` long, scaled as for the embedding.

    Every picture element is the mean of the pixels it covers. The scale is that of `preprocess`:
    the dtype's range, or the 0.1 to 99.9 percentiles of the plane; `none`, which has no range of
    its own, is shown as the dtype's.
    """
    from unidino_fast.preprocess import STRETCH, STRETCH_EPSILON

    low = np.zeros(len(pixels))
    span = np.ones(len(pixels))
    if intensity == "percentile":
        bounds = np.array([_percentiles(plane, STRETCH) for plane in pixels])  # (C, 2)
        low, span = bounds[:, 0], bounds[:, 1] - bounds[:, 0] + STRETCH_EPSILON
    elif not np.issubdtype(pixels.dtype, np.floating):
        span[:] = np.iinfo(pixels.dtype).max
    small = shrink(pixels, edge)
    unit = (small - low[:, None, None]) / span[:, None, None]
    return np.asarray(np.rint(np.clip(np.nan_to_num(unit), 0, 1) * 255), dtype=np.uint8)


def shrink(planes: NDArray[Any], edge: int) -> NDArray[np.float64]:
    """Means over blocks: (C, H, W) -> (C, h, w) whose longer side is `edge` at most."""
    height, width = planes.shape[1:]
    factor = max(1.0, max(height, width) / edge)
    rows, columns = max(1, round(height / factor)), max(1, round(width / factor))
    y = np.arange(rows + 1) * height // rows
    x = np.arange(columns + 1) * width // columns
    exact = planes.dtype.kind == "u" and planes.dtype.itemsize <= 2 and height <= 2**16
    sums = np.empty((len(planes), rows, width), np.uint32 if exact else np.float64)
    for row in range(rows):  # slices add up ten times as fast as np.add.reduceat
        planes[:, y[row] : y[row + 1]].sum(axis=1, dtype=sums.dtype, out=sums[:, row])
    totals = np.add.reduceat(sums, x[:-1], axis=2, dtype=np.float64)
    means: NDArray[np.float64] = totals / (np.diff(y)[:, None] * np.diff(x))
    return means


def _percentiles(plane: NDArray[Any], percentiles: Sequence[float]) -> NDArray[np.float64]:
    """`numpy.percentile`; of 8 and 16 bits by counting, without sorting."""
    if plane.dtype not in (np.uint8, np.uint16):
        return np.asarray(np.percentile(plane, percentiles), dtype=np.float64)
    below = np.cumsum(np.bincount(plane.ravel()))
    places = np.asarray(percentiles) / 100 * (plane.size - 1)
    first = np.floor(places).astype(np.int64)
    lower, upper = (
        np.searchsorted(below, np.minimum(first + step, plane.size - 1), side="right")
        for step in (0, 1)
    )
    found: NDArray[np.float64] = lower + (upper - lower) * (places - first)
    return found


def _encoded(shots: Sequence[_Shot]) -> list[list[bytes]]:
    """WebP of every plane, in the best quality that fits the budget."""
    found: list[list[bytes]] = []
    for quality in _QUALITIES:
        found = [[_webp(plane, quality) for plane in shot.planes] for shot in shots]
        if sum(len(data) for planes in found for data in planes) <= _MOST_BYTES:
            break
    return found


def _webp(plane: Bytes, quality: int) -> bytes:
    import imagecodecs

    grey = np.repeat(plane[..., None], 3, axis=2)
    return bytes(imagecodecs.webp_encode(grey, level=quality, lossless=False))


def _by_well(
    shots: Sequence[_Shot], encoded: Sequence[Sequence[bytes]], channels: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for shot, planes in zip(shots, encoded, strict=True):
        named = zip(shot.task.labels, planes, strict=True)
        field = {
            "site": shown(shot.task.field.site),
            "height": shot.task.field.height,
            "width": shot.task.field.width,
            "shots": [
                [channels.index(label), base64.b64encode(data).decode()]
                for label, data in named
                if label in channels
            ],
        }
        found.setdefault(shot.well, []).append(field)
    return found


def _note(options: EmbedOptions, n_shown: int, n_all: int) -> str:
    scale = {
        "dtype": "from 0 to the maximum of the stored type",
        "percentile": "from the 0.1 to the 99.9 percentile of each field and channel",
        "none": "over the range of the stored type (the embedding took values as stored)",
    }[options.intensity]
    some = "" if n_shown == n_all else f" {n_shown} of the plate's {n_all} fields are shown."
    return f"Contrast as embedded: {scale}. Squares are the tiles of {options.tile} px.{some}"


def _dark(shots: Sequence[_Shot], channels: Sequence[str], options: EmbedOptions) -> Iterator[str]:
    """Channels that use little of the range: what the network saw was nearly black."""
    if options.intensity != "dtype":
        return
    for channel in channels:
        bright = [
            float(np.percentile(shot.planes[shot.task.labels.index(channel)], 99))
            for shot in shots
            if channel in shot.task.labels
        ]
        if bright and float(np.median(bright)) < _DARK * 255:
            yield (
                f"channel {shown(channel)} uses less than {_DARK:.0%} of the intensity range in"
                " most fields, so that the network saw it nearly black: embed with"
                " --intensity percentile"
            )


_DARK = 0.04
