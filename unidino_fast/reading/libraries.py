"""Functions of other libraries, as compiled code calls them.

What was compiled and kept on disk is linked to them by the names that they are given here.
"""

from __future__ import annotations

import ctypes
import importlib
from typing import Any

from llvmlite import ir
from llvmlite.binding import add_symbol
from numba import types
from numba.extending import intrinsic


def _library(module: str) -> Any:
    """A compiled module as a library: it holds the one that it wraps."""
    return ctypes.CDLL(importlib.import_module(module).__file__)


def _linked(name: str, function: Any, result: Any, *arguments: Any) -> Any:
    """A function by a name, which stays the same whatever stands behind it."""
    name = f"unidino_fast_{name}"
    add_symbol(name, ctypes.cast(function, ctypes.c_void_p).value)
    return types.ExternalFunction(name, result(*arguments))


# is kept with what is compiled of `decoders`: a change here is to touch that file
def _tell(_: Any, function: Any, state: Any, plane: Any, first: Any, n: Any, found: Any) -> Any:
    arguments = function, state, plane, first, n, found

    def lowered(context: Any, builder: Any, _: Any, given: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * (len(given) - 1))
        builder.call(builder.inttoptr(given[0], kind.as_pointer()), given[1:])
        return context.get_dummy_value()

    return types.void(*arguments), lowered


tell: Any = intrinsic(_tell)
"""Calls the function of a `Watcher` by its address; all arguments are numbers of 64 bits."""
_ADDRESS, _SIZE = types.intp, types.intp

_lz4, _zstd = _library("numcodecs.lz4"), _library("numcodecs.zstd")
lz4_decompress = _linked(
    "lz4", _lz4.LZ4_decompress_safe, types.intc, _ADDRESS, _ADDRESS, types.intc, types.intc
)
zstd_decompress = _linked(
    "zstd",
    _zstd.ZSTD_decompressDCtx,
    types.uintp,
    *(_ADDRESS, _ADDRESS, _SIZE, _ADDRESS, _SIZE),
)
zstd_size = _linked("zstd_size", _zstd.ZSTD_getFrameContentSize, types.uint64, _ADDRESS, _SIZE)

_xxhash = _library("xxhash._xxhash")
xxh3_reset = _linked("xxh3_reset", _xxhash.XXH3_64bits_reset, types.intc, _ADDRESS)
xxh3_update = _linked(
    "xxh3_update",
    # the first, where there is one, takes the widest vectors of the processor
    getattr(_xxhash, "XXH3_64bits_update_dispatch", None) or _xxhash.XXH3_64bits_update,
    types.intc,
    *(_ADDRESS, _ADDRESS, _SIZE),
)
xxh3_digest = _linked("xxh3_digest", _xxhash.XXH3_64bits_digest, types.uint64, _ADDRESS)

_files = ctypes.CDLL(None)
open_file = _linked("open", _files.open, types.intc, _ADDRESS, types.intc)
read_at = _linked("pread", _files.pread, types.intp, types.intc, _ADDRESS, _SIZE, types.int64)
close_file = _linked("close", _files.close, types.intc, types.intc)
