"""Image files: what their headers say, and their pixels. TIFF and PNG, on disk or behind a URL.

Letters: T time points, C channels, Z planes, Y rows, X columns.
"""

from __future__ import annotations

import logging
import re
import struct
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import tifffile

from unidino_fast.errors import ConvertError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

IMAGE_SUFFIXES = (".tif", ".tiff", ".png")
URL_SCHEMES = ("s3://", "https://", "http://")

_LARGEST_PLANE = 2**31 - 32  # bytes that one blosc chunk holds
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_AXIS_OF_TIFF = {"T": "t", "C": "c", "Z": "z", "Q": "z", "I": "z"}  # Q, I: pages without a meaning
_METASERIES_SCALE = re.compile(r'id="spatial-calibration-x"[^>]*?value="([0-9.eE+-]+)"')
_METASERIES_MICRONS = re.compile(r'id="spatial-calibration-units"[^>]*?value="(?:um|µm|micron)')
_OME_SCALE = re.compile(r'PhysicalSizeX="([0-9.eE+-]+)"')
_OME_OTHER_UNIT = re.compile(r'PhysicalSizeXUnit="(?!µm|um|&#181;m)')


class _UnfitError(ValueError):
    """A sound file that holds what no plate does; the message has its remedy."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a file holds, read without decoding a pixel.

    `planes` counts (T, C, Z) inside the file: (1, 1, 1) for a plain image, (1, 1, N) for N pages.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    planes: tuple[int, int, int] = (1, 1, 1)
    pixel_size_um: float | None = None


def is_image(name: str) -> bool:
    """Whether the file name ends as an image's does; `._name` files of macOS are none."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def is_url(path: str) -> bool:
    """Whether the path is one of the URLs that images are fetched from."""
    return path.lower().startswith(URL_SCHEMES)


def read_header(path: str) -> Header:
    """Shape, dtype and planes of a file; decodes nothing.

    Raises:
        ConvertError: the file cannot be read, is cut short, is RGB or of an unfit dtype.
    """
    with _naming(path):
        source = BytesIO(_fetch(path)) if is_url(path) else path
        if path.lower().endswith(".png"):
            header = _png_header(source)
        else:
            with tifffile.TiffFile(source, _multifile=False) as tiff:
                header = _tiff_header(tiff)
        _check(header)
        return header


def read_pixels(path: str, header: Header) -> NDArray[Any]:
    """The pixels of a file, (T, C, Z, Y, X) in native byte order.

    Raises:
        ConvertError: they cannot be decoded, or are not what `header` promises.
    """
    with _naming(path):
        source = BytesIO(_fetch(path)) if is_url(path) else path
        if path.lower().endswith(".png"):
            found = _png_header(source)
            data = source.getvalue() if isinstance(source, BytesIO) else Path(source).read_bytes()
            pixels = imagecodecs.png_decode(data)
        else:
            with tifffile.TiffFile(source, _multifile=False) as tiff:
                found = _tiff_header(tiff)
                pixels = np.stack([_ordered(series) for series in tiff.series])
        if (found.shape, found.dtype, found.planes) != (header.shape, header.dtype, header.planes):
            raise ValueError(f"holds {describe(found)} where {describe(header)} is due")
        native = np.asarray(pixels).astype(header.dtype, copy=False)
        return native.reshape(*header.planes, *header.shape)


def describe(header: Header) -> str:
    """A header in words: `1080 x 1080 uint16`, with planes where there are several."""
    text = f"{header.shape[0]} x {header.shape[1]} {header.dtype.name}"
    counts = [f"{n} {axis}" for n, axis in zip(header.planes, "tcz", strict=True) if n > 1]
    return f"{text} ({', '.join(counts)})" if counts else text


@contextmanager
def quiet_tifffile() -> Iterator[None]:
    """Keeps tifffile's log from the user: what matters in it becomes an error."""
    logger = logging.getLogger("tifffile")
    propagate = logger.propagate
    logger.propagate = False
    logger.addHandler(_TIFF_LOG)
    try:
        yield
    finally:
        logger.removeHandler(_TIFF_LOG)
        logger.propagate = propagate


class _TiffLog(logging.Handler):
    """Remembers, a thread, that a chain of pages broke off: tifffile logs that and goes on."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.local = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if "TiffPages" in message:
            self.local.broken = message

    def start(self) -> None:
        self.local.broken = None

    def check(self) -> None:
        if getattr(self.local, "broken", None):
            raise ValueError("its list of pages breaks off: the file is cut short")


_TIFF_LOG = _TiffLog()


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Turns whatever a decoder raises on a broken file into one line that names the file."""
    try:
        yield
    except _UnfitError as error:
        raise ConvertError(f"{path} cannot be used: {error}") from error
    except Exception as error:  # decoders raise a dozen unrelated types on broken files
        raise ConvertError(
            f"{path} cannot be read as an image ({first_line(error)}): "
            "copy it again or take it out of the source"
        ) from error


def _fetch(url: str) -> bytes:
    """The bytes behind a URL; s3 is read anonymously."""
    import fsspec  # slow to import and seldom needed

    options = {"anon": True} if url.lower().startswith("s3://") else {}
    with fsspec.open(url, "rb", **options) as file:
        data: bytes = file.read()
    return data


def _check(header: Header) -> None:
    if header.dtype.kind not in "uif" or header.dtype.itemsize > 8 or header.dtype == np.float16:
        raise _UnfitError(
            f"its dtype {header.dtype} is none that plates hold: save it as uint8 or uint16"
        )
    if min(header.shape) < 1 or np.prod(header.shape) * header.dtype.itemsize > _LARGEST_PLANE:
        raise _UnfitError(f"a plane of {describe(header)} does not fit one chunk of 2 GiB")


def _tiff_header(tiff: tifffile.TiffFile) -> Header:
    _TIFF_LOG.start()
    n_pages = len(tiff.pages)
    _TIFF_LOG.check()
    series = tiff.series[0]
    stack = len(tiff.series)  # plain images one after the other are planes of one stack
    if any((one.shape, one.axes, one.dtype) != (series.shape, "YX", series.dtype)
           for one in tiff.series[1:]):  # fmt: skip
        raise _UnfitError(f"it holds {stack} different images in {n_pages} pages: save them apart")
    page = series.keyframe
    if "S" in series.axes and series.sizes.get("sample", 1) > 1:
        raise _UnfitError("it is RGB: save one grey-scale page (MINISBLACK) a channel")
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        raise _UnfitError("it stores white as 0: save it as MINISBLACK, dark as 0")
    planes = {"t": 1, "c": 1, "z": stack}
    shape = {}
    for code, size in zip(series.axes, series.shape, strict=True):
        if code in "YX":
            shape[code] = int(size)
        elif size > 1:
            axis = _AXIS_OF_TIFF.get(code)
            if axis is None or planes[axis] > 1:
                raise _UnfitError(
                    f"its axes {series.axes} are none that plates hold: use T, C, Z, Y, X"
                )
            planes[axis] = int(size)
    if len(shape) != 2 or series.dtype is None:
        raise ValueError(f"its axes {series.axes} are no image's")
    _check_extent(tiff)
    return Header(
        shape=(shape["Y"], shape["X"]),
        dtype=np.dtype(series.dtype).newbyteorder("="),
        planes=(planes["t"], planes["c"], planes["z"]),
        pixel_size_um=_pixel_size(page.description),
    )


def _check_extent(tiff: tifffile.TiffFile) -> None:
    """Raises where pixel data would lie past the end of the file."""
    size = tiff.filehandle.size
    for page in (page for series in tiff.series for page in series.pages):
        if page is None:
            continue
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
            if offset + count > size:
                raise ValueError(f"pixels end at byte {offset + count} of {size}: it is cut short")


def _ordered(series: tifffile.TiffPageSeries) -> NDArray[Any]:
    """Pixels of a series with its axes brought to the order T, C, Z, Y, X (unit axes dropped)."""
    pixels = series.asarray()
    kept = [(code, n) for code, n in zip(series.axes, series.shape, strict=True)
            if code in "YX" or n > 1]  # fmt: skip
    pixels = pixels.reshape([n for _, n in kept])
    axes = [_AXIS_OF_TIFF.get(code, code.lower()) for code, _ in kept]
    order = sorted(range(len(axes)), key=lambda index: "tczyx".index(axes[index]))
    ordered: NDArray[Any] = pixels.transpose(order)
    return ordered


def _png_header(source: BytesIO | str) -> Header:
    if isinstance(source, BytesIO):
        start = source.getvalue()[:29]
    else:
        with Path(source).open("rb") as file:
            start = file.read(29)
    if len(start) < 29 or start[:8] != _PNG_MAGIC or start[12:16] != b"IHDR":
        raise ValueError("it is no PNG, or is cut short")
    width, height, depth, colour = struct.unpack(">IIBB", start[16:26])
    if colour != 0:
        raise _UnfitError("it is a colour PNG: save one grey-scale file a channel")
    if depth not in (8, 16):
        raise _UnfitError(f"it has {depth} bits a pixel: save it with 8 or 16")
    return Header(shape=(height, width), dtype=np.dtype(f"u{depth // 8}"))


def _pixel_size(description: str) -> float | None:
    """Micrometres a pixel from a MetaMorph or OME description, where it tells."""
    if _METASERIES_MICRONS.search(description):
        match = _METASERIES_SCALE.search(description)
    elif _OME_OTHER_UNIT.search(description):
        match = None
    else:
        match = _OME_SCALE.search(description)
    try:
        size = float(match[1]) if match else 0.0
    except ValueError:
        return None
    return size if 0 < size < 1e4 else None
