"""Recomputes the tables of kernels/README.md. Run this file to print them.

Letters: E patch edge, t patches, n tokens, D features, H heads, F hidden features, L blocks; a is
the bytes of one tile's activations (n, D) in bf16.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

README = Path(__file__).parents[2] / "kernels" / "README.md"

T, E, D, H, F, L = 224, 16, 384, 6, 1536, 12
t = (T // E) ** 2
n = t + 1
a = 2 * n * D

PEAK = (3.35e12, 990e12)  # data sheet of the H100 SXM: bytes/s, dense bf16 FLOP/s
REACHED = (3.0e12, 800e12)  # measured on an H100: copy; 8192^3 matrix product


# One kernel is (FLOP, bytes). FLOP are those of matrix products; a multiply-add counts as two.
PATCH_EMBED = (2 * t * E * E * D, 2 * T * T + a)
QKV = (2 * n * D * 3 * D, 4 * a)
ATTENTION = (2 * 2 * n * n * D, 4 * a)
PROJ = (2 * n * D * D, 2 * a)
FC1 = (2 * n * D * F, 5 * a)
FC2 = (2 * n * F * D, 5 * a)
NORM = (0, 2 * a)
ADD = (0, 3 * a)
GELU = (0, 8 * a)


def joined(*kernels: tuple[int, int], saved: int) -> tuple[int, int]:
    """Several kernels as one that leaves out `saved` bytes of traffic between them."""
    return sum(k[0] for k in kernels), sum(k[1] for k in kernels) - saved


BLOCKS = {
    "every op a kernel": [NORM, QKV, ATTENTION, PROJ, ADD, NORM, FC1, GELU, FC2, ADD],
    "bias, GELU and residual in the matrix products": [
        NORM,
        QKV,
        ATTENTION,
        joined(PROJ, ADD, saved=2 * a),
        NORM,
        joined(FC1, GELU, saved=8 * a),
        joined(FC2, ADD, saved=2 * a),
    ],
    "also norm with qkv and with fc1": [
        joined(NORM, QKV, saved=2 * a),
        ATTENTION,
        joined(PROJ, ADD, saved=2 * a),
        joined(NORM, FC1, GELU, saved=2 * a + 8 * a),
        joined(FC2, ADD, saved=2 * a),
    ],
    "also norm with qkv; norm, MLP and residual in one": [
        joined(NORM, QKV, saved=2 * a),
        ATTENTION,
        joined(PROJ, ADD, saved=2 * a),
        joined(NORM, FC1, GELU, FC2, ADD, saved=2 * a + 8 * a + 8 * a + 2 * a + a),
    ],
    "engine fused: bias and GELU in the products, residual with the next norm": [
        QKV,
        ATTENTION,
        PROJ,
        joined(ADD, NORM, saved=a),
        joined(FC1, GELU, saved=8 * a),
        FC2,
        joined(ADD, NORM, saved=a),
    ],
}

# The last block for the class token alone, without keys and values: the norm of all tokens, their
# scores and weighted means, and products of one token.
LAST = [NORM, (2 * 2 * H * n * D, 2 * a), (2 * D * 4 * D + 4 * D * F, 0)]


def network(block: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [PATCH_EMBED, *block * (L - 1), *LAST]


def floor_us(kernels: list[tuple[int, int]], rates: tuple[float, float]) -> float:
    """Each kernel takes the longer of its bytes and its FLOP; one runs after the other."""
    return 1e6 * sum(max(size / rates[0], flop / rates[1]) for flop, size in kernels)


def flop_rows() -> list[str]:
    full = [QKV, ATTENTION, PROJ, (FC1[0] + FC2[0], 0)]
    block = sum(flop for flop, _ in full)
    last = sum(flop for flop, _ in LAST)
    rows = [
        ("patch embedding", "2 t E² D", PATCH_EMBED[0]),
        ("qkv", "6 n D²", QKV[0]),
        ("attention", "4 n² D", ATTENTION[0]),
        ("projection", "2 n D²", PROJ[0]),
        ("fc1 and fc2", "4 n D F", FC1[0] + FC2[0]),
        ("one block", "8 n D² + 4 n² D + 4 n D F", block),
        ("last block, class token", "8 D² + 4 H n D + 4 D F", last),
        ("12 full blocks", "with the patch embedding", PATCH_EMBED[0] + L * block),
        (
            "11 full blocks and the last",
            "with the patch embedding",
            PATCH_EMBED[0] + (L - 1) * block + last,
        ),
    ]
    return [f"| {name} | {formula} | {flop / 1e6:,.1f} |" for name, formula, flop in rows]


def network_rows() -> list[str]:
    rows = []
    for name, block in BLOCKS.items():
        kernels = network(block)
        size = sum(size for _, size in kernels)
        peak, reached = floor_us(kernels, PEAK), floor_us(kernels, REACHED)
        per_block = sum(size for _, size in block) / a
        rows.append(
            f"| {name} | {len(kernels)} | {per_block:.0f} a | {size / 1e6:.1f} | {peak:.1f} |"
            f" {reached:.1f} | {1e6 / reached:,.0f} |"
        )
    flop = sum(flop for flop, _ in network(BLOCKS["every op a kernel"]))
    peak, reached = flop / PEAK[1] * 1e6, flop / REACHED[1] * 1e6
    rows.append(f"| arithmetic alone | | | | {peak:.1f} | {reached:.1f} | {1e6 / reached:,.0f} |")
    return rows


def op_rows() -> list[str]:
    plane = 2 * 1080 * 1080
    tile = T * T
    # float64, subtract, divide, clamp, float32, bf16, patches: read + written, bytes a pixel
    steps = (2 + 8) + 3 * (8 + 8) + (8 + 4) + (4 + 2) + (2 + 2)
    rows = [
        ("`tile_normalize`, u16 to bf16", "a tile", (2 + 2) * tile, steps * tile),
        ("`tile_normalize`, u8 to bf16", "a tile", (1 + 2) * tile, (steps - 1) * tile),
        # pixels once; 256 counts, and as many at two ranks of two percentiles, zeroed and read
        ("`intensity_range`, u16", "a plane", plane + 2 * 4 * 256 * (1 + 4), None),
        # float32, comparison to bytes, sum
        ("`tile_signal`, u16", "a tile", 2 * tile, ((2 + 4) + (4 + 1) + 1) * tile),
        # abs, amax, divide, clamp, cast of float32 -> e4m3
        (
            "`quantize_rows`, float32",
            "a tile",
            n * ((4 + 1) * D + 4),
            n * D * (8 + 4 + 8 + 8 + (4 + 1)),
        ),
        # both to float32, sum, copy into the stream, norm, cast
        (
            "`add_norm`, float16 and bf16",
            "a tile",
            n * D * (2 + 2 + 2 + 2),
            n * D * (6 + 6 + 12 + 6 + 8 + 6),
        ),
        # float64 copy of the kept, mean
        ("`segment_mean`, float32", "a tile", 4 * D, (4 + 4 + 4 + 8 + 8) * D),
    ]
    found = []
    for name, per, fused, unfused in rows:
        torch_kb = "" if unfused is None else f"{unfused / 1e3:,.1f}"
        time = 1e6 * fused / PEAK[0]
        found.append(f"| {name} | {per} | {fused / 1e3:,.1f} | {torch_kb} | {time:.4f} |")
    return found


TABLES = flop_rows() + network_rows() + op_rows()


@pytest.mark.parametrize("row", TABLES)
def test_readme_says_what_the_formulas_give(row):
    assert row in README.read_text().splitlines()


def test_readme_concludes_what_the_formulas_give():
    every, fused, norms, joint, _ = (floor_us(network(block), REACHED) for block in BLOCKS.values())
    text = " ".join(README.read_text().split())
    assert f"is worth up to {every / fused:.2f} times" in text
    assert f"another {fused / joint:.2f} times at most; norms alone {fused / norms:.2f}" in text
    _, one_by_one, with_norms, in_one, _ = BLOCKS.values()
    qkv = floor_us([NORM, QKV], REACHED) / floor_us(with_norms[:1], REACHED)
    mlp = floor_us(one_by_one[-3:], REACHED) / floor_us(in_one[-1:], REACHED)
    assert f"could gain {qkv:.2f} times for qkv and `mlp` {mlp:.2f} times" in text
    assert f"all weights ({4 * D * F / 1e6:.2f} MB)" in text
    assert f"128 rows need {REACHED[1] / 128 / 1e12:.2f} TB/s" in text
    steps = [n * D * 33 / REACHED[0], n * (5 * D + 4) / REACHED[0], QKV[0] / REACHED[1] / 2]
    assert (
        "{:.2f} µs a tile in torch's steps, {:.2f} in the kernel; {:.2f} is what".format(
            *(1e6 * one for one in steps)
        )
        in text
    )
    assert f"`a` = 2 n D bytes = {a / 1e3:.0f} kB" in text


def test_matrix_products_are_those_that_torch_counts():
    """Oracle of the FLOP table: torch's own counter, on one block at these sizes."""
    from torch.nn import functional
    from torch.utils.flop_counter import FlopCounterMode

    x = torch.zeros(1, n, D, device="meta")
    q = torch.zeros(1, 6, n, D // 6, device="meta")
    with FlopCounterMode(display=False) as counter:
        functional.linear(torch.zeros(1, t, E * E, device="meta"), x.new_zeros(D, E * E))
        functional.linear(x, x.new_zeros(3 * D, D))
        (q @ q.mT) @ q
        functional.linear(x, x.new_zeros(D, D))
        functional.linear(functional.linear(x, x.new_zeros(F, D)), x.new_zeros(D, F))
    wanted = sum(k[0] for k in (PATCH_EMBED, QKV, ATTENTION, PROJ, FC1, FC2))
    assert counter.get_total_flops() == wanted


if __name__ == "__main__":
    print("\n".join([*flop_rows(), "", *network_rows(), "", *op_rows()]))
