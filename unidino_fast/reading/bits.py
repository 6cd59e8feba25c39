"""Pixels whose bits stand apart, put together in the vectors of this processor.

Where bits are shuffled (by blosc), the lowest bits of all pixels follow one another, then those of
the next place: 16 rows. What makes loops of vectors for numba does not see that their bytes could
change places within one, so the steps are spelled out here. Where a processor multiplies matrices
of 8 x 8 bits (GFNI), they take a third of the time that such loops do, elsewhere as long.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.extending import intrinsic

from unidino_fast.compiled import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]

_BYTE = ir.IntType(8)
_BYTE_BITS, _PIXEL_BYTES, _PIXEL_BITS = 8, 2, 16
_LANE = 16
"""Bytes of the parts of a vector between which most processors move nothing in one step."""
_IDENTITY = (1, 2, 4, 8, 16, 32, 64, 128)
"""A square of 8 x 8 bits: those of the diagonal are set."""
_STEPS = (7, 0x00AA00AA00AA00AA), (14, 0x0000CCCC0000CCCC), (28, 0x00000000F0F0F0F0)
"""How far apart bits of such a square are that change places, and which of them, by a mask."""


def _features() -> set[str]:
    """What this processor has, of which something is made here, and compiled code may use."""
    chosen: Any = numba.config
    if chosen.CPU_NAME or chosen.CPU_FEATURES or not chosen.ENABLE_AVX:
        return set()  # someone has said what may be used
    try:
        found = get_host_cpu_features()
    except RuntimeError:  # of processors that it does not know
        return set()
    return {name for name in ("avx2", "gfni") if found.get(name)}


_FEATURES = _features()
_WIDTH = 32 if "avx2" in _FEATURES else 16
"""Bytes of a vector. Twice as many take as long: one part of a core moves bytes within them."""
STEP = _BYTE_BITS * _WIDTH
"""Pixels that `join` puts together."""


# what is here is kept with what is compiled of `decoders`: a change is to touch that file
@compiled
def join_all(shuffled: Bytes, pixels: NDArray[np.uint16], words: NDArray[np.uint64]) -> None:
    """Puts pixels together, a multiple of eight.

    Args:
        shuffled: 16 rows of their bits.
        pixels: takes them.
        words: 128, for use here: rows and pixels of what is left by whole steps.
    """
    row_bytes = pixels.size // _BYTE_BITS
    n_whole = pixels.size // STEP * STEP
    for first in range(0, n_whole, STEP):
        source = shuffled.ctypes.data + first // _BYTE_BITS
        join(source, row_bytes, pixels.ctypes.data + _PIXEL_BYTES * first)
    left = pixels[n_whole:]
    if left.size:
        step_bytes = STEP // _BYTE_BITS
        padded = words.view(np.uint8)[: _PIXEL_BITS * step_bytes]
        joined = words.view(np.uint16)[STEP : 2 * STEP]
        for row in range(_PIXEL_BITS):
            at = row * row_bytes + n_whole // _BYTE_BITS
            for i in range(left.size // _BYTE_BITS):
                padded[row * step_bytes + i] = shuffled[at + i]
        join(padded.ctypes.data, step_bytes, joined.ctypes.data)
        left[:] = joined[: left.size]


def _join(_: Any, source: Any, row_bytes: Any, target: Any) -> Any:
    def lowered(context: Any, builder: Any, _: Any, given: Any) -> Any:
        _lower(builder, *given)
        return context.get_dummy_value()

    return types.void(source, row_bytes, target), lowered


join: Any = intrinsic(_join)
"""`join(source, row_bytes, target)` puts together `STEP` pixels of two bytes; all are addresses or
numbers of 64 bits. Of 16 rows of bits, each `row_bytes` behind the last, it takes `STEP` / 8 bytes
each, and writes `STEP` pixels. They may stand anywhere."""


def _lower(builder: Any, source: Any, row_bytes: Any, target: Any) -> None:
    """A vector of each row; what follows leaves its bytes in order within lanes."""
    vector = ir.VectorType(_BYTE, _WIDTH).as_pointer()
    lanes = _WIDTH // _LANE
    places = [lanes * i + lane for lane in range(lanes) for i in range(_LANE)]
    rows = []
    for number in range(_PIXEL_BITS):
        at = builder.add(source, builder.mul(row_bytes, ir.Constant(row_bytes.type, number)))
        row = builder.load(builder.inttoptr(at, vector), align=1)
        rows.append(_shuffled(builder, row, row, places))
    low, high = (_joined(builder, own) for own in (rows[:_BYTE_BITS], rows[_BYTE_BITS:]))
    halves = [_woven(builder, *pair, 1) for pair in zip(low, high, strict=True)]
    for number, own in enumerate(chain.from_iterable(halves)):
        at = builder.add(target, ir.Constant(target.type, _WIDTH * number))
        builder.store(own, builder.inttoptr(at, vector), align=1)


def _joined(builder: Any, rows: list[Any]) -> list[Any]:
    """Eight rows of bits -> vectors, in order, of the bytes that the bits of a column make."""
    if {"avx2", "gfni"} <= _FEATURES:
        return [_turned_at_once(builder, one) for one in _columns(builder, rows[::-1], 1)]
    return [_turned(builder, one) for one in _columns(builder, rows, 1)]


def _columns(builder: Any, rows: list[Any], size: int) -> list[Any]:
    """Elements of so many bytes that stand below one another -> side by side, in order."""
    if len(rows) == 1:
        return rows
    pairs = zip(rows[::2], rows[1::2], strict=True)
    halves = [_woven(builder, one, other, size) for one, other in pairs]
    left, right = [list(half) for half in zip(*halves, strict=True)]
    return _columns(builder, left, 2 * size) + _columns(builder, right, 2 * size)


def _woven(builder: Any, one: Any, other: Any, size: int) -> tuple[Any, Any]:
    """Elements of so many bytes in turns: those of the left half of each lane, of the right."""
    n, half = _WIDTH // size, _LANE // size // 2
    kind = ir.VectorType(ir.IntType(_BYTE_BITS * size), n)
    vectors = [builder.bitcast(vector, kind) for vector in (one, other)]
    halves = []
    for start in (0, half):
        lanes = range(start, n, 2 * half)
        places = [lane + i + of for lane in lanes for i in range(half) for of in (0, n)]
        woven = _shuffled(builder, vectors[0], vectors[1], places)
        halves.append(builder.bitcast(woven, one.type))
    return halves[0], halves[1]


def _shuffled(builder: Any, one: Any, other: Any, places: list[int]) -> Any:
    kind = ir.VectorType(ir.IntType(32), len(places))
    return builder.shuffle_vector(one, other, ir.Constant(kind, places))


def _turned(builder: Any, squares: Any) -> Any:
    """Squares of 8 x 8 bits about the diagonal: ever larger ones change places.

    (Hacker's Delight, 7-3.)
    """
    kind = ir.VectorType(ir.IntType(64), _WIDTH // 8)
    x = builder.bitcast(squares, kind)
    for bits, mask in _STEPS:
        by, chosen = (ir.Constant(kind, [number] * (_WIDTH // 8)) for number in (bits, mask))
        t = builder.and_(builder.xor(x, builder.lshr(x, by)), chosen)
        x = builder.xor(x, builder.xor(t, builder.shl(t, by)))
    return builder.bitcast(x, squares.type)


def _turned_at_once(builder: Any, squares: Any) -> Any:
    """As `_turned`, of squares whose rows are counted from the last: a product of matrices."""
    kind = ir.FunctionType(squares.type, [squares.type, squares.type, _BYTE])
    name = f"llvm.x86.vgf2p8affineqb.{_BYTE_BITS * _WIDTH}"
    product = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    identity = ir.Constant(squares.type, [*_IDENTITY] * (_WIDTH // 8))
    return builder.call(product, [identity, squares, ir.Constant(_BYTE, 0)])
