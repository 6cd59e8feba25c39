"""Datasets: OME-Zarr plates and folders of images, each a list of single-channel planes.

A plane is one channel of one field (or file) at one time point; of several z planes the maximum is
taken, as `embed` does.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from unidino_fast import ops
from unidino_fast.convert.images import is_image, quiet_tifffile, read_header, read_pixels
from unidino_fast.errors import PlateError, TrainingError, UnidinoError
from unidino_fast.names import parse_well
from unidino_fast.plate import open_plate
from unidino_fast.plate_model import Region
from unidino_fast.preprocess import STRETCH, STRETCH_EPSILON
from unidino_fast.reading import FieldReader, FieldRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from unidino_fast.convert.images import Header
    from unidino_fast.plate_model import Field
    from unidino_fast.storage import Storage
    from unidino_fast.training.config import SourceConfig

    Pixels = NDArray[Any]

_GROUP_FILES = (".zattrs", ".zgroup", "zarr.json")


@dataclass(frozen=True)
class Box:
    """A square to cut: top, left, edge, in pixels."""

    y: int
    x: int
    size: int


@dataclass(frozen=True)
class Place:
    """Where a plane is from; what a folder's `pattern` does not say is empty.

    Attributes:
        plate: name of the plate; of the dataset where a pattern does not say it.
        well: `A01`, or as a file's name has it.
        channel: label, or as a file's name has it; with the number of the plane in a file of
            several channels.
        label: what was done to the well, where a file's name says it.
    """

    plate: str
    well: str
    channel: str
    label: str | None = None


class Source(Protocol):
    """A dataset; goes to other processes by pickling."""

    name: str
    n_small: int
    """Planes left out because a global view does not fit them."""

    def __len__(self) -> int:
        """Planes."""
        ...

    def shape(self, index: int) -> tuple[int, int]:
        """Height and width of a plane."""
        ...

    def crops(self, index: int, boxes: Sequence[Box]) -> list[Pixels]:
        """Squares of a plane in the stored dtype."""
        ...

    def plane(self, index: int) -> Pixels:
        """A whole plane (H, W) in the stored dtype."""
        ...

    def bounds(self, index: int) -> tuple[float, float]:
        """The stored value that becomes 0, and what is divided by."""
        ...

    def describe(self, index: int) -> str:
        """How messages call a plane."""
        ...

    def place(self, index: int) -> Place:
        """Where a plane is from.

        Raises:
            TrainingError: the name of its file does not say it.
        """
        ...


def open_source(config: SourceConfig, *, smallest: int, cache_bytes: int) -> Source:
    """Opens a dataset: reads metadata and headers, no pixels.

    Args:
        config: with its path.
        smallest: edge of the largest view; smaller planes are left out.
        cache_bytes: decoded planes of image files to keep.

    Raises:
        TrainingError: it cannot be read, or no plane is large enough: names the dataset.
    """
    path = config.path or ""
    try:
        if _is_plate(config):
            source: Source = PlateSource(config, smallest)
        else:
            with quiet_tifffile():
                source = ImageSource(config, smallest, cache_bytes)
    except TrainingError:
        raise
    except UnidinoError as error:
        raise TrainingError(f"dataset {config.name}: {error}") from error
    if len(source) == 0:
        remedy = "lower views.global_size or take it out"
        raise TrainingError(
            f"dataset {config.name} at {path} is too small: none of its {source.n_small} images has"
            f" {smallest} x {smallest} px: {remedy}"
        )
    return source


def _is_plate(config: SourceConfig) -> bool:
    if config.kind != "auto":
        return config.kind == "plate"
    path = config.path or ""
    folder = Path(path)
    if "://" in path or folder.is_file() or folder.name.endswith(".zarr"):
        return True
    return any((folder / name).is_file() for name in _GROUP_FILES)


class PlateSource:
    """A plate: crops decode the chunks that they touch and no others.

    `percentile` needs whole planes once each, for their range.
    """

    def __init__(self, config: SourceConfig, smallest: int) -> None:
        self.name = config.name
        self._intensity = config.intensity
        plate = open_plate(config.path or "")
        wanted = config.channels
        for label in wanted or ():
            if label not in plate.channels:
                raise PlateError(
                    f"channel {label!r} is not in plate {plate.name}: choose among"
                    f" {', '.join(plate.channels)}"
                )
        self._storage: Storage = plate.storage
        self._plate = plate.name
        self._fields: list[Field] = []
        self._wells: list[str] = []
        self._planes: list[tuple[int, int, int]] = []  # field, time, channel
        self.n_small = 0
        for name, field in ((well.name, field) for well in plate.wells for field in well.fields):
            channels = [i for i, c in enumerate(field.channels) if wanted is None or c in wanted]
            planes = [
                (len(self._fields), time, channel)
                for time in range(field.length("t"))
                for channel in channels
            ]
            if min(field.height, field.width) < smallest:
                self.n_small += len(planes)
                continue
            self._fields.append(field)
            self._wells.append(name)
            self._planes += planes
        self._bounds: dict[int, tuple[float, float]] = {}
        self._reader: FieldReader | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None}

    def __len__(self) -> int:
        return len(self._planes)

    def shape(self, index: int) -> tuple[int, int]:
        """See `Source`."""
        field = self._fields[self._planes[index][0]]
        return field.height, field.width

    def crops(self, index: int, boxes: Sequence[Box]) -> list[Pixels]:
        """See `Source`; each chunk is decoded once for all boxes."""
        number, time, channel = self._planes[index]
        field = self._fields[number]
        top, left = (field.region.y, field.region.x) if field.region else (0, 0)
        requests = []
        for box in boxes:
            region = Region(top + box.y, left + box.x, box.size, box.size)
            requests.append(FieldRequest(replace(field, region=region), time, (channel,), "max"))
        return self._read(requests)

    def plane(self, index: int) -> Pixels:
        """See `Source`."""
        number, time, channel = self._planes[index]
        return self._read([FieldRequest(self._fields[number], time, (channel,), "max")])[0]

    def bounds(self, index: int) -> tuple[float, float]:
        """See `Source`."""
        if self._intensity == "dtype":
            return _dtype_bounds(np.dtype(self._fields[self._planes[index][0]].array.dtype))
        if index not in self._bounds:
            self._bounds[index] = _percentile_bounds(self.plane(index))
        return self._bounds[index]

    def describe(self, index: int) -> str:
        """See `Source`."""
        number, time, channel = self._planes[index]
        field = self._fields[number]
        moment = f", time {time}" if field.length("t") > 1 else ""
        return f"{field.array_path}, channel {field.channels[channel]}{moment}"

    def place(self, index: int) -> Place:
        """See `Source`."""
        number, _, channel = self._planes[index]
        return Place(self._plate, self._wells[number], self._fields[number].channels[channel])

    def _read(self, requests: list[FieldRequest]) -> list[Pixels]:
        if self._reader is None:
            self._reader = FieldReader(self._storage, n_threads=1)
        read = []
        for pixels in self._reader.stream(requests):
            if isinstance(pixels, UnidinoError):
                raise TrainingError(f"dataset {self.name}: {pixels}")
            read.append(pixels[0])
        return read


class ImageSource:
    """A folder of TIFF and PNG files, at any depth; files are decoded whole and kept a while."""

    def __init__(self, config: SourceConfig, smallest: int, cache_bytes: int) -> None:
        if config.channels is not None:
            raise TrainingError(
                f"dataset {config.name}: channels {', '.join(config.channels)} are asked for, but a"
                " folder of images has no labels of channels: take that setting out, or leave files"
                " out by exclude"
            )
        self.name = config.name
        self._folder = config.path or ""
        self._pattern = config.pattern
        self._intensity = config.intensity
        self._headers: list[tuple[str, Header]] = []
        self._planes: list[tuple[int, int]] = []  # file, plane of its T x C
        self.n_small = 0
        for path in _image_files(config):
            header = read_header(path)
            n_planes = header.planes[0] * header.planes[1]
            if min(header.shape) < smallest:
                self.n_small += n_planes
                continue
            self._planes += [(len(self._headers), plane) for plane in range(n_planes)]
            self._headers.append((path, header))
        self._bounds: dict[int, tuple[float, float]] = {}
        self._cache = _Cache(cache_bytes)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": _Cache(self._cache.most)}

    def __len__(self) -> int:
        return len(self._planes)

    def shape(self, index: int) -> tuple[int, int]:
        """See `Source`."""
        return self._headers[self._planes[index][0]][1].shape

    def crops(self, index: int, boxes: Sequence[Box]) -> list[Pixels]:
        """See `Source`."""
        plane = self.plane(index)
        return [plane[b.y : b.y + b.size, b.x : b.x + b.size] for b in boxes]

    def bounds(self, index: int) -> tuple[float, float]:
        """See `Source`."""
        if self._intensity == "dtype":
            return _dtype_bounds(self._headers[self._planes[index][0]][1].dtype)
        if index not in self._bounds:
            self._bounds[index] = _percentile_bounds(self.plane(index))
        return self._bounds[index]

    def describe(self, index: int) -> str:
        """See `Source`."""
        number, plane = self._planes[index]
        path, header = self._headers[number]
        several = header.planes[0] * header.planes[1] > 1
        return f"{path}{f', plane {plane}' if several else ''}"

    def place(self, index: int) -> Place:
        """See `Source`; by the groups `well`, `plate`, `channel` and `label` of the pattern."""
        number, plane = self._planes[index]
        path, header = self._headers[number]
        name = Path(path).relative_to(self._folder).as_posix()
        match = re.search(self._pattern or "", name)
        found = match.groupdict() if match else {}
        if not found.get("well"):
            raise TrainingError(
                f"dataset {self.name}: pattern {self._pattern} finds no well in {name}: correct it,"
                " or leave such files out by exclude"
            )
        well = parse_well(found["well"])
        channel, n_channels = found.get("channel") or "", header.planes[1]
        if n_channels > 1:
            channel = f"{channel}#{plane % n_channels}"
        return Place(
            plate=found.get("plate") or self.name,
            well=str(well) if well else found["well"],
            channel=channel,
            label=found.get("label") or None,
        )

    def plane(self, index: int) -> Pixels:
        """See `Source`."""
        number, plane = self._planes[index]
        pixels = self._cache.get(number)
        if pixels is None:
            path, header = self._headers[number]
            try:
                with quiet_tifffile():
                    decoded = read_pixels(path, header)  # (T, C, Z, Y, X)
            except UnidinoError as error:
                raise TrainingError(f"dataset {self.name}: {error}") from error
            pixels = decoded.max(axis=2).reshape(-1, *header.shape)
            self._cache.put(number, pixels)
        return pixels[plane]  # type: ignore[no-any-return]


class _Cache:
    """The arrays used last, within a number of bytes."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._held: OrderedDict[int, Pixels] = OrderedDict()
        self._n_bytes = 0

    def get(self, key: int) -> Pixels | None:
        if key in self._held:
            self._held.move_to_end(key)
        return self._held.get(key)

    def put(self, key: int, pixels: Pixels) -> None:
        if pixels.nbytes > self.most:
            return
        self._held[key] = pixels
        self._n_bytes += pixels.nbytes
        while self._n_bytes > self.most:
            _, old = self._held.popitem(last=False)
            self._n_bytes -= old.nbytes


def _image_files(config: SourceConfig) -> list[str]:
    folder = Path(config.path or "")
    if not folder.is_dir():
        raise TrainingError(f"dataset {config.name}: {folder} is no folder: correct its path")
    files = sorted(path for path in folder.rglob("*") if is_image(path.name) and _is_file(path))
    kept = [p for p in files if not any(fnmatch(p.name, pattern) for pattern in config.exclude)]
    if not kept:
        left_out = f" ({len(files)} left out by exclude)" if files else ""
        raise TrainingError(
            f"dataset {config.name}: no TIFF or PNG file in {folder}{left_out}: correct its path,"
            ' or set kind = "plate" if it holds one'
        )
    return [str(path) for path in kept]


def _is_file(path: Path) -> bool:
    """Whether it is a file, or a link that leads nowhere: an image that cannot be read."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def _dtype_bounds(dtype: np.dtype[Any]) -> tuple[float, float]:
    return 0.0, float(np.iinfo(dtype).max) if dtype.kind in "iu" else 1.0


def _percentile_bounds(plane: Pixels) -> tuple[float, float]:
    planes = torch.from_numpy(np.ascontiguousarray(plane)[None])
    low, high = ops.intensity_range(planes, STRETCH)[0].tolist()
    return low, high - low + STRETCH_EPSILON
