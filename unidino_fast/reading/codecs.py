"""Stored bytes of a chunk -> its decoded bytes, in a buffer that is there already.

Chunks are untrusted: each way here looks at the length that a chunk declares before anything is
decoded, writes nowhere but into the buffer, and raises where the chunk does not fill it exactly.
All of them leave the interpreter to other threads while they decode.
"""

from __future__ import annotations

import functools
import gzip
import importlib
import io
import struct
import threading
import zlib
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]
    Decompress = Callable[[memoryview, Bytes], None]

CRC_BYTES = 4
_BLOSC_HEADER = struct.Struct("<BxBBIxxxxI")
"""Version, flags, element size, decoded bytes and stored bytes of a chunk."""
_BLOSC_VERSION = 2
_BLOSC_SHUFFLES = 5
"""Flags of which one is set where the bytes or bits of elements were shuffled."""
_BLOSC2_MARK = 5
"""Flags that c-blosc2 sets together, and c-blosc never, where its own longer header follows."""
_BLOSC_RESERVED = 8
"""A flag that c-blosc never sets; where it is, c-blosc2 adds pixels up."""
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ONE_BYTE_REPEATED = 1
"""Kind of a zstd block that is stored as one byte."""
_RESERVED = 3
"""Kind of a zstd block that no frame may hold."""
_MOST_BLOCKS = 4096
"""Of a zstd frame that are looked at; usual ones hold 128 KiB of pixels each."""
_SLACK = 65_536


def most_stored(n_bytes: int) -> int:
    """The most bytes that any codec here makes of a chunk of `n_bytes`, generously."""
    return n_bytes + n_bytes // 8 + _SLACK


def decompressor(codec: str) -> Decompress | None:
    """What decodes `blosc`, `zstd`, `gzip` or `zlib`; None for other names."""
    return {"blosc": blosc_into, "zstd": zstd_into, "gzip": gzip_into, "zlib": zlib_into}.get(codec)


def blosc_into(stored: memoryview, out: Bytes) -> None:
    """Decodes a blosc chunk: by c-blosc2, which is faster, or by c-blosc what that cannot.

    c-blosc trusts the length in a chunk's header: of a truncated chunk it reads whatever stands
    behind it in memory, and gives that out as pixels. c-blosc2 is given chunks of c-blosc alone:
    its own may leave pixels as they were in the buffer. Neither has a checksum, and a flipped bit
    in the size of the elements would only put bytes in another order: sizes that no pixels have are
    refused. (Writers may well say 1 for pixels of 2 bytes.)

    Raises:
        ValueError: it is truncated, or declares another size than the buffer's.
        RuntimeError: it is damaged.
    """
    version, flags, declared = _blosc_header(stored)
    if declared != out.size:
        _misfit(declared, out)
    is_of_c_blosc = flags & _BLOSC2_MARK != _BLOSC2_MARK and not flags & _BLOSC_RESERVED
    if version == _BLOSC_VERSION and is_of_c_blosc:
        decode, fault = _blosc2()
        try:
            if len(decode(stored, numthreads=1, out=out)) == declared:
                return
        except fault:
            pass  # damaged, or of a codec that c-blosc2 has not
    _numcodecs("blosc").decompress(stored, out)


def blosc_size(stored: memoryview) -> int:
    """Decoded bytes that a blosc chunk declares.

    Raises:
        ValueError: it is shorter or longer than its header says.
    """
    return _blosc_header(stored)[2]


def _blosc_header(stored: memoryview) -> tuple[int, int, int]:
    """Version, flags and decoded bytes of a chunk; raises as `blosc_size`."""
    if len(stored) < _BLOSC_HEADER.size:
        raise ValueError(f"{len(stored)} bytes are no blosc chunk: it is truncated")
    version, flags, element, n_bytes, length = _BLOSC_HEADER.unpack_from(stored)
    if length != len(stored):
        how = "truncated" if len(stored) < length else "damaged"
        raise ValueError(f"{len(stored)} bytes where blosc says {length}: it is {how}")
    if flags & _BLOSC_SHUFFLES and element.bit_count() != 1:
        raise ValueError(f"it has elements of {element} bytes: it is damaged")
    return version, flags, n_bytes


def zstd_into(stored: memoryview, out: Bytes) -> None:
    """Decodes a zstd frame, which may leave its size open.

    A whole frame that declares its size goes to zstandard, which keeps its decoder from frame to
    frame: for a new one zstd asks what the processor can do, and in virtual machines that answer
    takes 10 us. It would take a frame that is cut behind its last pixel for a sound one.

    Raises:
        ValueError: it is no frame, or declares another size than the buffer's.
        RuntimeError: it does not decode to the buffer's size.
    """
    declared, start, has_checksum = _zstd_header(stored)
    if declared is not None and declared != out.size:
        _misfit(declared, out)
    if declared is not None and _is_whole_frame(stored, start, has_checksum=has_checksum):
        decoder, fault = _zstandard()
        try:
            if decoder.stream_reader(stored).readinto(out) == declared:
                return
        except fault:
            pass  # numcodecs says how it is damaged
    _numcodecs("zstd").decompress(stored, out)  # of an open frame, exactly the buffer


def zstd_size(stored: memoryview) -> int | None:
    """Decoded bytes that a zstd frame declares; None where it leaves them open.

    Raises:
        ValueError: it is no zstd frame.
    """
    return _zstd_header(stored)[0]


def _zstd_header(stored: memoryview) -> tuple[int | None, int, bool]:
    """What a zstd frame declares (RFC 8878, 3.1.1.1): size, first byte of its blocks, checksum.

    Raises:
        ValueError: it is no zstd frame.
    """
    if len(stored) < 6 or stored[:4] != _ZSTD_MAGIC:
        raise ValueError("it is no zstd frame")
    descriptor = stored[4]
    is_single = descriptor >> 5 & 1
    width = (is_single, 2, 4, 8)[descriptor >> 6]
    start = 5 + (not is_single) + (0, 1, 2, 4)[descriptor & 3]
    end = start + width
    if len(stored) < end:
        raise ValueError("the zstd frame is truncated")
    size = int.from_bytes(stored[start:end], "little") + (256 if width == 2 else 0)
    return size if width else None, end, bool(descriptor & 4)


def _is_whole_frame(stored: memoryview, start: int, *, has_checksum: bool) -> bool:
    """Whether the blocks of a frame end where it ends (RFC 8878, 3.1.1.2); not of very many."""
    for _ in range(_MOST_BLOCKS):
        header = int.from_bytes(stored[start : start + 3], "little")
        is_last, kind, n_bytes = header & 1, header >> 1 & 3, header >> 3
        start += 3 + (1 if kind == _ONE_BYTE_REPEATED else n_bytes)
        if kind == _RESERVED:
            return False
        if is_last or start >= len(stored):
            return is_last == 1 and start + 4 * has_checksum == len(stored)
    return False


def gzip_into(stored: memoryview, out: Bytes) -> None:
    """Decodes gzip: one member by libdeflate, which checks its CRC, anything else by zlib.

    Raises:
        ValueError: it does not decode to the buffer's size.
        OSError, EOFError, zlib.error: it is damaged or truncated.
    """
    # a member ends with the size that it decodes to
    is_one = int.from_bytes(stored[-4:], "little") == out.size & 0xFFFFFFFF
    if is_one and _by_libdeflate("gzip_decode", stored, out):
        return
    with gzip.GzipFile(fileobj=io.BytesIO(stored)) as file:
        _put(file.read(out.size + 1), out)


def zlib_into(stored: memoryview, out: Bytes) -> None:
    """Decodes zlib's own format by libdeflate, which checks its Adler sum.

    Raises:
        ValueError: it does not decode to the buffer's size.
        zlib.error: it is damaged.
    """
    if _by_libdeflate("deflate_decode", stored, out):
        return
    stream = zlib.decompressobj()
    found = stream.decompress(stored, out.size + 1)
    if len(found) == out.size and not stream.eof:
        raise ValueError("the zlib stream is truncated")
    _put(found, out)


def _by_libdeflate(function: str, stored: memoryview, out: Bytes) -> bool:
    """Whether a stream decodes to exactly the buffer; where not, zlib says what is wrong."""
    import imagecodecs

    decode: Any = getattr(imagecodecs, function)
    try:
        return len(decode(stored, out=out)) == out.size
    except imagecodecs.DeflateError:
        return False


def checked(stored: memoryview) -> memoryview:
    """What stands before a CRC32C.

    Raises:
        ValueError: the checksum differs.
    """
    from google_crc32c import value

    content, crc = stored[:-CRC_BYTES], stored[-CRC_BYTES:]
    if value(np.frombuffer(content, np.uint8)) != int.from_bytes(crc, "little"):
        raise ValueError("its checksum differs: it is damaged")
    return content


@functools.cache
def _blosc2() -> tuple[Callable[..., Any], type[Exception]]:
    """What decodes by c-blosc2, and what it raises."""
    import imagecodecs

    return imagecodecs.blosc2_decode, imagecodecs.Blosc2Error


_OF_THREAD = threading.local()


def _zstandard() -> tuple[Any, type[Exception]]:
    """The thread's own decoder of zstandard, and what it raises."""
    found: tuple[Any, type[Exception]] | None = getattr(_OF_THREAD, "zstandard", None)
    if found is None:
        import zstandard

        found = _OF_THREAD.zstandard = zstandard.ZstdDecompressor(), zstandard.ZstdError
    return found


@functools.cache
def _numcodecs(name: str) -> Any:
    """A module of numcodecs, looked for once: for small chunks that is dear."""
    return importlib.import_module(f"numcodecs.{name}")


def _put(found: bytes, out: Bytes) -> None:
    """Copies bytes, of which one more than the buffer's was asked for."""
    if len(found) != out.size:
        _misfit("more" if len(found) > out.size else len(found), out)
    out[:] = np.frombuffer(found, np.uint8)


def _misfit(found: Any, out: Bytes) -> NoReturn:
    raise ValueError(f"it holds {found} bytes of pixels, not the {out.size} of its chunk")
