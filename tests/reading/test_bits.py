"""Bits that are joined, against a loop over them, by the vectors of several processors."""

from __future__ import annotations

import numpy as np
import pytest
from llvmlite.binding import get_host_cpu_features
from numba import njit

from unidino_fast.reading import bits

HOST = get_host_cpu_features()
PROCESSORS = [set(), {"avx2"}, {"gfni"}, {"avx2", "gfni"}]


def runs_here(features: set[str]) -> bool:
    """Any processor takes wide vectors in parts; a product of bits is a step of its own."""
    return not features >= {"avx2", "gfni"} or all(HOST.get(name) for name in features)


def one_by_one(rows: np.ndarray, n_pixels: int) -> list[int]:
    """Rows of bits (16, B) -> pixels, bit by bit."""
    pixels = []
    for number in range(n_pixels):
        byte, bit = divmod(number, 8)
        pixels.append(sum((int(row[byte]) >> bit & 1) << place for place, row in enumerate(rows)))
    return pixels


@pytest.mark.parametrize("features", PROCESSORS, ids=lambda names: "+".join(sorted(names)) or "any")
@pytest.mark.parametrize("shift", [0, 3])
def test_pixels_are_those_of_a_loop_over_their_bits(
    features: set[str], shift: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not runs_here(features):
        pytest.skip("this processor has no such step")
    width = 32 if "avx2" in features else 16
    monkeypatch.setattr(bits, "_FEATURES", features)
    monkeypatch.setattr(bits, "_WIDTH", width)

    @njit
    def joined(source: int, row_bytes: int, target: int) -> None:
        bits.join(source, row_bytes, target)

    row_bytes = width + 5
    stored = np.random.default_rng(0).integers(0, 256, shift + 16 * row_bytes, np.uint8)
    out = np.full(shift + 16 * width + 8, 0xA5, np.uint8)
    joined(stored.ctypes.data + shift, row_bytes, out.ctypes.data + shift)
    rows = stored[shift:].reshape(16, row_bytes)
    found = out[shift:-8].copy().view("<u2")
    assert found.tolist() == one_by_one(rows, 8 * width)
    assert (out[:shift] == 0xA5).all()
    assert (out[-8:] == 0xA5).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [("CPU_NAME", "x86-64"), ("CPU_FEATURES", "+sse2"), ("ENABLE_AVX", 0)],
)
def test_what_someone_has_chosen_for_numba_holds_here(
    name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bits, "get_host_cpu_features", lambda: {"avx2": True, "gfni": True})
    assert bits._features() == {"avx2", "gfni"}
    monkeypatch.setattr(bits.numba.config, name, value)
    assert bits._features() == set()


def test_a_processor_that_is_not_known_has_what_all_have(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> None:
        raise RuntimeError

    monkeypatch.setattr(bits, "get_host_cpu_features", unknown)
    assert bits._features() == set()
