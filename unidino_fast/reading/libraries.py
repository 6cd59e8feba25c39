"""Functions of other libraries, as compiled code calls them.

What was compiled and kept on disk is linked to them by their names, which stand here.
"""

from __future__ import annotations

import ctypes
import importlib
import os
from typing import Any

from llvmlite.binding import add_symbol
from numba import types

OPEN_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
"""As `FolderStorage` opens files."""


def _library(module: str) -> Any:
    """A compiled module as a library: it holds the one that it wraps."""
    return ctypes.CDLL(importlib.import_module(module).__file__)


def _linked(function: Any, result: Any, *arguments: Any) -> Any:
    """A function of a library, by a name."""
    name = f"unidino_fast_{function.__name__}"
    add_symbol(name, ctypes.cast(function, ctypes.c_void_p).value)
    return types.ExternalFunction(name, result(*arguments))


_lz4, _zstd = _library("numcodecs.lz4"), _library("numcodecs.zstd")
lz4_decompress = _linked(
    _lz4.LZ4_decompress_safe, types.intc, types.intp, types.intp, types.intc, types.intc
)
zstd_decompress = _linked(_zstd.ZSTD_decompressDCtx, types.uintp, *[types.intp] * 5)
zstd_size = _linked(_zstd.ZSTD_getFrameContentSize, types.uint64, *[types.intp] * 2)

_xxhash = _library("xxhash._xxhash")
xxh3_reset = _linked(_xxhash.XXH3_64bits_reset, types.intc, types.intp)
xxh3_digest = _linked(_xxhash.XXH3_64bits_digest, types.uint64, types.intp)
xxh3_update = _linked(
    # the first, where there is one, takes the widest vectors of the processor
    getattr(_xxhash, "XXH3_64bits_update_dispatch", None) or _xxhash.XXH3_64bits_update,
    types.intc,
    *[types.intp] * 3,
)

_files = ctypes.CDLL(None)
open_file = _linked(_files.open, types.intc, types.intp, types.intc)
read_at = _linked(_files.pread, types.intp, types.intc, types.intp, types.intp, types.int64)
close_file = _linked(_files.close, types.intc, types.intc)
