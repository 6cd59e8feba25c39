"""Chunks of pixels of two bytes, decoded to where they belong: compiled by numba.

Elsewhere a chunk is decoded into a buffer, and its rows are copied from there into a field. Here
the last step of decoding (in blosc, undoing the shuffle) writes them. And one call reads and
decodes all chunks of a lot: threads that want the interpreter at each step wait for one another.

Chunks are untrusted, and compiled code checks no index by itself: each offset and size that a chunk
declares is looked at here before it is used. (Blosc's: README_CHUNK_FORMAT of c-blosc, version 2.)
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from unidino_fast.compiled import compiled
from unidino_fast.reading import bits, libraries

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]
    Numbers = NDArray[np.int64]
    Chunk = tuple[int, int, int]
    To = tuple[NDArray[np.uint16], int, int, int, int]
    Words = NDArray[np.uint64]
    All = tuple[NDArray[np.uint16], int, Numbers, Words, Numbers]
    Work = tuple[Bytes, Words, int, Numbers]

_PIXEL_BYTES, _WORD_BYTES, _HEADER_BYTES = 2, 8, 16
_BYTE_BITS = np.uint16(8)
_VERSION, _CODEC_VERSION = 2, 1  # of a chunk's header, and of how lz4 and zstd are written
_BYTES_SHUFFLED, _COPIED, _BITS_SHUFFLED = 1, 2, 4  # flags; what is copied is not shuffled
_OF_ZSTD, _OF_BLOSC, _PLAIN = 0, 1, 2  # kinds of chunks; the last holds pixels as they are
_SHUFFLED = 5  # flags that c-blosc2 sets together, where its own longer header follows
_RESERVED, _UNSPLIT = 8, 16
_CODEC_BITS = 5  # the codec stands in the flags from this bit on
_LZ4, _ZSTD = 1, 4
_LEAST_SPLIT = 128  # elements of a block that is split in streams, one for each of their bytes
_GROUP = 8  # elements whose bits are shuffled together
_REST_WORDS = 128  # that `bits.join_all` needs
_TOLD_BYTES = 1 << 18  # read at a time where what is told of them is to find them in the caches
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # as `FolderStorage` opens files
_PAGE_BYTES = 4096  # copies of files end up half a page from their place in one: see `aligned`
_STATE, _USED, _SUM, _WATCHER, _WATCHED, _FOUND = range(6)
"""Of a checksum: the address of its state, the same where it is taken (else 0), what it is. And the
addresses of what watches (0: nothing), of its state, and of where it puts what it finds."""


class Window(NamedTuple):
    """Where pixels of a chunk go: the first in `start`, and each row `pitch` behind the last."""

    memory: NDArray[np.uint16]
    start: int
    pitch: int
    rows: int
    columns: int


@compiled
def place(chunk: Chunk, stored: Bytes, to: To, work: Work) -> Any:
    """Decodes a chunk, and writes its first rows and columns where they belong.

    Args:
        chunk: its kind: a frame of zstd that declares its size, of blosc, or pixels as they are;
            how many it must hold; and how many in a row.
        stored: all its bytes.
        to: a `Window` as a plain tuple: to recognise any other takes numba 1 us.
        work: for use here, as `room.work_room` gives it for a chunk. Where that asks for it, the
            checksum of its pixels stands there afterwards, if they have no gaps; else 0.

    Returns:
        Whether the chunk is sound, and of a kind that is known here: elements of two bytes, either
        shuffle or none, lz4 or zstd. Else there may be anything where its pixels belong.
    """
    kind, n_pixels, width = chunk
    memory, start, pitch, rows, columns = to
    window, sums = Window(memory, start, pitch, rows, columns), work[3]
    if not _fits(n_pixels, width, window):
        sums[_SUM] = 0
        return False
    _begin_sums(sums, _is_dense(n_pixels, width, window))
    if kind == _OF_BLOSC:
        is_sound = _place_blosc(stored, n_pixels, width, window, work)
    elif kind == _OF_ZSTD:
        is_sound = _place_zstd(stored, n_pixels, width, window, work)
    else:
        is_sound = _place_plain(stored, n_pixels, width, window, work)
    _end_sums(sums, is_sound)
    return is_sound


@compiled
def fetch(chunk: Chunk, paths: Bytes, parts: Numbers, stored: Bytes, to: All, work: Work) -> int:
    """Reads chunks of one field from files, and places each as `place` does.

    Args:
        chunk: each of them.
        paths: of files, each closed by a zero.
        parts: (N, 3): where the path of a chunk begins, where the chunk begins in that file, and
            how long it is: if negative, as long as the file, which is to be shorter than that.
        stored: for use here; a page longer than the longest chunk.
        to: `memory` and `pitch`; (N, 3) `start`, `rows` and `columns`; (N,) takes checksums, and
            (N, F) what a `Watcher` finds.
        work: as for `place`.

    Returns:
        How many there are before the first that cannot be read, or that `place` does not take.
    """
    memory, pitch, windows, checksums, watched = to
    file, of, n_sound = -1, -1, 0
    for number in range(len(parts)):
        path, offset, length = parts[number]
        start, rows, columns = windows[number]
        if path != of:
            if file >= 0:
                libraries.close_file(file)
            file, of = libraries.open_file(paths.ctypes.data + path, _FLAGS), path
        if file < 0 or abs(length) > stored.size - _PAGE_BYTES:
            break
        work[3][_FOUND] = watched[number:].ctypes.data
        window = Window(memory, start, pitch, rows, columns)
        if chunk[0] == _PLAIN and _is_dense(chunk[1], chunk[2], window):
            if not _read_plain(file, offset, length, chunk, window, work):
                break
            checksums[number] = np.uint64(work[3][_SUM])
            n_sound += 1
            continue
        skip = (offset + _PAGE_BYTES // 2 - stored.ctypes.data) % _PAGE_BYTES & -_WORD_BYTES
        n = libraries.read_at(file, stored.ctypes.data + skip, abs(length), offset)
        if n < 1 or (n == -length if length < 0 else n != length):
            break
        if not place(chunk, stored[skip : skip + n], (memory, start, pitch, rows, columns), work):
            break
        checksums[number] = np.uint64(work[3][_SUM])
        n_sound += 1
    if file >= 0:
        libraries.close_file(file)
    return n_sound


@compiled
def _read_plain(file: int, offset: int, length: int, chunk: Chunk, to: Window, work: Work) -> Any:
    """Reads a chunk of pixels as they are straight to where they belong, as `fetch` its parts."""
    (_, n_pixels, width), (_, words, _, sums) = chunk, work
    n_bytes = n_pixels * _PIXEL_BYTES
    is_meant = length == n_bytes or -length > n_bytes
    if not is_meant or not _fits(n_pixels, width, to):
        return False
    _begin_sums(sums, True)
    out = to.memory.ctypes.data + _PIXEL_BYTES * to.start
    most = _TOLD_BYTES if sums[_USED] else n_bytes
    is_sound, done = True, 0
    while is_sound and done < n_bytes:
        n = min(most, n_bytes - done)
        is_sound = libraries.read_at(file, out + done, n, offset + done) == n
        if is_sound:
            _tell(sums, to, done // _PIXEL_BYTES, n // _PIXEL_BYTES)
        done += n
    if is_sound and length < 0:  # nothing may follow
        is_sound = libraries.read_at(file, words.ctypes.data, 1, offset + n_bytes) == 0
    _end_sums(sums, is_sound)
    return is_sound


@compiled
def _place_blosc(stored: Bytes, n_pixels: int, width: int, to: Window, work: Work) -> Any:
    staged, words, zstd, sums = work
    n_stored, n_bytes = stored.size, n_pixels * _PIXEL_BYTES
    if not _is_meant(stored, n_bytes):
        return False
    if to.columns == width == to.pitch:  # rows without gaps are one
        width, to = n_pixels, Window(to.memory, to.start, n_pixels, 1, to.rows * to.columns)
    flags, element, block_bytes = np.int64(stored[2]), np.int64(stored[3]), _int32(stored, 8)
    if flags & _COPIED:
        return _place_plain(stored[_HEADER_BYTES:], n_pixels, width, to, work)
    n_words = (block_bytes + _WORD_BYTES - 1) // _WORD_BYTES
    if block_bytes > staged.size or _REST_WORDS + n_words > words.size:
        return False
    are_bytes_apart = flags & _BYTES_SHUFFLED and element > 1
    for block in range((n_bytes + block_bytes - 1) // block_bytes):
        n_own = min(block_bytes, n_bytes - block * block_bytes)
        n = n_own // _PIXEL_BYTES
        is_split = not flags & _UNSPLIT and n_own == block_bytes and n_own >= element * _LEAST_SPLIT
        n_streams = element if is_split else 1
        n_each = n_own // n_streams
        # where its bytes stand, and of those that are shuffled the low and the high ones
        whole, low, high = staged[:n_own], staged[:n], staged[n:n_own]
        at = _int32(stored, _HEADER_BYTES + 4 * block)
        for stream in range(n_streams):
            if at < _HEADER_BYTES or at + 4 > n_stored:
                return False
            n_packed = _int32(stored, at)
            at += 4
            if not 1 <= n_packed <= n_each or at + n_packed > n_stored:
                return False
            packed = stored[at : at + n_packed]
            at += n_packed
            if n_packed < n_each or (n_streams > 1 and not are_bytes_apart):
                out = staged[stream * n_each : (stream + 1) * n_each]
                if not _unpack(packed, out, flags >> _CODEC_BITS, zstd):
                    return False
            elif n_streams == 1:
                whole, low, high = packed, packed[:n], packed[n:]
            elif stream == 0:
                low = packed
            else:
                high = packed
        first = block * (block_bytes // _PIXEL_BYTES)
        if are_bytes_apart:
            _put_bytes(low, high, first, width, to)
        elif flags & _BITS_SHUFFLED and n % _GROUP == 0:
            _put_bits(whole, first, n, width, to, words)
        else:  # or bits of a number of pixels that c-blosc leaves as they are
            _put_plain(whole, first, width, to, words)
        _tell(sums, to, first, n)
    return True


@compiled
def _place_zstd(stored: Bytes, n_pixels: int, width: int, to: Window, work: Work) -> Any:
    staged, _, zstd, sums = work
    n_bytes = n_pixels * _PIXEL_BYTES
    if staged.size < n_bytes:
        return False
    source, size = stored.ctypes.data, stored.size
    if libraries.zstd_size(source, size) != np.uint64(n_bytes):  # or what is no frame
        return False
    is_dense = _is_dense(n_pixels, width, to)
    out = to.memory.ctypes.data + _PIXEL_BYTES * to.start if is_dense else staged.ctypes.data
    if libraries.zstd_decompress(zstd, out, n_bytes, source, size) != np.uint64(n_bytes):
        return False
    if not is_dense:
        _put(staged[:n_bytes].view(np.uint16), 0, width, to)
    _tell(sums, to, 0, n_pixels)
    return True


@compiled
def _place_plain(stored: Bytes, n_pixels: int, width: int, to: Window, work: Work) -> Any:
    _, words, _, sums = work
    if stored.size != n_pixels * _PIXEL_BYTES or _WORD_BYTES * words.size < stored.size:
        return False
    _put_plain(stored, 0, width, to, words)
    _tell(sums, to, 0, n_pixels)
    return True


@compiled
def _is_dense(n_pixels: int, width: int, to: Window) -> Any:
    """Whether all pixels of a chunk are wanted, and follow one another where they belong."""
    return to.columns == width == to.pitch and to.rows * width == n_pixels


@compiled
def _begin_sums(sums: Numbers, is_wanted: bool) -> None:
    sums[_USED], sums[_SUM] = 0, 0
    if is_wanted and sums[_STATE]:
        sums[_USED] = sums[_STATE]
        libraries.xxh3_reset(sums[_USED])


@compiled
def _end_sums(sums: Numbers, is_sound: bool) -> None:
    if sums[_USED] and is_sound:
        sums[_SUM] = np.int64(libraries.xxh3_digest(sums[_USED]))


@compiled
def _tell(sums: Numbers, to: Window, first: int, n: int) -> None:
    """Says that pixels, from the `first` of a chunk on, are there, while the caches hold them."""
    if sums[_USED]:
        start = to.memory.ctypes.data + _PIXEL_BYTES * to.start
        libraries.xxh3_update(sums[_USED], start + _PIXEL_BYTES * first, _PIXEL_BYTES * n)
        if sums[_WATCHER]:
            libraries.tell(sums[_WATCHER], sums[_WATCHED], start, first, n, sums[_FOUND])


@compiled
def _fits(n_pixels: int, width: int, to: Window) -> Any:
    """Whether what is wanted of a chunk is part of it, and its place part of the memory."""
    if width < 1 or n_pixels < 1 or n_pixels % width:
        return False
    if not (1 <= to.rows <= n_pixels // width and 1 <= to.columns <= min(width, to.pitch)):
        return False
    return to.start >= 0 and to.start + (to.rows - 1) * to.pitch + to.columns <= to.memory.size


@compiled
def _is_meant(stored: Bytes, n_bytes: int) -> Any:
    """Whether the header is that of a chunk of so many bytes, of a kind that is decoded here."""
    if stored.size < _HEADER_BYTES or stored[0] != _VERSION or stored[1] != _CODEC_VERSION:
        return False
    if _int32(stored, 4) != n_bytes or _int32(stored, 12) != stored.size:
        return False
    flags, element, block_bytes = stored[2], stored[3], _int32(stored, 8)
    if flags & _SHUFFLED == _SHUFFLED or flags & _RESERVED or not 1 <= block_bytes <= n_bytes:
        return False
    if element != _PIXEL_BYTES and element != 1:  # pixels may count as two elements each
        return False
    if flags & _COPIED:
        return stored.size == _HEADER_BYTES + n_bytes
    if flags & _BITS_SHUFFLED and element == 1:  # which is another shuffle
        return False
    is_known = flags >> _CODEC_BITS == _LZ4 or flags >> _CODEC_BITS == _ZSTD
    if not is_known or block_bytes % _PIXEL_BYTES:
        return False
    n_blocks = (n_bytes + block_bytes - 1) // block_bytes
    return _HEADER_BYTES + 4 * n_blocks <= stored.size


@compiled
def _unpack(packed: Bytes, out: Bytes, codec: int, zstd: int) -> Any:
    """Decodes a stream, which may be stored as it is; whether it fills its place exactly."""
    if packed.size == out.size:
        out[:] = packed
        return True
    source, target = packed.ctypes.data, out.ctypes.data
    if codec == _LZ4:
        size, most = np.int32(packed.size), np.int32(out.size)
        return libraries.lz4_decompress(source, target, size, most) == out.size
    n_bytes = libraries.zstd_decompress(zstd, target, out.size, source, packed.size)
    return n_bytes == np.uint64(out.size)


@compiled
def _int32(stored: Bytes, at: int) -> Any:
    """A number of four bytes, lowest first; negative where its highest bit is set."""
    found = np.uint32(0)
    for i in range(4):
        found |= np.uint32(stored[at + i]) << np.uint32(8 * i)
    return np.int64(np.int32(found))


@compiled
def _line(first: int, n_left: int, width: int, to: Window) -> Any:
    """Of a row from pixel `first` of a chunk on: its place, how many are wanted, and how many are.

    Where none is wanted a slice is empty: behind a condition no loop is made of vectors.
    """
    y = first // width
    x = first - y * width
    n = min(width - x, n_left)
    n_wanted = max(min(n, to.columns - x), 0) if y < to.rows else 0
    return to.start + y * to.pitch + x, n_wanted, n


@compiled
def _put_bytes(low: Bytes, high: Bytes, first: int, width: int, to: Window) -> None:
    """Writes pixels from the `first` of a chunk on, whose bytes stand apart."""
    done = 0
    while done < low.size:
        at, n_wanted, n = _line(first + done, low.size - done, width, to)
        out = to.memory[at : at + n_wanted]
        from_low, from_high = low[done : done + n_wanted], high[done : done + n_wanted]
        for i in range(n_wanted):
            out[i] = np.uint16(from_low[i]) | np.uint16(from_high[i]) << _BYTE_BITS
        done += n


@compiled
def _put_bits(shuffled: Bytes, first: int, n: int, width: int, to: Window, words: Words) -> None:
    """Writes pixels from the `first` of a chunk on, whose bits stand apart."""
    at, n_wanted, _ = _line(first, n, width, to)
    if n_wanted == n:
        bits.join_all(shuffled, to.memory[at : at + n], words)
    else:
        joined = words[_REST_WORDS:].view(np.uint16)[:n]
        bits.join_all(shuffled, joined, words)
        _put(joined, first, width, to)


@compiled
def _put_plain(plain: Bytes, first: int, width: int, to: Window, words: Words) -> None:
    """Writes pixels from the `first` on, whose bytes stand together."""
    n = plain.size // _PIXEL_BYTES
    if plain.ctypes.data % _PIXEL_BYTES == 0:
        pixels = plain.view(np.uint16)
    else:
        pixels = words.view(np.uint16)[:n]
        for i in range(n):
            pixels[i] = np.uint16(plain[2 * i]) | np.uint16(plain[2 * i + 1]) << _BYTE_BITS
    _put(pixels, first, width, to)


@compiled
def _put(pixels: NDArray[np.uint16], first: int, width: int, to: Window) -> None:
    """Writes pixels from the `first` of a chunk on."""
    done = 0
    while done < pixels.size:
        at, n_wanted, n = _line(first + done, pixels.size - done, width, to)
        out, source = to.memory[at : at + n_wanted], pixels[done : done + n_wanted]
        for i in range(n_wanted):
            out[i] = source[i]
        done += n
